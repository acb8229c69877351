"""A board behind a connection: a folder of ours on it, the files that are there by their content, and a runtime.

    <cache folder of the board>/edgecompile/board-v1/
      files/<digest>/<name>      what was sent
      runtimes/<digest>/         wheels, unpacked: a runtime, or an engine beside it
      lent/<digest>/<name>       on its way to scratch/
      scratch/<random>/          what a run reads and writes, until it is done, and wheels while they are unpacked
      lock                       held during a benchmark

Nothing else is written there, and `clean` removes all of it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from edgecompile.artifact import sha256_file
from edgecompile.cache import Cache
from edgecompile.devices import provision
from edgecompile.devices.base import DeviceFacts, Process, Progress, identity
from edgecompile.devices.connection import Connection, output
from edgecompile.errors import ConnectionFailedError, DeviceError, EdgecompileError, ProvisioningError
from edgecompile.manifest import EMULATED, MEASURED, SIMULATED
from edgecompile.ondevice import runner
from edgecompile.units import format_mebibytes

PROVISIONED, SYSTEM = "provisioned", "system"
RUNTIMES = (PROVISIONED, SYSTEM)
_UNPACKED = 4  # times a wheel's size that its content takes, at most
_SPARE_MB = 50
_SHORT = 5.0  # seconds
# Unpacks wheels into a folder that is there whole or not at all; another command may be about the same. It ends with
# its stdin, and where it can't tidy up then, what it leaves is among what runs leave. argv: folder, scratch, wheels.
_UNPACK = """
import _thread, os, shutil, stat, sys, tempfile, threading, zipfile
folder, scratch, wheels = sys.argv[1], sys.argv[2], sys.argv[3:]
def watch():
    while os.read(0, 1024):
        pass
    _thread.interrupt_main()
if stat.S_ISFIFO(os.fstat(0).st_mode) or stat.S_ISSOCK(os.fstat(0).st_mode):
    threading.Thread(target=watch, daemon=True).start()
part = tempfile.mkdtemp(dir=scratch)
try:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
    os.chmod(part, 0o755)
    os.rename(part, folder)
except OSError:
    if not os.path.isdir(folder):
        raise
finally:
    shutil.rmtree(part, ignore_errors=True)
