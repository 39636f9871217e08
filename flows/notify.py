"""Telling people what came of a run, by the notification blocks that they saved on the Prefect server.

Where they point to (a Slack URL, a mail account) is a secret of the server's: params.yaml names blocks alone, and what
is logged of one that fails is its name and the kind of error, whose words may hold the URL.
"""

import asyncio
import inspect
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from trainwright.operations import Event, Running

if TYPE_CHECKING:
    from logging import Logger, LoggerAdapter


def notify(running: Running, event: Event, name: str, text: str) -> None:
    """Tell those of `notifications` in params.yaml that want to hear of `event` of the pipeline `name`.

    A block that is not there or cannot be reached is logged, and nothing more: what came of the run stays so.
    """
    for notification in running.notifications:
        if event in notification.events:
            try:
                _send(notification.block, f"{name}: {event}", text)
            except Exception as error:  # every block has libraries, and exceptions, of its own
                _logger().warning("not told of it: %s (%s)", notification.block, type(error).__name__)


def _send(slug: str, subject: str, body: str) -> None:
    import prefect.blocks.notifications  # noqa: F401  it registers the kinds of blocks
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block

    block = Block.load(slug, _sync=True)  # type: ignore[call-arg]
    if not isinstance(block, NotificationBlock):
        raise TypeError(f"{slug} is no notification block")
    with block.raise_on_failure():
        told = block.notify(body, subject)
        if inspect.isawaitable(told):  # Prefect's own blocks have sent it by now; those of others may be async
            asyncio.run(told)


def _logger() -> "Logger | LoggerAdapter[Logger]":
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    with suppress(MissingContextError):
        return get_run_logger()
    return logging.getLogger(__name__)
