"""Does a bundle still hold what its manifest says? Everything is recomputed, nothing believed."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import bundle, compare, data, golden, parity
from edgecompile.artifact import Signature
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.backends.litert import XNNPACK, LiteRtRunner, named_kernels, reference_kernels
from edgecompile.backends.variants import variants
from edgecompile.compare import Allowance
from edgecompile.data import DataSource
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import BundleError, DataError, EdgecompileError, MissingDependencyError, VerifyError
from edgecompile.gates import Check
from edgecompile.job import now, tool_versions
from edgecompile.manifest import MEASURED, Figure, find
from edgecompile.stages.base import Progress
from edgecompile.stages.evaluate import check_finite, on_test_set
from edgecompile.task import Array
from edgecompile.tflite_file import read
from edgecompile.worker import Worker

METRIC_TOLERANCE = 1e-6
_ON_BOARD = "the winning engine runs on its board alone (--on DEVICE checks it there)"
HINT = "build the bundle again, or restore its files"

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Verification:
    """All checks, in order. passed None: not checked, and the text says why. `figures` were recomputed now."""

    bundle: Path
    checks: tuple[Check, ...]
    figures: tuple[Figure, ...]

    @property
    def failed(self) -> list[str]:
        return [check.name for check in self.checks if check.passed is False]

    def to_json(self) -> dict[str, Any]:
        checks = [check.to_json() for check in self.checks]
        figures = [figure.to_json() for figure in self.figures]
        return {"bundle": str(self.bundle), "passed": not self.failed, "checks": checks, "figures": figures}

    def enforce(self) -> None:
        """VerifyError that names each failed check."""
        if self.failed:
            raise VerifyError(f"{self.bundle} failed: {', '.join(self.failed)}", hint=HINT)


@dataclass(frozen=True)
class Promise:
    """What the manifest says that can be recomputed.

    model: the .tflite, which the reference outputs are of. allowed: how far the winner may be from them, by output.
    worst: the far end of the metric's 95% interval, which another machine's engine may reach. data: the task's facts,
    None for a bundle made without data.
    """

    winner: Candidate
    model: Path
    allowed: Mapping[str, Allowance]
    signature: Signature
    data: Mapping[str, Any] | None
    metric: float | None
    worst: float | None
    same_machine: bool


def verify(path: Path, worker: Worker, *, data_spec: str | None = None, report: Report) -> Verification:
    """Run every check on the bundle at `path`; native code runs in `worker`, as a damaged model may crash it.

    data_spec: as --data, where the manifest's own source isn't to be taken. BundleError for what is no bundle,
    DataError where `data_spec` names nothing; all that is wrong with the content is a failed check.
    """
    manifest = bundle.open_bundle(path)
    promise = read_promise(path, manifest)
    source = data.resolve(data_spec) if data_spec else None
    files = check_files(path, manifest)
    model = check_model(path, promise)
    if model.passed is False:
        why = "not checked: the model can't be read"
        rest = [check(name, None, why) for name in ("golden outputs", "parity", "accuracy")]
        return Verification(path, (files, model, *rest), ())
    reference, engine = _outputs(path, promise, worker, report)
    accuracy, figures = _accuracy(promise, source, worker, report)
    return Verification(path, (files, model, reference, engine, accuracy), figures)


def check(name: str, passed: bool | None, text: str) -> Check:
    return Check(name, passed, text, VerifyError, HINT)


def read_promise(path: Path, manifest: Mapping[str, Any]) -> Promise:
    try:
        winner = next(c for c in manifest["candidates"] if c["id"] == manifest["winner"]["id"])
        tests = [record["metrics"] for record in manifest["history"] if record["stage"] == "test"]
        facts = manifest["data"]
        worst = None
        if tests and facts:
            low, high = tests[-1]["interval"]
            worst = tests[-1]["before"] + (low if facts["higher_is_better"] else high)
        return Promise(
            winner=Candidate(
                winner["id"], winner["backend"], path / winner["file"], winner["threads"], winner["config"]
            ),
            model=path / "model.tflite",
            allowed={
                name: Allowance(float(verdict["tolerance"]), int(verdict["allowed_beyond"]))
                for name, verdict in winner["parity"].items()
            },
            signature=Signature.from_json(manifest["models"]["model"]["signature"]),
            data=facts and {key: facts[key] for key in ("source", "metric", "fingerprint", "higher_is_better")},
            metric=find(manifest, facts["metric"], "model") if facts and facts["metric"] else None,
            worst=worst,
            same_machine=_same_machine(manifest),
        )
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as problem:
        what = f"{type(problem).__name__}: {problem}"
        raise BundleError(f"{path / 'manifest.json'} is damaged: {what}", hint="build the bundle again") from None


def _same_machine(manifest: Mapping[str, Any]) -> bool:
    """Whether kernels must give here, bit for bit, what they gave where the bundle was built."""
    here, there = tool_versions(), manifest["environment"]
    if there["packages"]["ai-edge-litert"] != here["ai-edge-litert"] or there["machine"] != platform.machine():
        return False
    facts = LocalDevice().facts().details
    return bool(there["cpu"] == {"model": facts["cpu"], "features": facts["features"]})


def check_files(path: Path, manifest: Mapping[str, Any]) -> Check:
    changed = bundle.changed_files(path, manifest)
    if changed:
        return check("files", False, f"changed since the build: {', '.join(changed)}")
    return check("files", True, f"{len(manifest['files'])} files have the sha256 of the manifest")


def check_model(path: Path, promise: Promise) -> Check:
    """The model is a sound .tflite with the promised inputs and outputs."""
    try:
        signature = read(path / "model.tflite").signature
    except EdgecompileError as problem:
        return check("model", False, problem.message)
    for side in ("inputs", "outputs"):
        found, promised = ([(t.name, t.dtype) for t in getattr(s, side)] for s in (signature, promise.signature))
        if found != promised:
            return check("model", False, f"its {side} are {_named(found)}, the manifest says {_named(promised)}")
    return check("model", True, "a sound .tflite with the inputs and outputs of the manifest")


def _named(tensors: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name!r} ({dtype})" for name, dtype in tensors) or "none"


def _outputs(path: Path, promise: Promise, worker: Worker, report: Report) -> tuple[Check, Check]:
    """(golden outputs: LiteRT's reference kernels repeated, parity: the winner's engine), both against golden.npz."""
    try:
        inputs, stored = _golden(path / "golden.npz", promise.signature)
    except DataError as problem:
        missing = check("parity", None, "not checked: there are no golden outputs to compare with")
        return check("golden outputs", False, problem.message), missing
    try:
        fresh = worker.call("the reference kernels", reference_outputs, promise.model, inputs, report=report)
        reference = _judge_reference(fresh, stored, promise, worker, inputs, report)
    except EdgecompileError as problem:
        reference = check("golden outputs", False, problem.message)
    if promise.winner.backend not in BACKENDS:
        reason = f"not checked: no backend {promise.winner.backend!r} in this edgecompile"
        return reference, check("parity", None, reason)
    if not BACKENDS[promise.winner.backend].runs_here(promise.winner):
        return reference, check("parity", None, f"not checked: {_ON_BOARD}")
    several = variants([promise.winner], None)
    try:
        for engine in (*several.candidates, promise.winner):
            given, known = worker.call("the engine", engine_outputs, engine, promise.model, inputs, report=report)
            judged = _judge_parity(given, known, stored, dataclasses.replace(promise, winner=engine))
            if judged.passed is False:
                return reference, judged
    except EdgecompileError as problem:
        return reference, check("parity", False, problem.message)
    if told := several.told().get(promise.winner.id):
        judged = dataclasses.replace(judged, text=f"{judged.text}; variants: {told}")
    return reference, judged


def _golden(path: Path, signature: Signature) -> tuple[dict[str, Array], dict[str, Array]]:
    """(inputs, reference outputs) by name; DataError where the file doesn't hold them."""
    try:
        arrays = golden.read(path)
    except golden.DAMAGED as problem:
        raise DataError(f"golden.npz can't be read: {problem}") from None
    found = []
    for role, tensors in ((golden.INPUTS, signature.inputs), (golden.REFERENCE, signature.outputs)):
        missing = [f"{role}/{tensor.name}" for tensor in tensors if tensor.name not in arrays[role]]
        if missing:
            raise DataError(f"golden.npz lacks {', '.join(missing)}")
        found.append({tensor.name: arrays[role][tensor.name] for tensor in tensors})
    inputs, stored = found
    if len({len(array) if array.ndim else 0 for array in (*inputs.values(), *stored.values())}) != 1:
        raise DataError("golden.npz: its inputs and outputs are of different numbers of samples")
    return inputs, stored


