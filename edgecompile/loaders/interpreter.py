"""A .tflite run by LiteRT in this process: its names, the shapes it is given, batches, and quantized numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.errors import DataError, ModelError
from edgecompile.loaders.base import Array, in_batches
from edgecompile.tflite_file import Forgetful, TfliteModel, read, state_of

QUANTIZED = ("int8", "uint8", "int16")


def own_signature(model: TfliteModel) -> Signature:
    """The inputs and outputs of what `invoke` runs, by the file's own names: those of serving_default, else of the
    first signature, else the tensors'. Signatures of other subgraphs don't count."""
    mine = tuple(s for s in model.signatures if s.subgraph == 0)
    return dataclasses.replace(model, signatures=mine).signature


class Interpreted:
    """An open file. `inputs` and `outputs` are described as LiteRT has them, under the names given, in the file's
    order; dimensions that the file leaves free follow the samples. Batches are independent of each other: each finds
    the state of the model, if it has any, as the file begins it.

    resolver: a member of LiteRT's OpResolverType by name. shapes: of the inputs, where the file's own aren't to be
    taken. model: the file as it was read before. ModelError where LiteRT refuses the file.
    """

    def __init__(
        self,
        path: Path,
        names: tuple[list[str], list[str]],
        *,
        threads: int = 1,
        resolver: str = "AUTO",
        shapes: list[tuple[int, ...]] | None = None,
        model: TfliteModel | None = None,
    ) -> None:
        self._path, self._threads, self._resolver = path, threads, resolver
        self._shapes = shapes
        try:
            self._engine = Forgetful(self._opened, state_of(model or read(path)))
        except (ValueError, RuntimeError) as problem:
            raise ModelError(f"LiteRT can't open {path}: {_first_line(problem)}") from problem
        inputs, outputs = self._engine.as_it_is.get_input_details(), self._engine.as_it_is.get_output_details()
        self._at = [int(d["index"]) for d in inputs], [int(d["index"]) for d in outputs]
        # LiteRT has 1 where a size is free; others write the sizes they last ran with.
        self._free = [tuple(int(size) < 0 for size in d["shape_signature"]) for d in inputs]
        self.inputs = tuple(tensor_info(n, d, _sizes(d)) for n, d in zip(names[0], inputs, strict=True))
        self.outputs = tuple(tensor_info(n, d, _sizes(d)) for n, d in zip(names[1], outputs, strict=True))

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """{input: [n, ...]} -> {output: [n, ...]} in the file's own dtypes, for any n.

        Samples run in steps of the file's batch; the last one is filled and what fills it is dropped. Numbers for a
        quantized input are quantized, unless they are of its type. DataError where the samples don't fit.
        """
        arrays = {spec.name: quantize(np.asarray(x[spec.name]), spec) for spec in self.inputs if spec.name in x}
        self._fit(arrays)
        return in_batches(self._batch, arrays, Signature(self.inputs, self.outputs), 1, self._batch_size())

    def real(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What `run` gave, with quantized outputs turned into the real numbers they stand for."""
        return {spec.name: dequantize(outputs[spec.name], spec) for spec in self.outputs}

    def _batch(self, batch: list[Array]) -> list[Array]:
        try:
            interpreter = self._engine.fresh()
            for index, array in zip(self._at[0], batch, strict=True):
                interpreter.set_tensor(index, np.ascontiguousarray(array))
            interpreter.invoke()
        except (ValueError, RuntimeError) as problem:
            raise ModelError(f"LiteRT can't run {self._path}: {_first_line(problem)}") from problem
        return [interpreter.get_tensor(index) for index in self._at[1]]

    def _batch_size(self) -> int:
        sizes = {spec.shape[:1] for spec in self.inputs}
        if len(sizes) != 1 or sizes == {()}:
            shapes = {spec.name: list(spec.shape) for spec in self.inputs}
            raise ModelError(f"{self._path}: its inputs have no batch size in common: {shapes}")
        return sizes.pop()[0]

    def _fit(self, arrays: Mapping[str, Array]) -> None:
        """Resize free dimensions to the samples'."""
        shapes = []
        for spec, free in zip(self.inputs, self._free, strict=True):
            given = arrays[spec.name].shape[1:] if spec.name in arrays else spec.shape[1:]
            fits = len(given) == len(spec.shape) - 1 and all(
                a == b or is_free for a, b, is_free in zip(given, spec.shape[1:], free[1:], strict=True)
            )
            if not fits:
                raise DataError(
                    f"input {spec.name!r}: the model expects samples of shape {list(spec.shape[1:])}, "
                    f"received {list(given)}"
                )
            shapes.append((*spec.shape[:1], *given))
        if shapes != [spec.shape for spec in self.inputs]:
            self._shapes = shapes
            try:
                self._resize(self._engine.as_it_is)
            except (ValueError, RuntimeError) as problem:
                raise ModelError(f"LiteRT can't run {self._path} on {shapes}: {_first_line(problem)}") from problem
            self.inputs = tuple(
                dataclasses.replace(spec, shape=shape) for spec, shape in zip(self.inputs, shapes, strict=True)
            )

    def _opened(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            str(self._path),
            num_threads=self._threads,
            experimental_op_resolver_type=OpResolverType[self._resolver],
        )
        self._resize(interpreter)
        return interpreter

    def _resize(self, interpreter: Any) -> None:
        """To `_shapes`, or to the file's own."""
        details = interpreter.get_input_details()
        for detail, shape in zip(details, self._shapes or map(_sizes, details), strict=True):
            if _sizes(detail) != shape:
                interpreter.resize_tensor_input(detail["index"], shape)
        interpreter.allocate_tensors()


def quantize(array: Array, spec: TensorInfo) -> Array:
    """Real values as the integers that the tensor `spec` holds; unchanged where it is no quantized tensor or where
    `array` already has its type."""
    if spec.scale is None or spec.zero_point is None or spec.dtype not in QUANTIZED or str(array.dtype) == spec.dtype:
        return array
    info = np.iinfo(spec.dtype)
    q: Array = np.round(array.astype(np.float64) / spec.scale) + spec.zero_point
    return np.asarray(q.clip(info.min, info.max), spec.dtype)


def dequantize(array: Array, spec: TensorInfo) -> Array:
    """float32 values of a quantized tensor; any other is unchanged."""
    if spec.scale is None or spec.zero_point is None or spec.dtype not in QUANTIZED:
        return np.array(array)
    real: Array = (array.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)
    return real


def tensor_info(name: str, detail: Any, shape: tuple[int, ...]) -> TensorInfo:
    """A tensor as LiteRT's interpreter describes it. DataError where it is quantized per channel."""
    dtype = np.dtype(detail["dtype"]).name
    scales = detail["quantization_parameters"]["scales"]
    if dtype not in QUANTIZED or len(scales) == 0:
        return TensorInfo(name, shape, dtype)
    if len(scales) > 1:
        raise DataError(f"tensor {name!r} is quantized per channel; an input or output must have one scale")
    return TensorInfo(name, shape, dtype, float(scales[0]), int(detail["quantization_parameters"]["zero_points"][0]))


def _sizes(detail: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in detail["shape"])


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
