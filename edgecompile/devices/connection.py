"""What a board needs of whatever leads to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgecompile.devices.base import Process
from edgecompile.errors import DeviceError

Report = Callable[[int, int], None]


class Connection(Protocol):
    """Open until `close`. Errors: DeviceError and its like, never those of the library or tool that does the work."""

    def exec(self, argv: Sequence[str]) -> Process:
        """Start a command; the board's shell sees each word quoted."""
        ...

    def put(self, path: Path, remote: PurePosixPath, report: Report = ...) -> None:
        """Send a file, checked by its SHA-256. `report`: called with (bytes there, bytes in all)."""
        ...

    def get(self, remote: PurePosixPath, path: Path) -> None: ...

    def has(self, remote: PurePosixPath, size: int) -> bool:
        """Whether a file of that many bytes is there."""
        ...

    def forward(self, port: int) -> int:
        """A port of this machine that leads to one of the board's own."""
        ...

    def close(self) -> None: ...


_QUIET = 600.0  # seconds: to unpack a runtime onto a slow card takes its time


def output(connection: Connection, where: str, argv: Sequence[str], quiet: float = _QUIET) -> str:
    """stdout of a command that ends by itself; DeviceError where it fails, or says nothing for `quiet` seconds. On an
    interrupt its stdin is closed."""
    process = connection.exec(argv)
    try:
        lines = list(process.lines(quiet))
        if (status := process.wait()) != 0:
            what = f"exit status {status}" if status >= 0 else f"signal {-status}"
            raise DeviceError(f"{argv[0]} on {where} ended with {what}:\n{process.errors}")
        return "\n".join(lines)
    finally:
        process.kill()
