"""Does a bundle compute on a board what it computes here? Outputs of real samples, and the metric on the test set."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import bundle, compare, data, golden, parity, per_output
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.backends.litert import unreferenced
from edgecompile.compare import Allowance
from edgecompile.data import DataSource
from edgecompile.devices.base import Device
from edgecompile.devices.benchmark import outputs
from edgecompile.errors import BundleError, DataError, MissingDependencyError
from edgecompile.first_parted import first_parted
from edgecompile.gates import Check
from edgecompile.job import now
from edgecompile.loaders.interpreter import dequantize, quantize
from edgecompile.manifest import MEASURED, Figure
from edgecompile.measure import engine_of, of_device
from edgecompile.promise import Promise, check
from edgecompile.stages.base import Progress
from edgecompile.stages.evaluate import samples as as_inputs
from edgecompile.task import Array, Arrays
from edgecompile.tflite_file import read
from edgecompile.verify import (
    Report,
    Verification,
    check_files,
    check_model,
    engine_outputs,
    read_promise,
    reference_outputs,
    unloaded,
)
from edgecompile.verify_accuracy import judge_metrics
from edgecompile.worker import Worker

_FEW = 8  # samples that a difference is looked for with
_BINS = 4  # of a histogram of LSB that a line of text shows


def verify_on(
    path: Path,
    device: Device,
    worker: Worker,
    *,
    data_spec: str | None = None,
    samples: int | None = None,
    report: Report,
) -> Verification:
    """Run the bundle's model on the device, with the reference kernels and with the winning engine, and compare.

    samples: so many of the test set; None takes all. Without data the golden inputs are taken, and no metric.
    Errors: as `verify`, and what the device raises.
    """
    manifest = bundle.open_bundle(path)
    promise = read_promise(path, manifest)
    promise = dataclasses.replace(promise, winner=of_device(promise.winner, device))
    files, changed = check_files(path, manifest)
    if changed & promise.files:
        return Verification(path, (files, *unloaded(changed & promise.files)), ())
    checks = [files, check_model(path, promise)]
    if checks[1].passed is False:
        return Verification(path, tuple(checks), ())
    source, why = _source(promise, data_spec)
    if source is not None:
        found = worker.call("reading the test set", test_samples, source, promise, samples, report=report)
        x = found["x"]
    else:
        found, x = None, golden.read(path / bundle.GOLDEN)[golden.INPUTS]

    compared = _Compared(promise, device, worker, report)
    checks.append(compared.by_reference_kernels(x))
    engine, close = compared.by_engine(x)
    checks.append(close)
    if source is None or found is None:
        return Verification(path, (*checks, check("accuracy", None, f"not checked: {why}")), ())
    name = device.facts().name
    specs = {t.name: t for t in read(promise.model).signature.outputs}
    real = {key: array if array.dtype.kind == "f" else dequantize(array, specs[key]) for key, array in engine.items()}
    scores = worker.call("the metric", score_outputs, source, promise, real, report=report)
    assert promise.data is not None
    figures = [
        Figure(
            name=metric,
            of="model",
            value=value,
            unit="",
            label=MEASURED,
            device=name,
            date=now(),
            split="test",
            samples=found["samples"],
            executed_on=f"{promise.winner.id}: {device.facts().executed_on(engine_of(promise.winner))}",
        )
        for metric, value in promise.named(scores).items()
    ]
    return Verification(path, (*checks, *_accuracies({**found, **scores}, promise)), tuple(figures))


def _source(promise: Promise, data_spec: str | None) -> tuple[DataSource | None, str]:
    """The data of the build, or why it isn't there."""
    if promise.data is None:
        return None, "the bundle was built without data"
    if promise.metric is None:
        return None, "the data of the build has no labelled test set"
    if data_spec:
        return data.resolve(data_spec), ""
    try:
        source = data.resolve(promise.data["source"])
        data.fingerprint(source)
    except (DataError, MissingDependencyError) as problem:
        return None, f"{problem.message} (give the data with --data)"
    return source, ""


