"""Metrics of a model's outputs one by one, beside that of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgecompile import compare
from edgecompile.task import Arrays, Metric, Task


def scores(task: Task, labels: Arrays, outputs: Arrays, x: Arrays) -> dict[str, float]:
    """The score of each output that has a metric of its own; {} for a task with one output."""
    return {name: own.score(only(name, labels), only(name, outputs), x) for name, own in task.metrics.items()}


def only(name: str, arrays: Arrays) -> Arrays:
    """One output's labels, or what a model gave for it."""
    return {name: arrays[name]}


def compared(metric: Metric, labels: Arrays, before: Arrays, after: Arrays, x: Arrays, seed: int) -> dict[str, Any]:
    """What the accuracy gate goes by: the metric of the float model's outputs and of the compressed one's."""
    low, high = compare.paired_interval(metric, labels, before, after, x, seed=seed)
    score_before, score = metric.score(labels, before, x), metric.score(labels, after, x)
    drop = compare.metric_drop(metric, score_before, score)
    points = compare.drops_in_points(metric, score_before, score)
    return {
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "before": score_before,
        "value": score,
        "drop": drop if math.isfinite(drop) else None,  # worse than a baseline of 0: JSON has no infinity
        "drop_unit": " points" if points else "%",
        "interval": [low, high],
        "samples": len(next(iter(labels.values()))),
    }


def compared_each(
    task: Task, labels: Arrays, before: Arrays, after: Arrays, x: Arrays, seed: int
) -> dict[str, dict[str, Any]]:
    """The same of each output that has a metric of its own."""
    return {
        name: compared(own, only(name, labels), only(name, before), only(name, after), x, seed)
        for name, own in task.metrics.items()
    }


def worst_drop(metrics: Mapping[str, Metric], before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The largest drop of any output, as `metric_drop` counts it; minus infinity where none has a metric of its own."""
    drops = (compare.metric_drop(metrics[name], before[name], score) for name, score in after.items())
    return max(drops, default=-math.inf)
