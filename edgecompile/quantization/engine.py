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
from edgecompile.quantization.operators import Place, places, possible
from edgecompile.quantization.schemes import DYNAMIC_INT8, FLOAT, is_static, recipe_entries
from edgecompile.quantization.unread import mend_unread
from edgecompile.stages.base import Context
from edgecompile.tflite_file import Subgraph, TfliteModel, read

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

    def in_loops(self, scheme: str, others: Mapping[Place, str] | None = None) -> dict[Place, str]:
        """Operators in loops and branches that would be static by `scheme` or `others`, with what they get instead.

        Their ranges aren't known (see `calibrate`): weights become int8 where activations can be quantized while
        running, the rest stays float.
        """
        bodies = {graph.index for graph in _bodies(self.file)}
        asked = {place: (others or {}).get(place, scheme) for place in self.places if place.subgraph in bodies}
        return {
            place: DYNAMIC_INT8 if possible(place, DYNAMIC_INT8) else FLOAT
            for place, name in asked.items()
            if is_static(name)
        }

    def quantize(self, scheme: str, io: str, others: Mapping[Place, str], path: Path) -> TfliteModel:
        """The model with `scheme`, and `others` (a scheme or FLOAT) for some operators, written to `path`.

        ConversionError where the quantizer refuses. What it skipped is for the caller to find (`deviations`).
        """
        from ai_edge_quantizer import quantizer

        others = {**others, **self.in_loops(scheme, others)}
        exceptions = [(place.scope, place.name, other) for place, other in others.items()]
        exceptions += [(scope, side, FLOAT) for scope, side in _edges(self.file)]
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


def _bodies(model: TfliteModel) -> list[Subgraph]:
    """The subgraphs that loops and branches run."""
    composed = {
        operator.options["decomposition_subgraph_index"]
        for graph in model.subgraphs
        for operator in graph.operators
        if operator.name == "STABLEHLO_COMPOSITE"
    }
    return [graph for graph in model.subgraphs if graph is not model.main and graph.index not in composed]


def _edges(model: TfliteModel) -> Iterator[tuple[str, str]]:
    """(scope, INPUT or OUTPUT): what the quantizer knows the inputs and the outputs of loops and branches by."""
    for graph in _bodies(model):
        for side, indices in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs)):
            scope = "".join(f"{graph.tensors[i].name};" for i in indices if i >= 0 and graph.tensors[i].name)
            if scope:
                yield scope, side


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
