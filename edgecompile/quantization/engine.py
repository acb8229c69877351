"""One float model, quantized once or many times with one calibration."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgecompile.errors import CompressionGateError, ConversionError, RecipeError
from edgecompile.quantization.biases import mend_biases
from edgecompile.quantization.calibration import Sample, calibrate
from edgecompile.quantization.operators import Place, places
from edgecompile.quantization.schemes import recipe_entries
from edgecompile.quantization.unread import mend_unread
from edgecompile.stages.base import Context
from edgecompile.tflite_file import TfliteModel, read

_INTEGERS = ("int8", "uint8", "int4")


class FloatModel:
    """RecipeError where the file is quantized already."""

    def __init__(self, path: Path) -> None:
        self.file = read(path)
        _refuse_quantized(self.file)
        self.places = places(self.file)
        self._statistics: dict[str, Any] | None = None

    def calibrate(self, samples: Sequence[Sample], ranges: str, ctx: Context) -> None:
        """Once, before static schemes."""
        with _refusals():
            self._statistics = calibrate(self.file, samples, ranges, ctx)

    def quantize(self, scheme: str, io: str, others: Mapping[Place, str], path: Path) -> TfliteModel:
        """The model with `scheme`, and `others` (a scheme or FLOAT) for some operators, written to `path`.

        ConversionError where the quantizer refuses. What it skipped is for the caller to find (`deviations`).
        """
        from ai_edge_quantizer import quantizer

        exceptions = [(place.scope, place.name, other) for place, other in others.items()]
        with _refusals():
            engine = quantizer.Quantizer(str(self.file.path))
            engine.load_quantization_recipe(recipe_entries(scheme, io, exceptions))
            statistics = copy.deepcopy(self._statistics) if engine.need_calibration else None
            engine.quantize(statistics).export_model(str(path), overwrite=True)
        return mend_biases(mend_unread(read(path)), self.file)


def check_weights(result: TfliteModel, scheme: str) -> None:
    """CompressionGateError where no weight at all is quantized."""
    tensors = [t for graph in result.subgraphs for t in graph.tensors]
    if not any(t.is_constant and t.dtype not in ("float32", "int32", "int64", "bool") for t in tensors):
        raise CompressionGateError(f"{scheme} left every weight of the model in float", hint="take another recipe")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as problem:
        raise ConversionError(
            f"ai-edge-quantizer refused the model: {str(problem).strip().splitlines()[0][:400]}",
            hint="another recipe (dynamic, float16), or another scheme in a recipe of your own",
        ) from problem


def _refuse_quantized(model: TfliteModel) -> None:
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.is_constant and tensor.quantization is not None and tensor.dtype in _INTEGERS:
                raise RecipeError(
                    f"{model.path} is quantized already (tensor {tensor.name!r} is {tensor.dtype})",
                    hint="give the float model, or take recipe float, which changes nothing",
                )
