""".tflite files: already converted, so they can be run, measured and packed, but not trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import TFLITE, Signature
from edgecompile.errors import ModelError
from edgecompile.loaders.base import Array, LoadOptions, SourceModel, static_shapes, unique_names
from edgecompile.loaders.interpreter import Interpreted, own_signature, tensor_info
from edgecompile.loaders.keras2 import guarded
from edgecompile.tflite_file import TfliteModel, read


@dataclass(frozen=True)
class TfliteSource(SourceModel):
    """`model` is the file's path."""

    def predict(self, x: Mapping[str, Array], batch_size: int = 256) -> dict[str, Array]:
        """Outputs as real numbers: quantized ones are dequantized to float32. An input of the model's own integer
        type is passed as it is, any other is quantized with the input's scale and zero point. Samples run in
        batches of the size the file has (1 as a rule), so `batch_size` has no effect."""
        del batch_size
        names = [t.name for t in self.signature.inputs], [t.name for t in self.signature.outputs]
        engine = Interpreted(self.path, names, shapes=[t.shape for t in self.signature.inputs])
        return engine.real(engine.run(x))


def load(path: Path, options: LoadOptions) -> SourceModel:
    """A .tflite as a source of kind TFLITE; raises what `edgecompile.loaders.load` documents."""
    model = read(path)  # every offset and index is checked before native code sees the file
    interpreter = guarded(path, lambda: _interpreter(path))
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if not inputs or not outputs:
        raise ModelError(f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each at least")
    in_names, out_names = _names(model)
    shapes = static_shapes([(n, _dynamic_shape(d)) for n, d in zip(in_names, inputs, strict=True)], options)
    for detail, shape in zip(inputs, shapes, strict=True):
        guarded(path, lambda detail=detail, shape=shape: interpreter.resize_tensor_input(detail["index"], shape))
    guarded(path, interpreter.allocate_tensors)
    signature = Signature(
        tuple(tensor_info(n, d, s) for n, d, s in zip(in_names, inputs, shapes, strict=True)),
        tuple(
            tensor_info(n, d, shape)
            for n, d, shape in zip(out_names, outputs, _output_shapes(path, interpreter), strict=True)
        ),
    )
    return TfliteSource(TFLITE, path, path, signature, ("a .tflite can't be trained",))


def _output_shapes(path: Path, interpreter: Any) -> list[tuple[int, ...]]:
    """As they are once the model ran, where some are known no earlier: zeros are numbers, and indices, that do."""
    outputs = interpreter.get_output_details()
    try:
        return [tuple(interpreter.get_tensor(d["index"]).shape) for d in outputs]
    except ValueError:
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        guarded(path, interpreter.invoke)
        return [tuple(interpreter.get_tensor(d["index"]).shape) for d in outputs]


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path), num_threads=1)


def _names(model: TfliteModel) -> tuple[list[str], list[str]]:
    """The file's own names, such that every later stage can take them; tensors' names are shortened."""
    own = own_signature(model)
    tidy = str if any(s.subgraph == 0 for s in model.signatures) else _short
    return unique_names(tidy(t.name) for t in own.inputs), unique_names(tidy(t.name) for t in own.outputs)


def _short(name: str) -> str:
    """A tensor's name without what converters put around it: serving_default_x:0 -> x."""
    return name.removeprefix("serving_default_").partition(":")[0]


def _dynamic_shape(detail: Any) -> tuple[int, ...]:
    signature = detail["shape_signature"]
    return tuple(int(d) for d in (signature if len(signature) else detail["shape"]))