def _judge_reference(
    fresh: Mapping[str, Array],
    stored: Mapping[str, Array],
    promise: Promise,
    worker: Worker,
    inputs: Mapping[str, Array],
    report: Report,
) -> Check:
    """The same kernels on the same inputs: integers must be equal, floats within 1e-5 of their range.

    On another machine rounding may differ by more (dynamic-range models quantize what they compute): there a float
    may be off as the design allows engines to be, by three times the difference XNNPACK has.
    """
    worst = {name: compare.parity(fresh[name], array, array, None) for name, array in stored.items()}
    if not promise.same_machine and not all(p.passed for p in worst.values()):
        _, known = worker.call("XNNPACK", engine_outputs, _litert(promise.model), promise.model, inputs, report=report)
        judged = parity.verdicts(fresh, stored, known, parity.outputs_of(read(promise.model)))
        worst |= {name: judged[name] for name, array in stored.items() if array.dtype.kind == "f"}
    failed = {name: p for name, p in worst.items() if not p.passed}
    where = "this machine" if promise.same_machine else "another machine than the one that built it"
    kernels = worker.call("the reference kernels", kernels_of, promise.model, report=report)
    if failed:
        text = "; ".join(
            f"{name!r} differs from golden.npz by {p.relative:.3g} of its range, allowed {p.tolerance / p.range:.3g}"
            for name, p in failed.items()
        )
        return check("golden outputs", False, f"{text} ({kernels} on {where})")
    exact = all(p.exact for p in worst.values())
    how = "bit-equal" if exact else f"within {max(p.relative for p in worst.values()):.1e} of their range"
    n = len(next(iter(stored.values())))
    return check("golden outputs", True, f"{how} on {n} golden inputs, {kernels} on {where}")