"""
_MOVE = 'mv -- "$1" "$2" && { rmdir -- "${1%/*}" 2> /dev/null || true; }'
# Removes what runs left that a cut connection kept from tidying up, once it is old.
_TIDY = 'for folder; do find "$folder" -mindepth 1 -maxdepth 1 -mtime +1 -exec rm -rf -- {} + 2> /dev/null; done; true'
_FOLDER = '"${XDG_CACHE_HOME:-$HOME/.cache}"/edgecompile'


class Board:
    """connect: opens a connection; once more where one was cut while a result was on its way.

    runtime: "provisioned" brings one along where it isn't there yet, "system" takes the board's own. python: the
    interpreter to use there, such as a virtual environment's; None is python3.

    emulated: figures are numbers of instructions. sysfs_root: a tree in place of the board's /sys; what comes of it is
    simulated.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        name: str,
        cache: Cache,
        runtime: str = PROVISIONED,
        *,
        emulated: bool = False,
        sysfs_root: str | None = None,
        python: str | None = None,
        over: str = "SSH",
    ) -> None:
        self._connect, self._name, self._cache, self._runtime = connect, name, cache, runtime
        self._connection, self._closed = connect(), False
        self._label = EMULATED if emulated else SIMULATED if sysfs_root else MEASURED
        self._sysfs_root, self._over = sysfs_root or "/sys", over
        self._facts: dict[str, Any] | None = None
        self._unpacked: dict[str, str] = {}
        self._interpreter = python or "python3"
        # A runtime of the board's own may be where `pip install --user` put it; beside one of ours that may do harm.
        self._plainly = (self._interpreter,) if runtime == SYSTEM else (self._interpreter, "-s")
        self._sent: set[str] = set()
        self._tidied = False

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._connection.close()

    def facts(self) -> DeviceFacts:
        if self._facts is None:
            self._facts = self._ask()
        found = self._facts
        name = f"{found['cpu']} x{found['cores']} ({self._name})"
        runtime, where = f"LiteRT ({self._runtime} runtime)", f"in a fresh process on {self._name}, over {self._over}"
        return DeviceFacts(identity(found), name, found, self._label, runtime, where, self._sysfs_root)

    def put(self, path: Path, report: Progress = lambda *_: None) -> str:
        return self._put(path, PurePosixPath(self.facts().details["cache"]), report)

    def get(self, remote: str, path: Path) -> None:
        try:
            self._connection.get(PurePosixPath(remote), path)
        except ConnectionFailedError:
            if self._closed:
                raise
            # What was computed there is worth another try, which goes on where this one ended.
            self._connection.close()
            self._connection = self._connect()
            self._connection.get(PurePosixPath(remote), path)

    def lend(self, path: Path) -> str:
        # By its content first, so that a copy that was cut goes on; then aside, since it is to go when it was used.
        # Where another command lends the same meanwhile, once more under a name that no other has.
        digest, there = sha256_file(path), self.scratch(path.name)
        for name in (digest[:32], f"{digest[:32]}-{secrets.token_hex(4)}"):
            sent = PurePosixPath(self.facts().details["cache"], "lent", name, path.name)
            alone = name != digest[:32]
            try:
                self._connection.put(path, sent)
                self._output(["sh", "-c", _MOVE, "sh", str(sent), there])
            except DeviceError:
                if alone:
                    raise
            else:
                if digest in _last(self._output(["sha256sum", "--", there])):
                    return there
        raise DeviceError(f"{path.name} arrived changed on {self._name}, twice", hint="look at the board's storage")

    def discard(self, remote: str) -> None:
        with suppress(EdgecompileError):  # the board may be gone
            output(self._connection, self._name, ["rm", "-rf", "--", str(PurePosixPath(remote).parent)], quiet=_SHORT)

    def conditions(self) -> Mapping[str, Any]:
        found = self.facts().details
        own = [found["runtime"], found["runtime_version"]]
        gpu = (found["nvidia"] or {}).get("clocks", {})
        return {
            "runtime": own if self._runtime == SYSTEM else self._wheels().id,
            "clocks": [[cluster["governor"], cluster["limit_mhz"]] for cluster in found["clusters"]],
            "governor": found["governor"],
            **{name: (found["nvidia"] or {}).get(name) for name in ("power_mode", "l4t")},
            "held": sorted(name for name, clock in gpu.items() if clock["min_mhz"] == clock["max_mhz"]),
            "sysfs_root": self._sysfs_root,
        }

    @property
    def lock(self) -> str:
        return f"{self.facts().details['cache']}/lock"

    def scratch(self, name: str) -> str:
        parent = f"{self.facts().details['cache']}/scratch"
        folder = f"{parent}/{secrets.token_hex(8)}"
        self._output(["mkdir", "-p", "--", folder])
        if not self._tidied:
            self._tidied = True
            self._output(["sh", "-c", _TIDY, "sh", parent, f"{self.facts().details['cache']}/lent"])
        return f"{folder}/{name}"

    def exec(self, argv: Sequence[str]) -> Process:
        return self._connection.exec(argv)

    def forward(self, port: int) -> int:
        return self._connection.forward(port)

    def python(self, engines: Collection[str] = ()) -> tuple[str, ...]:
        if self._runtime == SYSTEM:
            return self._system()
        path = ":".join(map(self._provisioned, (self._wheels(), *map(self._engine, sorted(engines)))))
        return ("env", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", *self._plainly)

    def engine(self, name: str) -> str:
        package = runner.PACKAGES[name]
        if self._runtime != SYSTEM:
            return self._engine(name).version(package)
        version: str | None = self.facts().details["engines"].get(package)
        if version is None:
            raise ProvisioningError(
                f"{self._interpreter} on {self._name} has no {package}",
                hint=f"--runtime provisioned brings one along; --without {name} leaves it out",
            )
        return version

    def clean(self) -> str:
        """Remove all that edgecompile ever wrote there; the folder that it was in. Works on a full disk, and without
        Python."""
        ours = f"{_FOLDER}/{runner.BOARD_FOLDER}"
        parent = f"{{ rmdir -- {_FOLDER} 2> /dev/null || true; }}"
        return _last(self._output(["sh", "-c", f"rm -rf -- {ours} && echo {ours} && {parent}"]))

    def _output(self, argv: Sequence[str]) -> str:
        return output(self._connection, self._name, argv)

    # -- Python

    def _ask(self) -> dict[str, Any]:
        """The runner's facts, by the Python that runs the models there, with nothing brought along."""
        version = self._plain("import sys; print('.'.join(map(str, sys.version_info[:2])))")
        if not re.fullmatch(r"\d+\.\d+", version):
            raise DeviceError(f"{self._name} answered {version[:200]!r}, expected the version of its Python")
        if tuple(int(part) for part in version.split(".")) < provision.OLDEST_PYTHON:
            wanted = ".".join(map(str, provision.OLDEST_PYTHON))
            raise ProvisioningError(
                f"{self._name} has Python {version}, {wanted} or newer is needed", hint="a newer python3 on the board"
            )
        folder = self._plain("import os; print(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'))")
        there = self._put(Path(runner.__file__), PurePosixPath(folder, "edgecompile", runner.BOARD_FOLDER))
        said = self._output([*self._plainly, there, "--facts", self._sysfs_root])
        try:
            found: dict[str, Any] = json.loads(_last(said))
        except ValueError:
            raise DeviceError(f"{self._name} answered {said[-200:]!r}, expected its facts") from None
        return found

    def _plain(self, code: str) -> str:
        try:
            return _last(self._output([*self._plainly, "-c", code]))
        except DeviceError as problem:
            raise ProvisioningError(
                f"{self._name} has no usable {self._interpreter}: {problem.message}",
                hint="install one there (Python 3.8 or newer, nothing else is needed), or name it with `devices add "
                "--python`",
            ) from None

    def _system(self) -> tuple[str, ...]:
        found = self.facts().details
        if not found["runtime"]:
            raise ProvisioningError(
                f"{self._interpreter} on {self._name} has no ai-edge-litert and no tflite-runtime",
                hint="--runtime provisioned brings one along; one in a virtual environment there is found by "
                "`devices add --python PATH`",
            )
        return self._plainly

    def _wheels(self) -> provision.Wheels:
        return provision.wheels(provision.Platform.of(self.facts().details, self._name), self._cache)

    def _engine(self, name: str) -> provision.Wheels:
        platform = provision.Platform.of(self.facts().details, self._name)
        return provision.engine(name, self._wheels(), platform, self._cache)

    def _provisioned(self, chosen: provision.Wheels) -> str:
        """The folder with their content there, which is brought where it isn't there yet."""
        if chosen.id in self._unpacked:
            return self._unpacked[chosen.id]
        found = self.facts().details
        folder = f"{found['cache']}/runtimes/{chosen.id}"
        if self._plain(f"import os; print(os.path.isdir({folder!r}))") != "True":
            needed = chosen.bytes * (1 + _UNPACKED) // (1 << 20) + _SPARE_MB
            if found["disk_free_mb"] is not None and found["disk_free_mb"] < needed:
                raise ProvisioningError(
                    f"{self._name} has {format_mebibytes(found['disk_free_mb'])} free under {found['cache']}, "
                    f"{chosen.what} takes up to {format_mebibytes(needed)}",
                    hint="make space, or set XDG_CACHE_HOME there to a folder on a larger disk",
                )
            sent = [self.put(path) for path in chosen.files]
            scratch = f"{found['cache']}/scratch"
            self._output(["mkdir", "-p", "--", f"{found['cache']}/runtimes", scratch])
            try:
                self._output([*self._plainly, "-c", _UNPACK, folder, scratch, *sent])
            except DeviceError as problem:
                if os.strerror(errno.ENOSPC) not in problem.message:
                    raise
                raise ProvisioningError(
                    f"the disk of {self._name} became full while {chosen.what} was unpacked under {found['cache']}",
                    hint="make space, or set XDG_CACHE_HOME there to a folder on a larger disk",
                ) from None
        self._unpacked[chosen.id] = folder
        return folder

    # -- files

    def _put(self, path: Path, root: PurePosixPath, report: Progress = lambda *_: None) -> str:
        digest = sha256_file(path)
        there = root / "files" / digest[:32] / path.name
        if str(there) not in self._sent:
            # A card's bits may rot, and a figure of a damaged model would be cached.
            if not self._connection.has(there, path.stat().st_size) or digest not in _last(
                self._output(["sha256sum", "--", str(there)])
            ):
                self._connection.put(path, there, report)
            self._sent.add(str(there))
        return str(there)


def _last(said: str) -> str:
    """The last line: a board's shell may greet before it does what it was asked."""
    return (said.splitlines() or [""])[-1]
