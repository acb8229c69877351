"""From the source to the artifact that is deployed: loading, the teacher, and the plan's steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from edgecompile import data
from edgecompile.artifact import KERAS3, Artifact, Signature
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import ModelError
from edgecompile.job import Job, Settings
from edgecompile.loaders.base import LoadOptions
from edgecompile.request import Plan, Source, chain
from edgecompile.session import Session
from edgecompile.stages.base import Stage
from edgecompile.stages.convert import Convert
from edgecompile.stages.load import Bridge, Reload, Train


def compress(
    made: Plan, source: Artifact, settings: Settings, session: Session, least: float | None = None
) -> Iterator[Artifact]:
    """The artifact of each of the plan's steps, as it is made. least: as Job's."""
    teacher = source if made.teacher is None else _teacher(made.teacher, source.signature, settings, session)
    artifact, spent = source, 0.0
    for number, step in enumerate(made.steps):
        learns = "teacher" in step.uses
        budget = _budget(made, number, spent)
        job = Job(step, artifact, settings, budget, device_of(step), teacher if learns else None, least)
        artifact = session.run(job)
        spent += _trained(artifact)
        yield artifact
        if isinstance(step, Bridge) and made.teacher is None:
            teacher = artifact


def with_steps(made: Plan, steps: Sequence[Stage], minutes: float | None) -> Plan:
    """The plan of one trial, with its share of the time."""
    return dataclasses.replace(made, budget_minutes=minutes, steps=chain(made.recipe.called, steps, made.source))


def device_of(step: Stage) -> tuple[str, ...]:
    """The identity of this machine, where the stage measures on it."""
    return (LocalDevice().facts().identity,) if "device" in step.uses else ()


def load_source(source: Source, settings: Settings, session: Session) -> Artifact:
    """The loaded model; a built-in one is trained here where that takes seconds."""
    first = source.first
    if not isinstance(first, Train):
        return session.run(Job(first, None, settings))
    job = training_job(first, settings)
    if not first.on_first_use and not _is_trained(job, session):
        raise ModelError(
            f"the built-in model {first.model!r} has no trained weights here",
            hint=f"`edgecompile models train {first.model}`, or build a file of yours with --data {first.model}",
        )
    trained = session.run(job)
    if settings.options.input_shape:
        session.total += 1
        return session.run(Job(Reload(), trained, settings))
    return trained


def trains_first(source: Source, settings: Settings, session: Session) -> bool:
    """Whether `load_source` would have to train the model."""
    first = source.first
    return isinstance(first, Train) and first.on_first_use and not _is_trained(training_job(first, settings), session)


def _is_trained(job: Job, session: Session) -> bool:
    return session.cache.get(job.key) is not None


def load_teacher(source: Source, student: Signature, settings: Settings, session: Session) -> Artifact:
    """The model that --teacher names. ModelError where it takes or gives something else than the student."""
    teacher = load_source(source, settings, session)
    for side in ("inputs", "outputs"):
        its, ours = ([list(tensor.shape[1:]) for tensor in getattr(of, side)] for of in (teacher.signature, student))
        if its != ours:
            raise ModelError(
                f"the teacher {source.name} has {side} of shapes {its}, the model to be trained {ours}",
                hint="distillation needs a teacher of the same task, with the same inputs and outputs",
            )
    return teacher


def _teacher(source: Source, student: Signature, settings: Settings, session: Session) -> Artifact:
    """The teacher as a model that can be traced into a training step."""
    session.total += 1
    teacher = load_teacher(source, student, settings, session)
    if teacher.kind != KERAS3:
        return teacher
    session.total += 1
    return session.run(Job(Bridge(), teacher, settings))


def training_job(first: Train, settings: Settings) -> Job:
    """The training of a built-in model: on its own data and with one seed, whatever the build that asks for it."""
    own = data.resolve(first.model)
    mine = dataclasses.replace(settings, data=own, fingerprint=data.fingerprint(own), options=LoadOptions(), seed=0)
    return Job(first, None, mine)


def _budget(made: Plan, number: int, spent: float) -> float | None:
    """The share of --budget-minutes that step `number` has, in seconds: by the epochs that the recipe gives it, of what
    the steps before it left (in `spent` seconds), or of all where they took too much."""
    costs = [getattr(step, "epochs", 0) * getattr(step, "epoch_cost", 1.0) for step in made.steps]
    if made.budget_minutes is None or not costs[number]:
        return None
    seconds = made.budget_minutes * 60
    return max(seconds * costs[number] / sum(costs), (seconds - spent) * costs[number] / sum(costs[number:]))


def _trained(artifact: Artifact) -> float:
    """Seconds that a stage trained for; what it took when it was made, where it is from the cache."""
    record = artifact.history[-1]
    return record.seconds if "epochs" in record.metrics else 0.0


def as_float_tflite(model: Artifact, settings: Settings, session: Session) -> Artifact:
    return session.run(Job(Convert(), model, dataclasses.replace(settings, io="float")), announce=False)
