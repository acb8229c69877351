"""The build: plan, then one loop over the stages, then the gates, then the bundle."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgecompile import data, gates, packaging
from edgecompile.artifact import TFLITE, Artifact, StageRecord
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.cache import Cache
from edgecompile.data import DataSource
from edgecompile.errors import ModelError, WorkerCrashError
from edgecompile.job import Job, Settings, replay_losses, run_job
from edgecompile.loaders.base import LoadOptions
from edgecompile.locate import crashing_layer
from edgecompile.measure import Measurement, measure
from edgecompile.request import BuildRequest, Plan, after, data_source, load_options, look_up, plan
from edgecompile.stages.base import Progress, Stage
from edgecompile.stages.convert import Convert
from edgecompile.stages.evaluate import Baseline, Parity, Test
from edgecompile.stages.load import Reload, Train
from edgecompile.tasks import TaskFacts, read_facts, remember, remembered
from edgecompile.worker import Worker

_TIE = 0.03
FLOAT_SOURCE = "float-source"  # the uncompressed model's id in a benchmark


class Display(Protocol):
    """Where a build says what it does; the command line has two, a progress bar and plain lines."""

    def stage(self, number: int, total: int, name: str) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def done(self, record: StageRecord, cached: bool) -> None: ...
    def line(self, text: str) -> None: ...


@dataclass(frozen=True)
class Built:
    """Where the bundle is, its manifest, and how much of the build came from the cache."""

    out: Path
    manifest: Mapping[str, Any]
    cached: int
    ran: int


class Session:
    """One build's cache, worker and display."""

    def __init__(self, display: Display, cache: Cache | None = None, *, verbose: bool = False) -> None:
        self.display = display
        self.cache = cache or Cache()
        self.worker = Worker(self.cache.root / "logs" / f"{os.getpid()}.log", verbose=verbose)
        self.total = self.number = self.cached = self.ran = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.worker.close()
        if kind is None:  # an error's message names the log
            self.worker.log.unlink(missing_ok=True)

    def announce(self, name: str) -> None:
        self.number += 1
        self.display.stage(self.number, self.total, name)

    def run(self, job: Job, *, announce: bool = True) -> Artifact:
        """The job's artifact, from the cache where it is there."""
        if announce:
            self.announce(job.stage.name)
        found = self.cache.get(job.key)
        cached = found is not None
        if found is None:
            with self.cache.lock(job.key, waiting=self._waiting):
                found = self.cache.get(job.key) or self.cache.put(job.key, self._run(job))
        self.cached += cached
        self.ran += not cached
        if announce:
            self.display.done(found.history[-1], cached)
        if cached:
            self._log_again(job, found.history[-1])
        # An entry holds the history of the build that made it; ours is that of our own input.
        before = job.artifact.history if job.artifact else ()
        return found.replace(history=(*before, found.history[-1]))

    def _log_again(self, job: Job, record: StageRecord) -> None:
        """TensorBoard logs of a training that was done before, from what its record kept."""
        logs = job.logs
        if logs is not None and "losses" in record.metrics and not logs.exists():
            losses = record.metrics["losses"]
            self.worker.call("writing TensorBoard logs", replay_losses, losses, logs, report=self.display.progress)

    def _waiting(self) -> None:
        self.display.line("waiting for another build that is in this stage")

    def _run(self, job: Job) -> Artifact:
        out, work = self.cache.new_folder(job.key), self.cache.work_folder(job.key)
        try:
            made: Artifact = self.worker.call(
                f"stage {job.stage.name}", run_job, job, out, work, report=self.display.progress
            )
        except WorkerCrashError as crash:
            if not isinstance(job.stage, Convert):
                raise
            place = crashing_layer(self.worker, job, self.display.line)
            raise WorkerCrashError(f"{crash.message}{place}", hint=crash.hint) from None
        return made

    def facts(self, source: DataSource | None) -> TaskFacts | None:
        """What the data is; loaded only where its fingerprint isn't known here."""
        if source is None:
            return None
        known = remembered(self.cache, data.fingerprint(source), source)
        if known is not None:
            return known
        self.display.line(f"reading {source.spec}")
        facts: TaskFacts = self.worker.call("reading the data", read_facts, source, report=self.display.progress)
        remember(self.cache, facts, source)
        return facts


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
    source = _source(made, settings, session)
    if made.data is not None:
        settings = dataclasses.replace(settings, image_size=data.image_size(made.data, source.signature))
    baseline = session.run(Job(Baseline(), source, settings))

    artifact = source
    for step in made.steps:
        artifact = session.run(Job(step, artifact, settings, _budget(step, made)))

    gates.check_io(artifact.signature, made.io)
    uncompressed = _uncompressed(source, settings, session)
    candidates = [
        candidate for name in made.backends for candidate in BACKENDS[name].compile(artifact, made.target, made.threads)
    ]
    stage = Parity(tuple(candidates), str(baseline.files["golden"]))
    parity = session.run(Job(stage, artifact, settings, depends=_ids(baseline, candidates)))
    verdicts = parity.history[-1].metrics["parity"]
    passed = [c for c in candidates if all(v["passed"] for v in verdicts[c.id].values())]
    checks = [gates.parity(verdicts), gates.size(artifact.model.stat().st_size, made.max_size)]
    gates.enforce(checks)

    measurement = _measure(made, passed, uncompressed, baseline, parity, session)
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

    session.announce("package")
    result = packaging.Result(
        plan=made,
        source=source,
        artifact=artifact,
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


def _source(made: Plan, settings: Settings, session: Session) -> Artifact:
    """The loaded model; a built-in one is trained here where that takes seconds."""
    first = made.source.first
    if isinstance(first, Train):
        job = training_job(first, settings)
        if not first.on_first_use and session.cache.get(job.key) is None:
            raise ModelError(
                f"the built-in model {first.model!r} has no trained weights here",
                hint=f"`edgecompile models train {first.model}`, or build a file of yours with --data {first.model}",
            )
        trained = session.run(job)
        if made.request.input_shape:
            session.total += 1
            return session.run(Job(Reload(), trained, settings))
        return trained
    return session.run(Job(first, None, settings))


def training_job(first: Train, settings: Settings) -> Job:
    """The training of a built-in model: on its own data and with one seed, whatever the build that asks for it."""
    own = data.resolve(first.model)
    mine = dataclasses.replace(settings, data=own, fingerprint=data.fingerprint(own), options=LoadOptions(), seed=0)
    return Job(first, None, mine)


def _budget(step: Stage, made: Plan) -> float | None:
    """The step's share of --budget-minutes, in seconds: by the epochs that the recipe gives it."""
    minutes = made.request.budget_minutes
    epochs = getattr(step, "epochs", 0)
    if minutes is None or not epochs:
        return None
    return minutes * 60 * epochs / sum(getattr(s, "epochs", 0) for s in made.steps)


def _uncompressed(source: Artifact, settings: Settings, session: Session) -> Artifact:
    """The source as a plain float .tflite: what size and latency are compared with."""
    if source.kind == TFLITE:
        return source
    return session.run(Job(Convert(), source, dataclasses.replace(settings, io="float")), announce=False)


def _ids(baseline: Artifact, candidates: list[Candidate]) -> tuple[str, ...]:
    described = [f"{c.id} {c.threads} {sorted(c.config.items())}" for c in candidates]
    return (baseline.history[-1].key, *described)


def _measure(
    made: Plan,
    passed: list[Candidate],
    uncompressed: Artifact,
    baseline: Artifact,
    parity: Artifact,
    session: Session,
) -> Measurement | None:
    if not made.measures:
        return None
    session.announce("benchmark")
    plain = BACKENDS["litert"].compile(uncompressed, made.target, made.threads)[0]
    everyone = [*passed, dataclasses.replace(plain, id=FLOAT_SOURCE)]
    with np.load(baseline.files["golden"]) as golden:
        inputs = {k.removeprefix("inputs/"): golden[k] for k in golden.files if k.startswith("inputs/")}
    measurement, cached = measure(
        everyone,
        inputs,
        depends=(parity.history[-1].key, uncompressed.history[-1].key),
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
