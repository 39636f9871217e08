"""Prefect's API: the one that PREFECT_API_URL names, or, for as long as a command runs, one of our own.

Prefect would start its embedded server itself, but only once it is asked, and would leave it running when the
command is killed. Ours starts while other things are still being read, listens on a socket that was open before
it, answers only who knows this run's password, and dies with the command.
"""

import atexit
import base64
import gc
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path

from trainwright.core import process
from trainwright.core.errors import Fault, InputError, MachineryError

START = "start one with `prefect server start` and the settings of deploy/server.env"
ANSWER = 10  # seconds that a server has for its first answer
STARTING = 60  # seconds that commands which start with the machine, as the server does, wait for it
CLOCKS = 30  # seconds that two may differ; heartbeats bear the time of their machine, and the server judges by its own
LOOKS, RENEWED = 3, 2  # times that a clock is looked at, and seconds in which a server's answers have a newer time
DEADLINE = 180  # seconds; a first start on a slow machine makes the database
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the flow says on the terminal what a person wants to see
    "PREFECT_CLI_PROMPT": "false",
}
FIXED = {
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # a pickle would be code of whoever can write results
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; a run that is silent for twice as long has died
}
EMBEDDED = {"PREFECT_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


def settle(home: Path) -> None:
    """Set in the environment what Prefect reads when it is imported; `home` is the project that keeps its files.

    What is FIXED holds whatever was set: a run that beats at Prefect's own pace would be ended as dead.
    """
    os.environ.setdefault("PREFECT_HOME", str(home / ".trainwright" / "prefect"))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.update(FIXED)


def missing(labels: Collection[str], remedy: str = "") -> Fault:
    """Return the fault of a pipeline whose stages go to workers while PREFECT_API_URL names no server."""
    stages = f"stages are sent to {', '.join(sorted(labels))}, whose workers a Prefect server tells of them"
    start = f"{START[0].upper()}{START[1:]}, then `export PREFECT_API_URL=http://127.0.0.1:4200/api`"
    reason = f"{stages}, and PREFECT_API_URL is not set"
    return Fault("params.yaml", reason, f"{start}{remedy}.", field="dispatch")


def required(home: Path | None = None, patience: float = 0) -> str:
    """The API of the server that PREFECT_API_URL names, once it has answered. Call it before anything imports prefect.

    `home` is the project whose folder Prefect keeps its files in. A server that is only starting is waited for, up to
    `patience` seconds. Raises InputError where no server is named or the password is not its own, MachineryError where
    nothing answers.
    """
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url:
        remedy = "Then `export PREFECT_API_URL=http://127.0.0.1:4200/api`: docs/operations.md has the commands."
        raise InputError(Fault("PREFECT_API_URL unset", START, remedy))
    if home:
        settle(home)
    deadline = time.monotonic() + patience
    while True:
        try:
            urllib.request.urlopen(_asking(f"{url}/admin/version"), timeout=ANSWER).close()
            return url
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                remedy = "Set it to what PREFECT_SERVER_API_AUTH_STRING is on the server."
                reason = "is not the server's password" if os.environ.get("PREFECT_API_AUTH_STRING") else "is unset"
                raise InputError(Fault("PREFECT_API_AUTH_STRING", reason, remedy)) from None
            raise MachineryError(f"{url} answers, but not as Prefect's API: HTTP {error.code}") from None
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or time.monotonic() >= deadline:
                raise MachineryError(f"No Prefect server answers at {url}: {error}. Is it running?") from None
            if patience:
                print(f"waiting for the Prefect server at {url}", file=sys.stderr, flush=True)
            patience = 0  # it is said once
            time.sleep(0.5)


def run_state(run: str) -> str:
    """The type of a flow run's state ("RUNNING"); empty where the server does not say."""
    try:
        with urllib.request.urlopen(
            _asking(f"{os.environ['PREFECT_API_URL']}/flow_runs/{run}"), timeout=ANSWER
        ) as told:
            return str((json.load(told).get("state") or {}).get("type", ""))
    except (OSError, ValueError, KeyError, HTTPException):
        return ""


def clock() -> Fault | None:
    """What is wrong with this machine's clock, held against the server's; None too where that does not say.

    A worker takes what is due by its own clock, and the server ends a run whose heartbeats seem old by its own.

    A server that stood still tells at first the time at which it did, since it looks at its clock once a second: it
    has to be wrong each of several times.
    """
    url = os.environ["PREFECT_API_URL"]
    for again in range(LOOKS):
        if again:
            time.sleep(RENEWED)
        try:
            with urllib.request.urlopen(_asking(f"{url}/health"), timeout=ANSWER) as answer:
                off = (datetime.now(UTC) - parsedate_to_datetime(answer.headers["Date"])).total_seconds()
        except (OSError, ValueError, TypeError, HTTPException):
            return None
        if abs(off) <= CLOCKS:
            return None
    reason = f"this machine's clock is {abs(off):.0f} s {'behind' if off < 0 else 'ahead of'} the server's ({url})"
    return Fault("clock", reason, "Set both by one time service (NTP): runs are due, and found dead, by these clocks.")


@contextmanager
def answering() -> Iterator[None]:
    """Say it in words where the server goes silent while the block runs. Raises MachineryError then.

    Prefect tries each of its calls again for a minute (PREFECT_CLIENT_MAX_RETRIES) before it gives up.
    """
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise
        words = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
        url = os.environ.get("PREFECT_API_URL", "")
        raise MachineryError(f"The Prefect server at {url} does not answer any more ({words})") from None


def _asking(url: str) -> urllib.request.Request:
    password = os.environ.get("PREFECT_API_AUTH_STRING")
    coded = base64.b64encode(password.encode()).decode() if password else ""
    return urllib.request.Request(url, headers={"Authorization": f"Basic {coded}"} if coded else {})


def embedded() -> bool:
    """Whether this process runs under a server of its own, which nobody else can see."""
    return Server.started


class Server:
    """Prefect's API, made ready for this process. Make it in the main thread, before anything imports prefect."""

    started = False

    def __init__(self, root: Path) -> None:
        settle(root)
        self._child: subprocess.Popen[bytes] | None = None
        if os.environ.get("PREFECT_API_URL"):
            required()
            if wrong := clock():
                raise InputError(wrong)
        else:
            self._start(Path(os.environ["PREFECT_HOME"]))

    def _start(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._log = home / "server.log"
        with socket.socket() as door, self._log.open("wb") as log:
            door.bind(("127.0.0.1", 0))
            door.listen(128)
            password = secrets.token_urlsafe()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "flows.server", str(os.getpid()), str(door.fileno())],
                env={**os.environ, **EMBEDDED, "PREFECT_SERVER_API_AUTH_STRING": password},
                pass_fds=[door.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle
            )
            for name in ("NO_PROXY", "no_proxy"):  # a proxy knows nothing of a server on this machine
                os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
            os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{door.getsockname()[1]}/api"
            os.environ["PREFECT_API_AUTH_STRING"] = password
        Server.started = True
        # Registered before Prefect registers its own last acts, so it comes after them: they need the server.
        atexit.register(self._stop)

    def ready(self) -> None:
        """Wait until the embedded server answers. Raises MachineryError when it ends or stays silent."""
        deadline = time.monotonic() + DEADLINE
        while self._child is not None:
            try:
                urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5).close()
                return
            except (OSError, urllib.error.URLError):
                if self._child.poll() is not None or time.monotonic() > deadline:
                    raise MachineryError(f"Prefect's server did not start: see {self._log}") from None

    def _stop(self) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def main() -> None:
    """The server's process: the parent's id and the listening socket are its arguments."""
    process.die_with_parent(signal.SIGKILL, int(sys.argv[1]))
    gc.disable()  # a fifth of the start would go into looking for garbage that imports do not make
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(), log_level="error", lifespan="on")
    gc.freeze()
    gc.enable()
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[2]))])


if __name__ == "__main__":
    main()
