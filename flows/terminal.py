"""What a person sees while stages run: a heading for each, its lines, its state and how long it took."""

import os
import sys

from flows.dvc_process import Line
from trainwright.core.errors import printable

INDENT = "    "


class Terminal:
    """Plain lines; on a terminal, progress bars stand on one line that the next overwrites."""

    def __init__(self) -> None:
        self._tty = sys.stdout.isatty()
        self._open = False  # whether the cursor stands after a transient line

    def heading(self, text: str) -> None:
        text = printable(text)
        self._print(f"\033[1m{text}\033[0m" if self._tty else text)

    def output(self, line: Line) -> None:
        """A line of a stage's output. Transient lines are for the eye alone: elsewhere they are left out."""
        if not line.transient:
            self._print(INDENT + printable(line.text))
        elif self._tty and line.text:
            sys.stdout.write(f"\r\033[K{INDENT}{printable(line.text)}")
            sys.stdout.flush()
            self._open = True

    def note(self, text: str) -> None:
        for line in text.rstrip("\n").split("\n") if text else ():
            self._print((INDENT + printable(line)).rstrip())

    def say(self, text: str = "") -> None:
        self._print(printable(text, lines=True))

    def _print(self, text: str) -> None:
        start = "\r\033[K" if self._open else ""
        self._open = False
        try:
            print(start + text, flush=True)
        except BrokenPipeError:  # who read along has gone: `| head`, a log's reader that was killed; the work has not
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration(seconds: float) -> str:
    """Seconds as a person says them: "0.4 s", "12 s", "3 min 5 s", "2 h 4 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