def _judge_parity(
    given: Mapping[str, Array],
    known: Mapping[str, Array],
    stored: Mapping[str, Array],
    promise: Promise,
) -> Check:
    """The winner against the stored reference, by the tolerance that the build found.

    XNNPACK's present distance would not do: a damaged model moves XNNPACK as far as it moves the winner. Another
    machine's XNNPACK has other kernels, so there the present distance counts where it is the larger. Lists of
    detections have to have the same objects besides, but for what XNNPACK misses now, and a quarter at most.
    """
    of = parity.outputs_of(read(promise.model))
    found = parity.verdicts(given, stored, known, of, exact=bool(promise.winner.config.get("exact")))
    allowed = dict(promise.allowed)
    if not promise.same_machine:
        here = {name: compare.allowance(array, known[name], of.scales[name]) for name, array in stored.items()}
        allowed = {name: allowed.get(name, Allowance(0.0)).wider(limit) for name, limit in here.items()}
    if failed := parity.failures(given, stored, found, of, allowed):
        return check("parity", False, f"{promise.winner.id}: {'; '.join(failed.values())}")
    most = max(verdict.relative for verdict in found.values())
    return check("parity", True, f"{promise.winner.id} is within {most:.1e} of the range of the reference outputs")


def _accuracy(
    promise: Promise, source: DataSource | None, worker: Worker, report: Report
) -> tuple[Check, tuple[Figure, ...]]:
    """The task's metric on the test set, by the winner, against the manifest's."""

    def unchecked(why: str) -> tuple[Check, tuple[Figure, ...]]:
        return check("accuracy", None, f"not checked: {why}"), ()

    if promise.data is None:
        return unchecked("the bundle was built without data")
    if promise.metric is None:
        return unchecked("the data of the build has no labelled test set")
    if promise.winner.backend not in BACKENDS:
        return unchecked(f"no backend {promise.winner.backend!r} in this edgecompile")
    if not BACKENDS[promise.winner.backend].runs_here(promise.winner):
        return unchecked(_ON_BOARD)
    if source is None:
        try:
            source = data.resolve(promise.data["source"])
            data.fingerprint(source)
        except (DataError, MissingDependencyError) as problem:
            return unchecked(f"{problem.message} (give the data with --data)")
    try:
        found = worker.call("the accuracy check", score, source, promise, report=report)
    except EdgecompileError as problem:
        return check("accuracy", False, problem.message), ()
    if found["fingerprint"] != promise.data["fingerprint"]:
        text = f"{source.spec} is not the data of the build: fingerprint {found['fingerprint'][:12]}, "
        return check("accuracy", False, f"{text}the manifest's is {promise.data['fingerprint'][:12]}"), ()
    figure = Figure(
        name=promise.data["metric"],
        of="model",
        value=found["value"],
        unit="",
        label=MEASURED,
        device=LocalDevice().facts().name,
        date=now(),
        split="test",
        samples=found["samples"],
        executed_on=promise.winner.id,
    )
    return judge_metric(found["value"], found["samples"], promise, same_machine=promise.same_machine), (figure,)


