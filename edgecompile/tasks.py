"""What there is to know of a task before its arrays are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgecompile import __version__, data
from edgecompile.artifact import sha256_json
from edgecompile.cache import Cache
from edgecompile.code import package_digest
from edgecompile.data import CALLABLE, IMAGES, TABLE, DataSource, Expected
from edgecompile.data.expected import ImageForm
from edgecompile.job import Settings, task_of
from edgecompile.stages.base import Progress
from edgecompile.task import AUTOENCODER, Task

_ANY_FORM = Expected(ImageForm(8, 8, 4))


@dataclass(frozen=True)
class OutputFacts:
    """An output's labels: what they are, and the metric of it alone, None where it is the only one."""

    name: str
    kind: str
    metric: str | None
    higher_is_better: bool


@dataclass(frozen=True)
class TaskFacts:
    """Sample counts and what the task can serve for. `trainable`: it has what a loss needs. outputs: those whose labels
    were read by their values, and those with a metric of their own."""

    name: str
    kind: str
    train: int
    test: int
    trainable: bool
    metric: str | None
    higher_is_better: bool
    parity_tolerance: float | None
    fingerprint: str
    outputs: tuple[OutputFacts, ...] = ()
    notes: tuple[str, ...] = ()

    def words(self) -> tuple[str, ...]:
        """How the data was read, and what judges each output; () where the task says so itself."""
        told = [f"{f'{o.name!r} ' if o.name else ''}{o.kind} ({o.metric or self.metric})" for o in self.outputs]
        whole = f"; all: {self.metric}" if len(told) > 1 else ""
        return (*((f"labels: {', '.join(told)}{whole}",) if told else ()), *self.notes)


def read_facts(source: DataSource, *, report: Callable[[Progress], None]) -> TaskFacts:
    """The facts, by loading the task. Runs in the worker: a user's function may import anything."""
    del report
    # What form a folder's images will have is the model's to say; for counting them any does.
    return facts_of(data.load(source, _ANY_FORM if source.kind in (IMAGES, TABLE) else None))


def read_facts_for(settings: Settings, *, report: Callable[[Progress], None]) -> TaskFacts:
    """The facts, now that the model is known, which its stages will want to have loaded anyway. In the worker."""
    del report
    task = task_of(settings)
    assert task is not None
    return facts_of(task)


def facts_of(task: Task) -> TaskFacts:
    trainable = task.train is not None and (task.train.y is not None or task.kind == AUTOENCODER)
    tested = task.metric is not None and task.test is not None and task.test.y is not None
    own = task.metrics
    kinds = {**dict.fromkeys(own, task.kind), **task.kinds}
    return TaskFacts(
        name=task.name,
        kind=task.kind,
        train=len(task.train) if task.train else 0,
        test=len(task.test) if task.test else 0,
        trainable=trainable,
        metric=task.metric.name if task.metric and tested else None,
        higher_is_better=task.metric.higher_is_better if task.metric else True,
        parity_tolerance=task.parity_tolerance,
        fingerprint=task.fingerprint,
        outputs=tuple(
            OutputFacts(name, kind, own[name].name, own[name].higher_is_better)
            if name in own
            else OutputFacts(name, kind, None, True)
            for name, kind in kinds.items()
        ),
        notes=task.notes,
    )


def remembered(
    cache: Cache, fingerprint: str | None, source: DataSource, expected: Expected | None = None
) -> TaskFacts | None:
    """The facts of this source with data of this fingerprint, where this version of the code found them before.

    expected: of the model they were read for. A file that was damaged counts as absent.
    """
    found = None if fingerprint is None else cache.kept(_path(cache, fingerprint, source, expected))
    if found is None:
        return None
    outputs = tuple(OutputFacts(**output) for output in found["outputs"])
    return TaskFacts(**{**found, "outputs": outputs, "notes": tuple(found["notes"])})


def remember(cache: Cache, facts: TaskFacts, source: DataSource, expected: Expected | None = None) -> None:
    """Keep the facts for `remembered`; those of a user's function are only known once it has run, so not kept."""
    if source.kind != CALLABLE:
        cache.keep(_path(cache, facts.fingerprint, source, expected), asdict(facts))


def _path(cache: Cache, fingerprint: str, source: DataSource, expected: Expected | None) -> Path:
    """Equal bytes under another name or read by other code are other facts."""
    key = sha256_json(
        [fingerprint, __version__, package_digest(), source.kind, source.spec, asdict(expected) if expected else None]
    )[:32]
    return cache.root / "tasks" / f"{key}.json"
