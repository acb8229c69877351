"""From the source to the artifact that is deployed: loading, the teacher, the plan's steps, and the search for them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from edgecompile import compare, data, packing
from edgecompile.artifact import KERAS3, Artifact
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import ModelError
from edgecompile.job import Job, Settings
from edgecompile.loaders.base import LoadOptions
from edgecompile.request import Plan, Source, can_train, chain
from edgecompile.search import Found, Judge, Search, search
from edgecompile.session import Session
from edgecompile.stages.base import Stage
from edgecompile.stages.convert import Convert
from edgecompile.stages.load import Bridge, Reload, Train
from edgecompile.task import Metric


def compress(made: Plan, source: Artifact, settings: Settings, session: Session) -> list[Artifact]:
    """The artifact of each of the plan's steps."""
    teacher = source if made.teacher is None else _teacher(made.teacher, settings, session)
    artifact, steps = source, []
    for step in made.steps:
        learns = "teacher" in step.uses
        job = Job(step, artifact, settings, _budget(step, made), device_of(step), teacher if learns else None)
        artifact = session.run(job)
        steps.append(artifact)
        if isinstance(step, Bridge) and made.teacher is None:
            teacher = artifact
    return steps


def find_steps(
    made: Plan, config: Search, source: Artifact, baseline: Artifact, settings: Settings, session: Session
) -> Found:
    """What recipe auto decides, each trial being stages of the cache like any other build's."""
    assert made.facts is not None
    assert made.facts.metric is not None
    assert made.max_drop is not None
    metric = Metric(made.facts.metric, lambda *_: math.nan, made.facts.higher_is_better)
    before = baseline.history[-1].metrics["validation"]

    def size(artifact: Artifact) -> int:
        form = made.request.pack
        return packing.packed_size(artifact.model, form) if form else artifact.model.stat().st_size

    def run(steps: Sequence[Stage]) -> list[Artifact]:
        trial = with_steps(made, steps, config)
        session.total += len(trial.steps)
        return compress(trial, source, settings, session)

    judge = Judge(
        run=run,
        drop=lambda value: compare.metric_drop(metric, before, value),
        size=size,
        say=session.display.line,
        limit=made.max_drop * config.margin,
    )
    return search(
        config, judge, trains=can_train(made.source), packed=bool(made.request.pack), integer=made.io == "int8"
    )


def with_steps(made: Plan, steps: Sequence[Stage], config: Search) -> Plan:
    """The plan of one trial, with its share of the time."""
    minutes = made.request.budget_minutes
    share = None if minutes is None else minutes / config.evaluations
    return dataclasses.replace(made, budget_minutes=share, steps=chain(made.recipe.name, steps, made.source))


def device_of(step: Stage) -> tuple[str, ...]:
    """The identity of this machine, where the stage measures on it."""
    return (LocalDevice().facts().identity,) if "device" in step.uses else ()


def load_source(source: Source, settings: Settings, session: Session) -> Artifact:
    """The loaded model; a built-in one is trained here where that takes seconds."""
    first = source.first
    if not isinstance(first, Train):
        return session.run(Job(first, None, settings))
    job = training_job(first, settings)
    if not first.on_first_use and session.cache.get(job.key) is None:
        raise ModelError(
            f"the built-in model {first.model!r} has no trained weights here",
            hint=f"`edgecompile models train {first.model}`, or build a file of yours with --data {first.model}",
        )
    trained = session.run(job)
    if settings.options.input_shape:
        session.total += 1
        return session.run(Job(Reload(), trained, settings))
    return trained


def _teacher(source: Source, settings: Settings, session: Session) -> Artifact:
    """The model that --teacher names, as one that can be traced into a training step."""
    session.total += 1
    teacher = load_source(source, settings, session)
    if teacher.kind != KERAS3:
        return teacher
    session.total += 1
    return session.run(Job(Bridge(), teacher, settings))


def training_job(first: Train, settings: Settings) -> Job:
    """The training of a built-in model: on its own data and with one seed, whatever the build that asks for it."""
    own = data.resolve(first.model)
    mine = dataclasses.replace(settings, data=own, fingerprint=data.fingerprint(own), options=LoadOptions(), seed=0)
    return Job(first, None, mine)


def _budget(step: Stage, made: Plan) -> float | None:
    """The step's share of --budget-minutes, in seconds: by the epochs that the recipe gives it."""
    minutes = made.budget_minutes
    epochs = getattr(step, "epochs", 0)
    if minutes is None or not epochs:
        return None
    return minutes * 60 * epochs / sum(getattr(s, "epochs", 0) for s in made.steps)


def as_float_tflite(model: Artifact, settings: Settings, session: Session) -> Artifact:
    return session.run(Job(Convert(), model, dataclasses.replace(settings, io="float")), announce=False)