def judge_metric(value: float, samples: int, promise: Promise, *, same_machine: bool) -> Check:
    """On the build's machine the metric must be the manifest's; elsewhere it may be worse within the interval there."""
    assert promise.data is not None
    assert promise.metric is not None
    text = f"{promise.data['metric']} {value:.4f} on {samples} test samples, the manifest says {promise.metric:.4f}"
    if abs(value - promise.metric) <= METRIC_TOLERANCE:
        return check("accuracy", True, text)
    text = f"{text}: {value - promise.metric:+.6f}"
    if same_machine or promise.worst is None:
        return check("accuracy", False, text)
    higher = promise.data["higher_is_better"]
    holds = value >= promise.worst if higher else value <= promise.worst
    bound = f"at {'least' if higher else 'most'} {promise.worst:.4f}, the end of the build's 95% interval"
    return check("accuracy", holds, f"{text} (another machine than the build's; expected {bound})")


# What follows runs in the worker.


def _litert(model: Path) -> Candidate:
    return Candidate(f"litert-{XNNPACK}", "litert", model, 1, {"xnnpack": True})


def reference_outputs(model: Path, inputs: Mapping[str, Array], *, report: Report) -> dict[str, Array]:
    """Outputs by LiteRT's reference kernels, or what stands for them: {input: [n, ...]} -> {output: [n, ...]} in the
    model's dtypes."""
    del report
    outputs = LiteRtRunner(model, reference_kernels(read(model))).run(inputs)
    check_finite(outputs, "the reference kernels' outputs on golden inputs")
    return outputs


def kernels_of(model: Path, *, report: Report) -> str:
    """What `reference_outputs` are of."""
    del report
    return named_kernels(read(model))


def engine_outputs(
    candidate: Candidate, model: Path, inputs: Mapping[str, Array], *, report: Report
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(the candidate's outputs, XNNPACK's of `model`, the .tflite), by output."""
    del report
    return BACKENDS[candidate.backend].open(candidate).run(inputs), LiteRtRunner(model, XNNPACK).run(inputs)


def score(source: DataSource, promise: Promise, *, report: Report) -> dict[str, Any]:
    """{fingerprint, value, samples} of the winner on the source's test set; the fingerprint alone where it is
    another data set's."""
    assert promise.data is not None
    known = data.fingerprint(source)
    if known is not None and known != promise.data["fingerprint"]:
        return {"fingerprint": known}
    task = data.load(source, image_size=data.image_size(source, promise.signature))
    if task.fingerprint != promise.data["fingerprint"]:
        return {"fingerprint": task.fingerprint}
    metric, labels, x, outputs = on_test_set(promise.winner, task, promise.signature, report)
    value = metric.score(labels, outputs, x)
    return {"fingerprint": task.fingerprint, "value": value, "samples": len(next(iter(labels.values())))}