class _Compared:
    """The model there and here. A check that fails names the first operator that differs."""

    def __init__(self, promise: Promise, device: Device, worker: Worker, report: Report) -> None:
        self._promise, self._device, self._worker, self._report = promise, device, worker, report
        self._name = device.facts().name

    def by_reference_kernels(self, x: Arrays) -> Check:
        why = self._here("the reference kernels", unreferenced_by, self._promise.model)
        if why:
            text = f"not compared on {self._name}: LiteRT's reference kernels {why}"
            return check("reference outputs", None, text)
        model = Candidate("reference", "litert", self._promise.model, 1)
        given, own = self._by_reference_kernels(model, x)
        found = _equal(given, own, self._name)
        if found.passed is not False:
            return found
        few = _differing(x, given, own)
        return self._placed(found, model, lambda part: _equal(*self._by_reference_kernels(part, few), self._name))

    def by_engine(self, x: Arrays) -> tuple[Arrays, Check]:
        """(the outputs there, the check)"""
        backend = self._promise.winner.backend
        if backend not in BACKENDS:
            raise BundleError(
                f"the winner's backend {backend!r} is none of this edgecompile", hint="a newer edgecompile"
            )
        if BACKENDS[backend].on_board:
            return self._by_built_engine(self._promise.winner, x)
        given, own, found = self._by_engine(self._promise.winner, x)
        if found.passed is False and backend == "litert":  # others' files can't be cut
            few = _differing(x, given, own)
            found = self._placed(found, self._promise.winner, lambda part: self._by_engine(part, few)[2])
        return given, found

    def _by_reference_kernels(self, winner: Candidate, x: Arrays) -> tuple[Arrays, Arrays]:
        given = self._there("reference kernels there", {**winner.job(), "reference": True}, x)
        return given, self._here("the reference kernels", reference_outputs, winner.model, x)

    def _by_engine(self, winner: Candidate, x: Arrays) -> tuple[Arrays, Arrays, Check]:
        given = self._there(f"{winner.id} there", winner.job(), x)
        file = winner.model if winner.backend == "litert" else self._promise.model
        litert = dataclasses.replace(winner, backend="litert", model=file, config={"xnnpack": True})
        own = self._here("the reference kernels", reference_outputs, file, x)
        _, xnnpack = self._here("XNNPACK", engine_outputs, litert, file, x)
        # As the build's gate: an engine that promises the reference kernels' integers has to give them.
        known = own if winner.config.get("exact") else xnnpack
        return given, own, _close(given, own, known, file, self._promise, self._name)

    def _by_built_engine(self, winner: Candidate, x: Arrays) -> tuple[Arrays, Check]:
        """Against the graph that it was built from, which the bundle has beside it."""
        graph = winner.model.with_suffix(bundle.GRAPH_SUFFIX).relative_to(self._promise.model.parent)
        if str(graph) not in self._promise.files:
            raise BundleError(f"the manifest names no {graph}, of which {winner.id} was built", hint=bundle.AGAIN)
        given = self._there(f"{winner.id} there", winner.job(), x)
        own = self._here("the engine's graph", graph_outputs, winner, x)
        verdicts = {key: compare.half_parity(given[key], array) for key, array in own.items()}
        told = [f"{key!r} differs by up to {v.max_abs:.3g}, allowed {v.tolerance:.3g}" for key, v in verdicts.items()]
        text = f"{winner.id} on {self._name} against its graph by ONNX Runtime here: {'; '.join(told)}"
        return given, check("parity", all(v.passed for v in verdicts.values()), text)

    def _there(self, text: str, job: dict[str, Any], x: Arrays) -> Arrays:
        return outputs(self._device, job, x, lambda done, total: self._report(Progress(text, done, total)))

    def _here(self, text: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._worker.call(text, function, *arguments, report=self._report)

    def _placed(self, found: Check, whole: Candidate, again: Callable[[Candidate], Check]) -> Check:
        place = first_parted(whole, lambda part: again(part).passed is False, report=self._report)
        return dataclasses.replace(found, text=f"{found.text}; {place}")


def _differing(x: Arrays, a: Arrays, b: Arrays) -> Arrays:
    """Of the samples, a few whose outputs are furthest apart."""
    apart = sum(np.abs(a[key].astype(np.float64) - b[key]).reshape(len(a[key]), -1).max(axis=1) for key in b)
    chosen = np.sort(np.argsort(apart)[-_FEW:])
    return {key: array[chosen] for key, array in x.items()}


def _equal(there: Mapping[str, Array], here: Mapping[str, Array], name: str) -> Check:
    """The reference kernels on both machines: integers are equal, floats within 1e-5 of their range."""
    verdicts = {key: compare.parity(there[key], array, array, None) for key, array in here.items()}
    n = len(next(iter(here.values())))
    what = f"the reference kernels on {name} and here, {n} samples"
    failed = [f"{key!r} differs by {v.relative:.3g} of its range" for key, v in verdicts.items() if not v.passed]
    if failed:
        return check("reference outputs", False, f"{what}: {'; '.join(failed)}")
    exact = all(v.exact for v in verdicts.values())
    worst = max(v.relative for v in verdicts.values())
    return check("reference outputs", True, f"{what}: {'bit-equal' if exact else f'within {worst:.1e} of their range'}")


def _close(
    there: Mapping[str, Array],
    reference: Mapping[str, Array],
    known: Mapping[str, Array],
    model: Path,
    promise: Promise,
    name: str,
) -> Check:
    """known: outputs as far from the reference as the winner's may be, beside what the build allowed. model: the
    .tflite that they all are of."""
    of = parity.outputs_of(read(model))
    found = parity.verdicts(there, reference, known, of, exact=bool(promise.winner.config.get("exact")))
    allowed = {
        key: promise.allowed.get(key, Allowance(0.0)).wider(compare.allowance(array, known[key], of.scales[key]))
        for key, array in reference.items()
    }
    failed = parity.failures(there, reference, found, of, allowed)
    told = []
    for key, verdict in found.items():
        bins = verdict.lsb_histogram
        if bins is None and key in of.steps:
            bins = Counter(np.rint(np.abs(there[key] - reference[key]) / of.steps[key]).astype(int).ravel().tolist())
        told.append(f"{failed.get(key, f'{key!r} differs by up to {verdict.max_abs:.3g}')}{_histogram(bins)}")
    text = f"{promise.winner.id} on {name} against the reference kernels: {'; '.join(told)}"
    return check("parity", not failed, text)


def _histogram(bins: Mapping[int, int] | None) -> str:
    if not bins:
        return ""
    total = sum(bins.values())
    shown = [f"{lsb} LSB {count / total:.2%}" for lsb, count in sorted(bins.items())[:_BINS]]
    return f" ({', '.join(shown)}{' and more' if len(bins) > _BINS else ''})"


def _accuracies(found: Mapping[str, Any], promise: Promise) -> list[Check]:
    assert promise.data is not None
    if found["fingerprint"] != promise.data["fingerprint"]:
        return [check("accuracy", False, "the data is not that of the build: its fingerprint is another")]
    if found["samples"] == found["all"]:
        return judge_metrics(found, promise, same_machine=False)
    text = f"{promise.data['metric']} {found['value']:.4f} on {found['samples']} of {found['all']} test samples"
    return [check("accuracy", None, f"{text}; not judged, the manifest's {promise.metric:.4f} is of all")]


# What follows runs in the worker.


def unreferenced_by(model: Path, *, report: Report) -> str:
    """Why the reference kernels can't be asked for the model; empty where they can."""
    del report
    return unreferenced(read(model))


def graph_outputs(candidate: Candidate, x: Arrays, *, report: Report) -> Arrays:
    """Of what an engine was built from, by the backend's runner of this machine."""
    del report
    graph = dataclasses.replace(candidate, model=candidate.model.with_suffix(bundle.GRAPH_SUFFIX))
    return BACKENDS[candidate.backend].open(graph).run(x)


def test_samples(source: DataSource, promise: Promise, limit: int | None, *, report: Report) -> dict[str, Any]:
    """{fingerprint, x, samples, all}: the test set's inputs as the model takes them, the first `limit` of them."""
    del report
    task = data.load(source, promise.expected)
    assert task.test is not None
    x = as_inputs(task.test, promise.signature)
    count = min(limit or len(task.test), len(task.test))
    # Quantized here: a board takes integers for what the model itself takes.
    taken = {spec.name: quantize(x[spec.name][:count], spec) for spec in promise.signature.inputs}
    return {"fingerprint": task.fingerprint, "x": taken, "samples": count, "all": len(task.test)}


def score_outputs(
    source: DataSource, promise: Promise, given: Mapping[str, Array], *, report: Report
) -> dict[str, Any]:
    """{value, outputs}: the metrics of these outputs, in real numbers, on the test samples they were made from."""
    del report
    task = data.load(source, promise.expected)
    assert task.test is not None
    assert task.test.y is not None
    assert task.metric is not None
    count = len(next(iter(given.values())))
    x = as_inputs(task.test, promise.signature)
    labels = {name: array[:count] for name, array in task.test.y.items()}
    x = {name: array[:count] for name, array in x.items()}
    each = per_output.scores(task, labels, given, x)
    return {"value": task.metric.score(labels, given, x), "outputs": each}
