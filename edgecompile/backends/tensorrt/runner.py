"""An ONNX graph by ONNX Runtime on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.errors import ConversionError, DataError, MissingDependencyError
from edgecompile.loaders.base import in_batches
from edgecompile.task import Array

_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool"}


class OnnxRunner:
    """ConversionError where ONNX Runtime doesn't take the graph."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError(
                "ONNX Runtime is not installed", hint="pip install 'edgecompile[onnx]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # a class for each of its own codes
            raise ConversionError(
                f"ONNX Runtime refused {model.name}: {problem}", hint="--backends litert leaves TensorRT out"
            ) from problem
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """{input: [n, ...]} -> {output: [n, ...]}, in steps of the graph's batch."""
        for spec in self.inputs:
            if spec.name in x and np.shape(x[spec.name])[1:] != spec.shape[1:]:
                raise DataError(
                    f"input {spec.name!r}: the graph expects samples of shape {list(spec.shape[1:])}, "
                    f"received {list(np.shape(x[spec.name])[1:])}"
                )
        return in_batches(self._batch, x, Signature(self.inputs, self.outputs), 1, self.inputs[0].shape[0])

    def run_real(self, x: Mapping[str, Array]) -> dict[str, Array]:
        return self.run(x)

    def scale(self, output: str) -> float | None:
        del output
        return None

    def _batch(self, batch: list[Array]) -> list[Array]:
        found: list[Array] = self._session.run(
            [spec.name for spec in self.outputs], dict(zip([spec.name for spec in self.inputs], batch, strict=True))
        )
        return found


def _spec(value: Any) -> TensorInfo:
    if value.type not in _DTYPES:
        raise ConversionError(
            f"tensor {value.name!r} of the graph is {value.type}, expected one of {', '.join(_DTYPES)}",
            hint="--backends litert leaves TensorRT out",
        )
    return TensorInfo(value.name, tuple(value.shape), _DTYPES[value.type])
