"""Where the command begins: an interrupt ends it in peace, from the first import on."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> Any:
    """The console script. While the command line is imported an interrupt can't be raised as one: libraries would take
    it for an error of theirs, or print where they were."""
    heard = signal.getsignal(signal.SIGINT)
    if heard != signal.SIG_IGN:  # as a shell starts what it runs in the background
        signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    from edgecompile.cli import main as command_line

    return command_line(arguments)


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
