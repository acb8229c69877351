"""A compiled model on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.errors import DeviceError
from edgecompile.loaders.base import in_batches
from edgecompile.loaders.interpreter import dequantize
from edgecompile.ondevice import runner
from edgecompile.task import Array


class TvmRunner:
    """DeviceError where the library can't be opened, as on a CPU that lacks what it was compiled for."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        try:
            self._library = runner.Library(model, threads, runner.cpu_features(Path("/proc")))
        except runner.Failure as problem:
            raise DeviceError(str(problem), hint="build it for this machine, or --backends litert") from None
        self.inputs = tuple(map(_spec, self._library.known["inputs"]))
        self.outputs = tuple(map(_spec, self._library.known["outputs"]))

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        own = {spec.name: _quantized(np.asarray(x[spec.name]), spec) for spec in self.inputs if spec.name in x}
        return in_batches(self._batch, own, Signature(self.inputs, self.outputs), 1, self.inputs[0].shape[0])

    def run_real(self, x: Mapping[str, Array]) -> dict[str, Array]:
        specs = {spec.name: spec for spec in self.outputs}
        return {name: dequantize(array, specs[name]) for name, array in self.run(x).items()}

    def scale(self, output: str) -> float | None:
        return next(spec.scale for spec in self.outputs if spec.name == output)

    def _batch(self, batch: list[Array]) -> list[Array]:
        for target, array in zip(self._library.given, batch, strict=True):
            np.copyto(target, array)
        self._library.run()
        return [array.copy() for array in self._library.found]


def _quantized(samples: Array, spec: TensorInfo) -> Array:
    details = {"dtype": spec.dtype, "quantization": (spec.scale, spec.zero_point)}
    found: Array = runner.as_input(samples, details, spec.name)
    return found


def _spec(told: Mapping[str, object]) -> TensorInfo:
    return TensorInfo(**{**told, "shape": tuple(told["shape"])})  # type: ignore[arg-type]
