"""The build: plan, compress, verify, benchmark, select, then the gates, then the bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import accounting, data, gates, golden, packaging
from edgecompile.accounting import Rung
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.compression import as_float_tflite, compress, find_steps, load_source, with_steps
from edgecompile.job import Job, Settings
from edgecompile.measure import Measurement, measure
from edgecompile.request import BuildRequest, Plan, after, data_source, load_options, look_up, plan
from edgecompile.session import Session
from edgecompile.stages.evaluate import Baseline, Parity, Test
from edgecompile.stages.layer_errors import LayerErrors
from edgecompile.stages.sparse_form import SparseForm

_TIE = 0.03
FLOAT_SOURCE = "float-source"  # the uncompressed model's id in a benchmark


@dataclass(frozen=True)
class Built:
    """Where the bundle is, its manifest, and how much of the build came from the cache."""

    out: Path
    manifest: Mapping[str, Any]
    cached: int
    ran: int


def make_plan(request: BuildRequest, session: Session) -> Plan:
    named = look_up(request)
    return plan(request, named, session.facts(data_source(request)))


def build(request: BuildRequest, session: Session) -> Built:
    """Build the bundle, or raise: an error of a gate leaves the bundle that was there as it was."""
    made = make_plan(request, session)
    session.total = 2 + len(made.steps) + len(after(made))
    session.display.line(f"{made.source.name} for {made.target.id}: recipe {made.recipe.name} ({made.reason})")
    settings = Settings(
        data=made.data,
        fingerprint=made.facts.fingerprint if made.facts else None,
        options=load_options(request),
        io=made.io,
        seed=request.seed,
        tensorboard=request.tensorboard.resolve() if request.tensorboard else None,
    )
    source = load_source(made.source, settings, session)
    if made.data is not None:
        settings = dataclasses.replace(settings, image_size=data.image_size(made.data, source.signature))
    baseline = session.run(Job(Baseline(), source, settings))

    found = None
    if made.recipe.search is not None:
        found = find_steps(made, made.recipe.search, source, baseline, settings, session)
        made = with_steps(made, found.steps, found.minutes)
        session.total += len(made.steps)
    steps = list(compress(made, source, settings, session))
    artifact = steps[-1] if steps else source
    gates.check_io(artifact.signature, made.io)
    uncompressed = _uncompressed(source, settings, session)
    sparse = session.run(Job(SparseForm(), artifact, settings), announce=False)
    runnable = artifact.replace(files={**artifact.files, **sparse.files})
    candidates = [
        candidate for name in made.backends for candidate in BACKENDS[name].compile(runnable, made.target, made.threads)
    ]
    stage = Parity(tuple(candidates), str(baseline.files["golden"]))
    parity = session.run(Job(stage, artifact, settings, depends=_ids(baseline, candidates)))
    verdicts = parity.history[-1].metrics["parity"]
    passed = [c for c in candidates if all(v["passed"] for v in verdicts[c.id].values())]
    checks = [gates.parity(verdicts), gates.size(artifact.model.stat().st_size, made.max_size)]
    gates.enforce(checks)

    named = next((step for step in reversed(steps) if step.history[-1].stage != "slim"), source)
    ladder = accounting.rungs(steps, lambda made: as_float_tflite(made, settings, session))
    measurement = _measure(made, passed, uncompressed, ladder, baseline, parity, session)
    session.announce("select")
    winner, why = select(passed, measurement)
    session.display.line(f"{winner.id}: {why}")
    p50 = measurement.p50(winner.id) if measurement else None
    checks.append(gates.latency(p50, request.max_latency_ms))
    gates.enforce(checks)

    tested = None
    if made.labelled:
        test = Test(winner, str(baseline.files["test_outputs"]))
        tested = session.run(Job(test, artifact, settings, depends=_ids(baseline, [winner])))
    checks.append(gates.accuracy(tested.history[-1].metrics if tested else None, made.max_drop))
    if made.facts and made.facts.parity_tolerance is not None:
        checks.append(gates.tolerance(parity.history[-1].metrics["distances"][winner.id], made.facts.parity_tolerance))
    gates.enforce(checks)

    errors = _layer_errors(named, uncompressed, baseline, settings, session)
    session.announce("package")
    result = packaging.Result(
        plan=made,
        source=source,
        artifact=artifact,
        named=named,
        errors=errors,
        found=found,
        ladder=tuple(ladder),
        uncompressed=uncompressed,
        baseline=baseline,
        parity=parity,
        tested=tested,
        measurement=measurement,
        candidates=tuple(candidates),
        winner=winner,
        why=why,
        checks=tuple(checks),
        float_id=FLOAT_SOURCE,
    )
    manifest = packaging.write(result)
    return Built(made.out, manifest, session.cached, session.ran)


def _uncompressed(source: Artifact, settings: Settings, session: Session) -> Artifact:
    """The source as a plain float .tflite: what size and latency are compared with."""
    return source if source.kind == TFLITE else as_float_tflite(source, settings, session)


def _layer_errors(
    named: Artifact, uncompressed: Artifact, baseline: Artifact, settings: Settings, session: Session
) -> Artifact | None:
    """Tensor by tensor, the compressed model against the float one; None where nothing was compressed."""
    keys = [made.history[-1].key for made in (named, uncompressed, baseline)]
    if keys[0] == keys[1]:
        return None
    stage = LayerErrors(str(uncompressed.model), str(baseline.files["golden"]))
    return session.run(Job(stage, named, settings, depends=tuple(keys[1:])), announce=False)


def _ids(baseline: Artifact, candidates: list[Candidate]) -> tuple[str, ...]:
    described = [f"{c.id} {c.threads} {sorted(c.config.items())}" for c in candidates]
    return (baseline.history[-1].key, *described)


def _measure(
    made: Plan,
    passed: list[Candidate],
    uncompressed: Artifact,
    ladder: list[Rung],
    baseline: Artifact,
    parity: Artifact,
    session: Session,
) -> Measurement | None:
    if not made.measures:
        return None
    session.announce("benchmark")
    others = {FLOAT_SOURCE: uncompressed, **{rung.id: rung.artifact for rung in ladder if rung.id}}
    everyone = [*passed]
    for name, model in others.items():
        plain = BACKENDS["litert"].compile(model, made.target, made.threads)[0]
        everyone.append(dataclasses.replace(plain, id=name))
    inputs = golden.read(baseline.files["golden"], golden.INPUTS)[golden.INPUTS]
    measurement, cached = measure(
        everyone,
        inputs,
        depends=(parity.history[-1].key, *(model.history[-1].key for model in others.values())),
        cache=session.cache,
        again=made.request.remeasure,
        report=session.display.progress,
    )
    if cached:
        session.cached += 1
    else:
        session.ran += 1
    session.display.done(measurement.record, cached=cached)
    return measurement


def select(passed: list[Candidate], measurement: Measurement | None) -> tuple[Candidate, str]:
    """The candidate measured fastest; the target's first preference, said to be not measured, without a device."""
    if measurement is None:
        return passed[0], "taken by preference, not measured: there is no device"
    fastest = min(measurement.p50(c.id) for c in passed)
    # A difference that the next run may turn around is none: the target's order of preference decides then.
    best = next(c for c in passed if measurement.p50(c.id) <= fastest * (1 + _TIE))
    if measurement.p50(best.id) > fastest:
        return best, f"preferred: within {_TIE:.0%} of the fastest of {len(passed)}"
    return best, f"measured fastest of {len(passed)}"
