"""This machine: the runner in a process of its own, so that nothing of the compiler's is in the measurement."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgecompile.devices.base import DeviceFacts, Progress, identity
from edgecompile.errors import DeviceTimeoutError, ProvisioningError
from edgecompile.ondevice import runner

_SCRATCH = "edgecompile-scratch-"


class LocalDevice:
    """The machine edgecompile runs on. Files are where they are."""

    def facts(self) -> DeviceFacts:
        details = runner.facts()
        name = f"{details['cpu']} x{details['cores']} (this machine)"
        return DeviceFacts(identity(details), name, details)

    def put(self, path: Path, report: Progress = lambda *_: None) -> str:
        del report
        return str(path.absolute())

    def get(self, remote: str, path: Path) -> None:
        shutil.copyfile(remote, path)

    def lend(self, path: Path) -> str:
        return str(path.absolute())

    def discard(self, remote: str) -> None:
        """What `lend` gave is here anyway."""
        if Path(remote).parent.name.startswith(_SCRATCH):
            shutil.rmtree(Path(remote).parent, ignore_errors=True)

    def conditions(self) -> Mapping[str, Any]:
        details = self.facts().details
        return {"runtime": [details["runtime"], details["runtime_version"]], "governor": details["governor"]}

    @property
    def lock(self) -> None:
        return None

    def scratch(self, name: str) -> str:
        return str(Path(tempfile.mkdtemp(prefix=_SCRATCH), name))

    def exec(self, argv: Sequence[str]) -> LocalProcess:
        return LocalProcess(argv)

    def python(self, engines: Collection[str] = ()) -> tuple[str, ...]:
        del engines  # what is installed is there
        return (sys.executable,)

    def engine(self, name: str) -> str:
        found = runner.version_of(runner.PACKAGES[name])
        if found is None:
            raise ProvisioningError(
                f"{runner.PACKAGES[name]} is not installed on this machine", hint=f"pip install 'edgecompile[{name}]'"
            )
        return found

    def forward(self, port: int) -> int:
        return port

    def close(self) -> None: ...


class LocalProcess:
    """In a session of its own: Ctrl-C reaches us alone, and we end it with its children."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process is)
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True, text=True
        )

    def lines(self, quiet: float | None = None) -> Iterator[str]:
        stdout = self._process.stdout
        assert stdout is not None
        found: queue.SimpleQueue[str] = queue.SimpleQueue()

        def read() -> None:
            with suppress(ValueError):  # closed by `kill`
                for line in stdout:
                    found.put(line)
            found.put("")

        threading.Thread(target=read, daemon=True).start()
        while True:
            try:
                line = found.get(timeout=quiet)
            except queue.Empty:
                raise DeviceTimeoutError(f"nothing was heard from this machine for {quiet:.0f} s") from None
            if not line:
                return
            yield line.rstrip("\n")

    def end_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> int:
        return self._process.wait()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip()
