"""Ranges of activations, from training samples run through the float model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgecompile.artifact import Signature
from edgecompile.stages.base import Context, Progress
from edgecompile.task import Array, align
from edgecompile.tflite_file import Forgetful, Subgraph, TfliteModel, state_of

MIN_MAX, MOVING_AVERAGE = "min_max", "moving_average"
RANGES = (MIN_MAX, MOVING_AVERAGE)
# What bfloat16 has for infinity, where something is masked out: no range can hold it.
_LARGEST = 3e38
_NUMBERS = frozenset({"float32", "int32", "int64", "int16", "int8", "uint8"})
_EXPONENTIAL = ("SOFTMAX", "LOG_SOFTMAX")
_LEAST_LOGITS = 2.0**-17  # the width of a range whose int8 scale is 2**-25

Sample = dict[str, Array]  # by input, [1, ...] in the input's dtype


def draw(ctx: Context, signature: Signature, count: int) -> list[Sample]:
    """At most `count` samples of those that training may see, drawn with the build's seed."""
    fit, _ = ctx.require_task().split(ctx.seed)
    chosen = np.random.default_rng(ctx.seed).permutation(len(fit))[:count]
    x = align(fit.take(chosen).x, signature.inputs)
    dtypes = {spec.name: spec.dtype for spec in signature.inputs}
    return [{k: a[i : i + 1].astype(dtypes[k]) for k, a in x.items()} for i in range(len(chosen))]


def calibrate(model: TfliteModel, samples: Sequence[Sample], ranges: str, ctx: Context) -> dict[str, Any]:
    """ai-edge-quantizer's statistics {tensor: {min, max}} of what the model computes outside of loops and branches.

    ranges: MIN_MAX takes the widest range over samples, MOVING_AVERAGE smooths over them. Each sample finds the model
    as its file begins it: the quantizer's own calibrator leaves a fused LSTM in the state of the sample before, and
    ends where a tensor that nothing reads has no memory.
    """
    from ai_edge_quantizer.algorithms.uniform_quantize.common_quantize import get_activation_min_max
    from ai_edge_quantizer.utils import qsv_utils

    update = {MIN_MAX: qsv_utils.min_max_update, MOVING_AVERAGE: qsv_utils.moving_average_update}[ranges]
    engine = Forgetful(lambda: _opened(model), state_of(model))
    inputs, found = model.signatures[0].inputs, dict[str, Any]()
    for i, sample in enumerate(samples, 1):
        ctx.report(Progress("calibration", i, len(samples)))
        interpreter = engine.fresh()
        for name, index in inputs.items():
            interpreter.set_tensor(index, sample[name])
        interpreter.invoke()
        for name, values in _computed(model, interpreter):
            seen = get_activation_min_max(values, -_LARGEST, _LARGEST)
            found[name] = update(found[name], seen) if name in found else seen
    _widen_softmax(found, model)
    return found


def _widen_softmax(statistics: dict[str, Any], model: TfliteModel) -> None:
    """Give logits that hardly differ at all a range that softmax's kernels take: below a scale of 2**-26 LiteRT's
    reference ends the process. What such logits give is the same for each class either way.

    statistics: {tensor: {min, max}}, changed in place
    """
    for graph in model.subgraphs:
        for operator in graph.operators:
            found = statistics.get(graph.tensors[operator.inputs[0]].name) if operator.name in _EXPONENTIAL else None
            if found and float(np.max(found["max"]) - np.min(found["min"])) < _LEAST_LOGITS:
                found["min"] = np.minimum(found["min"], -_LEAST_LOGITS / 2).astype(np.float32)
                found["max"] = np.maximum(found["max"], _LEAST_LOGITS / 2).astype(np.float32)


def _opened(model: TfliteModel) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(model.path),
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    return interpreter


def _computed(model: TfliteModel, interpreter: Any) -> Iterator[tuple[str, Array]]:
    """(name, values) of all tensors that the last run computed."""
    for graph in _graphs(model):
        for tensor in graph.tensors:
            if tensor.name and not tensor.is_constant and tensor.dtype in _NUMBERS and 0 not in tensor.shape:
                try:
                    yield tensor.name, interpreter.get_tensor(tensor.index, graph.index)
                except ValueError:
                    continue  # nothing reads it, so it has no memory


def _graphs(model: TfliteModel) -> Iterator[Subgraph]:
    """The main subgraph, and what composites stand for. Of a loop's body only the last turn could be seen."""
    yield model.main
    for operator in model.main.operators:
        if operator.name == "STABLEHLO_COMPOSITE":
            yield model.subgraphs[operator.options["decomposition_subgraph_index"]]
