"""A board behind adb, Android's debug bridge: `adb` itself does the work, on this machine's PATH."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgecompile.artifact import sha256_file
from edgecompile.errors import ConnectionFailedError, DeviceError, MissingDependencyError

if TYPE_CHECKING:
    from edgecompile.devices.connection import Report
    from edgecompile.devices.local import LocalProcess

SCHEME = "adb://"
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_SECONDS = 60


def serial(url: str) -> str:
    """Of adb://SERIAL; DeviceError for anything else."""
    name = url[len(SCHEME) :]
    if not url.startswith(SCHEME) or not _SERIAL.fullmatch(name):
        raise DeviceError(f"{url!r} is no address of a board", hint="adb://SERIAL, as `adb devices` lists it")
    return name


class AdbConnection:
    def __init__(self, url: str) -> None:
        """Errors: MissingDependencyError without adb, ConnectionFailedError where the device doesn't answer."""
        self._serial, self._forwarded = serial(url), list[int]()
        if shutil.which("adb") is None:
            raise MissingDependencyError(f"{url} needs adb, which is not on the PATH", hint="apt install adb")
        state = self._adb("get-state", failed=f"{url} can't be reached")
        if state != "device":
            raise ConnectionFailedError(f"{url} is {state!r}, expected 'device'", hint="see `adb devices`")

    def close(self) -> None:
        for port in self._forwarded:
            self._adb("forward", "--remove", f"tcp:{port}", failed="a forwarded port can't be given back")

    def exec(self, argv: Sequence[str]) -> LocalProcess:
        from edgecompile.devices.local import LocalProcess

        return LocalProcess(["adb", "-s", self._serial, "shell", "-T", shlex.join(argv)])

    def put(self, path: Path, remote: PurePosixPath, report: Report = lambda *_: None) -> None:
        """Send a file, whole or not at all. What was cut starts anew: adb can't go on with a part of a file."""
        size, part = path.stat().st_size, f"{remote}.part"
        self._shell("mkdir", "-p", str(remote.parent))
        self._adb("push", str(path), part, failed=f"copying {path.name} to {self._serial} failed")
        if self._digest(part) != sha256_file(path):
            self._shell("rm", "-f", part)
            raise DeviceError(f"{path.name} arrived changed on {self._serial}", hint="look at the board's storage")
        self._shell("mv", part, str(remote))
        report(size, size)

    def get(self, remote: PurePosixPath, path: Path) -> None:
        """Bring a file here, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        try:
            self._adb("pull", str(remote), str(part), failed=f"copying {remote.name} from {self._serial} failed")
            if self._digest(str(remote)) != sha256_file(part):
                raise DeviceError(
                    f"{remote.name} arrived changed from {self._serial}", hint="look at the board's storage"
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)  # adb can't go on with it

    def has(self, remote: PurePosixPath, size: int) -> bool:
        quoted = shlex.quote(str(remote))
        found = self._shell("sh", "-c", f"if [ -f {quoted} ]; then stat -c %s {quoted}; fi")
        return found == str(size)

    def forward(self, port: int) -> int:
        here = int(self._adb("forward", "tcp:0", f"tcp:{port}", failed=f"port {port} can't be forwarded"))
        self._forwarded.append(here)
        return here

    def _digest(self, remote: str) -> str:
        return self._shell("sha256sum", remote).split()[0]

    def _shell(self, *words: str) -> str:
        return self._adb("shell", "-T", shlex.join(words), failed=f"{words[0]} on {self._serial} failed")

    def _adb(self, *words: str, failed: str) -> str:
        try:
            done = subprocess.run(
                ["adb", "-s", self._serial, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=None if words[0] in ("push", "pull") else _SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConnectionFailedError(f"{failed}: no answer in {_SECONDS} s", hint="see `adb devices`") from None
        if done.returncode:
            reason = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            kind = ConnectionFailedError if "device" in reason and "not found" in reason else DeviceError
            raise kind(f"{failed}: {reason}", hint="see `adb devices`")
        return done.stdout.strip()
