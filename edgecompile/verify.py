"""Does a bundle still hold what its manifest says? Everything is recomputed, nothing believed."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Set
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
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import BundleError, DataError, EdgecompileError, VerifyError
from edgecompile.gates import Check
from edgecompile.job import tool_versions
from edgecompile.manifest import Figure, find
from edgecompile.promise import HINT, Promise, Promised, check, failed
from edgecompile.stages.base import Progress
from edgecompile.stages.evaluate import check_finite
from edgecompile.task import Array
from edgecompile.tflite_file import read
from edgecompile.verify_accuracy import ON_BOARD, check_accuracy
from edgecompile.worker import Worker

_AFTER_MODEL = ("golden outputs", "parity", "accuracy")
_FACTS = ("source", "metric", "fingerprint", "higher_is_better")

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


def verify(path: Path, worker: Worker, *, data_spec: str | None = None, report: Report) -> Verification:
    """Run every check on the bundle at `path`; native code runs in `worker`, as a damaged model may crash it.

    data_spec: as --data, where the manifest's own source isn't to be taken. BundleError for what is no bundle,
    DataError where `data_spec` names nothing; all that is wrong with the content is a failed check.
    """
    manifest = bundle.open_bundle(path)
    promise = read_promise(path, manifest)
    source = data.resolve(data_spec) if data_spec else None
    files, changed = check_files(path, manifest)
    if changed & promise.files:
        return Verification(path, (files, *unloaded(changed & promise.files)), ())
    model = check_model(path, promise)
    if model.passed is False:
        return Verification(path, (files, model, *_unchecked("the model can't be read", *_AFTER_MODEL)), ())
    reference, engine = _outputs(path, promise, worker, report)
    accuracies, figures = check_accuracy(promise, source, worker, report)
    return Verification(path, (files, model, reference, engine, *accuracies), figures)


def unloaded(changed: Set[str]) -> list[Check]:
    """The other checks, where a file that they need isn't the one that was built: nothing of it is loaded or run."""
    return _unchecked(f"{', '.join(sorted(changed))} is not loaded, as it was changed", "model", *_AFTER_MODEL)


def _unchecked(why: str, *names: str) -> list[Check]:
    return [check(name, None, f"not checked: {why}") for name in names]


def read_promise(path: Path, manifest: Mapping[str, Any]) -> Promise:
    try:
        winner = bundle.winner(manifest)
        tests = [record["metrics"] for record in manifest["history"] if record["stage"] == "test"]
        facts = manifest["data"]
        worst, outputs = None, {}
        if tests and facts:
            worst = _worst(tests[-1], facts["higher_is_better"])
            outputs = {
                name: Promised(of["metric"], of["higher_is_better"], of["value"], _worst(of, of["higher_is_better"]))
                for name, of in tests[-1].get("outputs", {}).items()
            }
        return Promise(
            winner=Candidate(
                winner["id"], winner["backend"], path / winner["file"], winner["threads"], winner["config"]
            ),
            model=path / bundle.MODEL,
            files=bundle.loaded_files(manifest),
            allowed={
                name: Allowance(float(verdict["tolerance"]), int(verdict["allowed_beyond"]))
                for name, verdict in winner["parity"].items()
            },
            signature=Signature.from_json(manifest["models"]["model"]["signature"]),
            data=facts and {**{key: facts[key] for key in _FACTS}, "outputs": facts.get("outputs", [])},
            metric=find(manifest, facts["metric"], "model") if facts and facts["metric"] else None,
            worst=worst,
            same_machine=_same_machine(manifest),
            outputs=outputs,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        what = f"{type(problem).__name__}: {problem}"
        raise BundleError(f"{path / 'manifest.json'} is damaged: {what}", hint="build the bundle again") from None


def _worst(test: Mapping[str, Any], higher_is_better: bool) -> float:
    low, high = test["interval"]
    return float(test["before"] + (low if higher_is_better else high))


def _same_machine(manifest: Mapping[str, Any]) -> bool:
    """Whether kernels must give here, bit for bit, what they gave where the bundle was built."""
    here, there = tool_versions(), manifest["environment"]
    if there["packages"]["ai-edge-litert"] != here["ai-edge-litert"] or there["machine"] != platform.machine():
        return False
    facts = LocalDevice().facts().details
    return bool(there["cpu"] == {"model": facts["cpu"], "features": facts["features"]})


def check_files(path: Path, manifest: Mapping[str, Any]) -> tuple[Check, frozenset[str]]:
    """(the check, the files that were changed)"""
    changed = bundle.changed_files(path, manifest)
    if changed:
        return check("files", False, f"changed since the build: {bundle.told(path, changed)}"), frozenset(changed)
    return check("files", True, f"{len(manifest['files'])} files have the sha256 of the manifest"), frozenset()


def check_model(path: Path, promise: Promise) -> Check:
    """The model is a sound .tflite with the promised inputs and outputs."""
    try:
        signature = read(path / bundle.MODEL).signature
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
        inputs, stored = golden.of_model(path / bundle.GOLDEN, promise.signature)
    except DataError as problem:
        missing = check("parity", None, "not checked: there are no golden outputs to compare with")
        return check("golden outputs", False, problem.message), missing
    try:
        fresh = worker.call("the reference kernels", reference_outputs, promise.model, inputs, report=report)
        reference = _judge_reference(fresh, stored, promise, worker, inputs, report)
    except EdgecompileError as problem:
        reference = failed("golden outputs", problem)
    if promise.winner.backend not in BACKENDS:
        reason = f"not checked: no backend {promise.winner.backend!r} in this edgecompile"
        return reference, check("parity", None, reason)
    if not BACKENDS[promise.winner.backend].runs_here(promise.winner):
        return reference, check("parity", None, f"not checked: {ON_BOARD}")
    several = variants([promise.winner], None)
    try:
        for engine in (*several.candidates, promise.winner):
            given, known = worker.call("the engine", engine_outputs, engine, promise.model, inputs, report=report)
            judged = _judge_parity(given, known, stored, dataclasses.replace(promise, winner=engine))
            if judged.passed is False:
                return reference, judged
    except EdgecompileError as problem:
        return reference, failed("parity", problem)
    if told := several.told().get(promise.winner.id):
        judged = dataclasses.replace(judged, text=f"{judged.text}; variants: {told}")
    return reference, judged


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
