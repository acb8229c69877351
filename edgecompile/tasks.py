"""What there is to know of a task before its arrays are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgecompile import __version__, data
from edgecompile.artifact import sha256_json
from edgecompile.cache import Cache
from edgecompile.code import package_digest
from edgecompile.data import CALLABLE, IMAGES, DataSource
from edgecompile.stages.base import Progress
from edgecompile.task import AUTOENCODER

_ANY_SIZE = (8, 8)


@dataclass(frozen=True)
class TaskFacts:
    """Sample counts and what the task can serve for. `trainable`: it has what a loss needs."""

    name: str
    kind: str
    train: int
    test: int
    trainable: bool
    metric: str | None
    higher_is_better: bool
    parity_tolerance: float | None
    fingerprint: str


def read_facts(source: DataSource, *, report: Callable[[Progress], None]) -> TaskFacts:
    """The facts, by loading the task. Runs in the worker: a user's function may import anything."""
    del report
    # What size a folder's images will have is the model's to say; for counting them any size does.
    task = data.load(source, image_size=_ANY_SIZE if source.kind == IMAGES else None)
    trainable = task.train is not None and (task.train.y is not None or task.kind == AUTOENCODER)
    tested = task.metric is not None and task.test is not None and task.test.y is not None
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
    )


def remembered(cache: Cache, fingerprint: str | None, source: DataSource) -> TaskFacts | None:
    """The facts of this source with data of this fingerprint, where this version of the code found them before.

    A file that was damaged counts as absent.
    """
    found = None if fingerprint is None else cache.kept(_path(cache, fingerprint, source))
    return TaskFacts(**found) if found is not None else None


def remember(cache: Cache, facts: TaskFacts, source: DataSource) -> None:
    """Keep the facts for `remembered`; those of a user's function are only known once it has run, so not kept."""
    if source.kind != CALLABLE:
        cache.keep(_path(cache, facts.fingerprint, source), asdict(facts))


def _path(cache: Cache, fingerprint: str, source: DataSource) -> Path:
    """Equal bytes under another name or read by other code are other facts."""
    key = sha256_json([fingerprint, __version__, package_digest(), source.kind, source.spec])[:32]
    return cache.root / "tasks" / f"{key}.json"
