"""Does a bundle's winner reach the metric that its manifest says, of all outputs and of each of several?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from edgecompile import data, per_output
from edgecompile.backends import BACKENDS
from edgecompile.data import DataSource
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import DataError, EdgecompileError, MissingDependencyError
from edgecompile.gates import Check
from edgecompile.job import now
from edgecompile.manifest import MEASURED, Figure
from edgecompile.promise import Promise, check, failed
from edgecompile.stages.base import Progress
from edgecompile.stages.evaluate import on_test_set
from edgecompile.units import format_metric
from edgecompile.worker import Worker

METRIC_TOLERANCE = 1e-6
ON_BOARD = "the winning engine runs on its board alone (--on DEVICE checks it there)"

Report = Callable[[Progress], None]


def check_accuracy(
    promise: Promise, source: DataSource | None, worker: Worker, report: Report
) -> tuple[list[Check], tuple[Figure, ...]]:
    """The task's metric on the test set, by the winner, against the manifest's; then each output's own."""

    def unchecked(why: str) -> tuple[list[Check], tuple[Figure, ...]]:
        return [check("accuracy", None, f"not checked: {why}")], ()

    if promise.data is None:
        return unchecked("the bundle was built without data")
    if promise.metric is None:
        return unchecked("the data of the build has no labelled test set")
    if promise.winner.backend not in BACKENDS:
        return unchecked(f"no backend {promise.winner.backend!r} in this edgecompile")
    if not BACKENDS[promise.winner.backend].runs_here(promise.winner):
        return unchecked(ON_BOARD)
    if source is None:
        try:
            source = data.resolve(promise.data["source"])
            data.fingerprint(source)
        except (DataError, MissingDependencyError) as problem:
            return unchecked(f"{problem.message} (give the data with --data)")
    try:
        found = worker.call("the accuracy check", score, source, promise, report=report)
    except EdgecompileError as problem:
        return [failed("accuracy", problem)], ()
    if found["fingerprint"] != promise.data["fingerprint"]:
        text = f"{source.spec} is not the data of the build: fingerprint {found['fingerprint'][:12]}, "
        return [check("accuracy", False, f"{text}the manifest's is {promise.data['fingerprint'][:12]}")], ()
    figures = [
        Figure(
            name=name,
            of="model",
            value=value,
            unit="",
            label=MEASURED,
            device=LocalDevice().facts().name,
            date=now(),
            split="test",
            samples=found["samples"],
            executed_on=promise.winner.id,
        )
        for name, value in promise.named(found).items()
    ]
    return judge_metrics(found, promise, same_machine=promise.same_machine), tuple(figures)


def judge_metrics(found: Mapping[str, Any], promise: Promise, *, same_machine: bool) -> list[Check]:
    """`judge_metric` of all outputs together, then of each that has a metric of its own; found: what `score` gives."""
    samples = found["samples"]
    checks = [judge_metric(found["value"], samples, promise, same_machine=same_machine)]
    for name in promise.outputs:
        value = found["outputs"][name]
        own = judge_metric(value, samples, promise.of_output(name), same_machine=same_machine)
        checks.append(dataclasses.replace(own, name=f"{own.name}/{name}"))
    return checks


def judge_metric(value: float, samples: int, promise: Promise, *, same_machine: bool) -> Check:
    """On the build's machine the metric must be the manifest's; elsewhere it may be worse within the interval there."""
    assert promise.data is not None
    assert promise.metric is not None
    scale = max(abs(value), abs(promise.metric))
    found, promised = (format_metric(score, scale) for score in (value, promise.metric))
    text = f"{promise.data['metric']} {found} on {samples} test samples, the manifest says {promised}"
    if abs(value - promise.metric) <= METRIC_TOLERANCE:
        return check("accuracy", True, text)
    text = f"{text}: {value - promise.metric:+.6f}"
    if same_machine or promise.worst is None:
        return check("accuracy", False, text)
    higher = promise.data["higher_is_better"]
    holds = value >= promise.worst if higher else value <= promise.worst
    bound = (
        f"at {'least' if higher else 'most'} {format_metric(promise.worst, scale)}, the end of the build's 95% interval"
    )
    return check("accuracy", holds, f"{text} (another machine than the build's; expected {bound})")


# What follows runs in the worker.


def score(source: DataSource, promise: Promise, *, report: Report) -> dict[str, Any]:
    """{fingerprint, value, samples, outputs} of the winner on the source's test set; the fingerprint alone where it is
    another data set's."""
    assert promise.data is not None
    known = data.fingerprint(source)
    if known is not None and known != promise.data["fingerprint"]:
        return {"fingerprint": known}
    task = data.load(source, promise.expected)
    if task.fingerprint != promise.data["fingerprint"]:
        return {"fingerprint": task.fingerprint}
    metric, labels, x, outputs = on_test_set(promise.winner, task, promise.signature, report)
    value = metric.score(labels, outputs, x)
    samples = len(next(iter(labels.values())))
    each = per_output.scores(task, labels, outputs, x)
    return {"fingerprint": task.fingerprint, "value": value, "samples": samples, "outputs": each}
