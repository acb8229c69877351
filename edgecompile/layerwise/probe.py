"""A .tflite run by LiteRT's reference kernels, or what stands for them, with every intermediate tensor kept, one batch
at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgecompile.artifact import TensorInfo
from edgecompile.backends.litert import RESOLVERS, reference_kernels
from edgecompile.errors import DataError, ModelError
from edgecompile.loaders.interpreter import quantize
from edgecompile.task import Array
from edgecompile.tflite_file import Forgetful, Tensor, TfliteModel, state_of


class Probe:
    """inputs: the model's, as `own_signature` has them, in the file's order; batch: how many samples at once.

    ModelError where LiteRT can't open or run the file, DataError where samples don't fit it.
    """

    def __init__(self, model: TfliteModel, inputs: Sequence[TensorInfo], batch: int) -> None:
        self._model, self._inputs, self._batch = model, inputs, batch
        self._kernels = RESOLVERS[reference_kernels(model)]
        self._shapes: list[tuple[int, ...]] = []
        try:
            self._engine = Forgetful(self._opened, state_of(model))
        except (ValueError, RuntimeError) as problem:
            raise ModelError(f"LiteRT can't open {model.path}: {_first_line(problem)}") from problem

    def run(self, x: Mapping[str, Array]) -> None:
        """{input: [batch, ...]}: real numbers, quantized here where the model's input is."""
        arrays = [np.asarray(quantize(x[spec.name], spec), spec.dtype) for spec in self._inputs]
        for spec, array in zip(self._inputs, arrays, strict=True):
            expected = (self._batch, *spec.shape[1:])
            fits = len(expected) == array.ndim and all(e in (-1, a) for e, a in zip(expected, array.shape, strict=True))
            if not fits:
                raise DataError(
                    f"{self._model.path}: input {spec.name!r} takes samples of shape {list(expected[1:])}, "
                    f"received {list(array.shape[1:])}",
                    hint="give inputs that both models take",
                )
        try:
            self._resize([array.shape for array in arrays])
            interpreter = self._engine.fresh()
            for index, array in zip(self._model.main.inputs, arrays, strict=True):
                interpreter.set_tensor(index, np.ascontiguousarray(array))
            interpreter.invoke()
        except (ValueError, RuntimeError) as problem:
            raise ModelError(f"LiteRT can't run {self._model.path}: {_first_line(problem)}") from problem

    def _opened(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            str(self._model.path),
            num_threads=1,
            experimental_op_resolver_type=OpResolverType[self._kernels],
            experimental_preserve_all_tensors=True,
        )
        if self._shapes:
            self._allocate(interpreter)
        return interpreter

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        if shapes != self._shapes:
            self._shapes = shapes
            self._allocate(self._engine.as_it_is)

    def _allocate(self, interpreter: Any) -> None:
        for index, shape in zip(self._model.main.inputs, self._shapes, strict=True):
            interpreter.resize_tensor_input(index, shape)
        interpreter.allocate_tensors()

    def real(self, index: int) -> Array:
        """The tensor's values after the last run; real numbers where it is quantized, as LiteRT dequantizes them."""
        return _real(self._engine.as_it_is.get_tensor(index), self._model.main.tensors[index])


def _real(array: Array, tensor: Tensor) -> Array:
    quantization = tensor.quantization
    if quantization is None or array.dtype.kind not in "iu":
        return array
    along = [1] * array.ndim
    if quantization.per_channel:
        along[quantization.dimension] = -1
    scales = np.asarray(quantization.scales, np.float32).reshape(along)
    zero_points = np.asarray(quantization.zero_points, np.float32).reshape(along)
    real: Array = (array.astype(np.float32) - zero_points) * scales
    return real


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
