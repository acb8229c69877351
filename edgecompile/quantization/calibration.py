"""Ranges of activations, from training samples run through the float model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import Signature
from edgecompile.quantization.schemes import STATIC_INT8, recipe_entries
from edgecompile.stages.base import Context, Progress
from edgecompile.task import Array, align
from edgecompile.tflite_file import TfliteModel, read

MIN_MAX, MOVING_AVERAGE = "min_max", "moving_average"
RANGES = (MIN_MAX, MOVING_AVERAGE)

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


def calibrate(model: Path, signature_key: str, samples: Sequence[Sample], ranges: str, ctx: Context) -> dict[str, Any]:
    """ai-edge-quantizer's statistics {tensor: {min, max}} of all activations that any static scheme quantizes.

    ranges: MIN_MAX takes the widest range over samples, MOVING_AVERAGE smooths over them.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    updates = {MIN_MAX: qsv_utils.min_max_update, MOVING_AVERAGE: qsv_utils.moving_average_update}
    everything = recipe_manager.RecipeManager()
    everything.load_quantization_recipe(recipe_entries(STATIC_INT8, "int8"))
    # Quantizer.calibrate() does the same, but leaves no choice of how ranges of samples are joined.
    calibration = calibrator.Calibrator(model.read_bytes(), num_threads=1, qsv_update_func=updates[ranges])
    calibration.calibrate({signature_key: _Reported(samples, ctx)}, everything)
    statistics: dict[str, Any] = calibration.get_model_qsvs()
    _widen_softmax(statistics, read(model))
    return statistics


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


class _Reported:
    """Samples that report how far the quantizer is."""

    def __init__(self, samples: Sequence[Sample], ctx: Context) -> None:
        self._samples = samples
        self._ctx = ctx

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        for i, sample in enumerate(self._samples, 1):
            self._ctx.report(Progress("calibration", i, len(self._samples)))
            yield sample
