"""Engines that take and give all tensors at once, on this machine: the on-device runner's own sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.errors import DataError, DeviceError
from edgecompile.loaders.base import in_batches
from edgecompile.loaders.interpreter import dequantize, own_signature, quantize
from edgecompile.ondevice import runner
from edgecompile.task import Array
from edgecompile.tflite_file import TfliteModel


class Session(Protocol):
    def set(self, arrays: list[Array]) -> None: ...
    def run(self) -> None: ...
    def get(self) -> list[Array]: ...


def described(model: TfliteModel) -> dict[str, Any]:
    """{"inputs", "outputs"} of a .tflite as the on-device runner takes them, JSON only: a batch that is free is 1."""
    signature = own_signature(model)
    return {
        kind: [
            {**asdict(spec), "shape": [abs(size) for size in spec.shape], "tensor": model.main.tensors[index].name}
            for spec, index in zip(specs, indices, strict=True)
        ]
        for kind, specs, indices in (
            ("inputs", signature.inputs, model.main.inputs),
            ("outputs", signature.outputs, model.main.outputs),
        )
    }


def spec(told: Mapping[str, Any]) -> TensorInfo:
    """Of what `described` gives."""
    return TensorInfo(told["name"], tuple(told["shape"]), told["dtype"], told.get("scale"), told.get("zero_point"))


class SessionRunner:
    """A session as a Runner. DataError for samples that don't fit, DeviceError where it fails."""

    def __init__(self, session: Session, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> None:
        self._session = session
        self.inputs, self.outputs = inputs, outputs

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        own = {spec.name: _taken(np.asarray(x[spec.name]), spec) for spec in self.inputs if spec.name in x}
        return in_batches(self._batch, own, Signature(self.inputs, self.outputs), 1, self.inputs[0].shape[0])

    def run_real(self, x: Mapping[str, Array]) -> dict[str, Array]:
        specs = {spec.name: spec for spec in self.outputs}
        return {name: dequantize(array, specs[name]) for name, array in self.run(x).items()}

    def scale(self, output: str) -> float | None:
        return next(spec.scale for spec in self.outputs if spec.name == output)

    def _batch(self, batch: list[Array]) -> list[Array]:
        try:
            self._session.set(batch)
            self._session.run()
            return self._session.get()
        except runner.Failure as problem:
            raise DeviceError(str(problem)) from None


def _taken(samples: Array, spec: TensorInfo) -> Array:
    if samples.shape[1:] != spec.shape[1:]:
        raise DataError(
            f"input {spec.name!r}: the model expects samples of shape {list(spec.shape[1:])}, received "
            f"{list(samples.shape[1:])}"
        )
    details = {"dtype": spec.dtype, "quantization": (spec.scale, spec.zero_point)}
    try:
        found: Array = runner.as_input(quantize(samples, spec), details, spec.name)
    except runner.Failure as problem:
        raise DataError(str(problem)) from None
    return found
