""".tflite files: already converted, so they can be run, measured and packed, but not trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import TFLITE, Signature, TensorInfo
from edgecompile.errors import DataError, ModelError
from edgecompile.loaders.base import Array, LoadOptions, SourceModel, in_batches, static_shapes, unique_names
from edgecompile.loaders.keras2 import guarded

QUANTIZED = ("int8", "uint8", "int16")


@dataclass(frozen=True)
class TfliteSource(SourceModel):
    """`model` is the file's path. `indices`: the tensors of inputs and outputs, in the signature's order."""

    indices: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def predict(self, x: Mapping[str, Array], batch_size: int = 256) -> dict[str, Array]:
        """Outputs as real numbers: quantized ones are dequantized to float32. An input of the model's own integer
        type is passed as it is, any other is quantized with the input's scale and zero point. Samples run in
        batches of the size the file has (1 as a rule), so `batch_size` has no effect."""
        interpreter = _interpreter(self.path)
        for index, spec in zip(self.indices[0], self.signature.inputs, strict=True):
            interpreter.resize_tensor_input(index, spec.shape)
        interpreter.allocate_tensors()

        def on_batch(batch: list[Array]) -> list[Array]:
            for index, array in zip(self.indices[0], batch, strict=True):
                interpreter.set_tensor(index, np.ascontiguousarray(array))
            interpreter.invoke()
            return [
                dequantize(interpreter.get_tensor(index), spec)
                for index, spec in zip(self.indices[1], self.signature.outputs, strict=True)
            ]

        specs = {spec.name: spec for spec in self.signature.inputs}
        quantized = {name: quantize(np.asarray(a), specs[name]) if name in specs else a for name, a in x.items()}
        return in_batches(on_batch, quantized, self.signature, batch_size, self.signature.inputs[0].shape[0])


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


def load(path: Path, options: LoadOptions) -> SourceModel:
    """A .tflite as a source of kind TFLITE; raises what `edgecompile.loaders.load` documents."""
    from edgecompile import tflite_file

    tflite_file.read(path)  # every offset and index is checked before native code sees the file
    interpreter = guarded(path, lambda: _interpreter(path))
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if not inputs or not outputs:
        raise ModelError(f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each at least")
    in_names, out_names = _names(interpreter, inputs, outputs)
    shapes = static_shapes([(n, _dynamic_shape(d)) for n, d in zip(in_names, inputs, strict=True)], options)
    for detail, shape in zip(inputs, shapes, strict=True):
        guarded(path, lambda detail=detail, shape=shape: interpreter.resize_tensor_input(detail["index"], shape))
    guarded(path, interpreter.allocate_tensors)
    signature = Signature(
        tuple(tensor_info(n, d, s) for n, d, s in zip(in_names, inputs, shapes, strict=True)),
        tuple(
            tensor_info(n, d, tuple(int(v) for v in interpreter.get_tensor(d["index"]).shape))
            for n, d in zip(out_names, outputs, strict=True)
        ),
    )
    indices = tuple(int(d["index"]) for d in inputs), tuple(int(d["index"]) for d in outputs)
    return TfliteSource(TFLITE, path, path, signature, ("a .tflite can't be trained",), indices)


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path), num_threads=1)


def _names(interpreter: Any, inputs: list[Any], outputs: list[Any]) -> tuple[list[str], list[str]]:
    """Names by the file's one signature if it covers all tensors, else the tensors' own."""
    table = interpreter._get_full_signature_list()
    if len(table) == 1:
        (signature,) = table.values()
        by_input = {index: name for name, index in signature["inputs"].items()}
        by_output = {index: name for name, index in signature["outputs"].items()}
        if all(d["index"] in by_input for d in inputs) and all(d["index"] in by_output for d in outputs):
            return (
                unique_names(by_input[d["index"]] for d in inputs),
                unique_names(by_output[d["index"]] for d in outputs),
            )
    return unique_names(_short(d["name"]) for d in inputs), unique_names(_short(d["name"]) for d in outputs)


def _short(name: str) -> str:
    """A tensor's name without what converters put around it: serving_default_x:0 -> x."""
    return name.removeprefix("serving_default_").partition(":")[0]


def _dynamic_shape(detail: Any) -> tuple[int, ...]:
    signature = detail["shape_signature"]
    return tuple(int(d) for d in (signature if len(signature) else detail["shape"]))


def tensor_info(name: str, detail: Any, shape: tuple[int, ...]) -> TensorInfo:
    """A tensor as LiteRT's interpreter describes it. DataError where it is quantized per channel."""
    dtype = np.dtype(detail["dtype"]).name
    scales = detail["quantization_parameters"]["scales"]
    if dtype not in QUANTIZED or len(scales) == 0:
        return TensorInfo(name, shape, dtype)
    if len(scales) > 1:
        raise DataError(f"tensor {name!r} is quantized per channel; an input or output must have one scale")
    return TensorInfo(name, shape, dtype, float(scales[0]), int(detail["quantization_parameters"]["zero_points"][0]))
