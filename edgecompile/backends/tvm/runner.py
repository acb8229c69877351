"""A compiled model on this machine."""

from __future__ import annotations

from pathlib import Path

from edgecompile.backends.sessions import SessionRunner, spec
from edgecompile.errors import DeviceError
from edgecompile.ondevice import runner


class TvmRunner(SessionRunner):
    """variant: None for the CPU's best. DeviceError where the library can't be opened, as on a CPU that lacks what it
    was compiled for."""

    def __init__(self, model: Path, threads: int = 1, variant: str | None = None) -> None:
        try:
            library = runner.Library(model, threads, variant)
        except runner.Failure as problem:
            raise DeviceError(str(problem), hint="build it for this machine, or --backends litert") from None
        inputs, outputs = (tuple(map(spec, library.known[kind])) for kind in ("inputs", "outputs"))
        super().__init__(library, inputs, outputs)
