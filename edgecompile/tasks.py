"""What there is to know of a task before its arrays are needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from edgecompile import data
from edgecompile.cache import Cache, writing
from edgecompile.data import DataSource
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


def examine(source: DataSource, *, report: Callable[[Progress], None]) -> TaskFacts:
    """The facts, by loading the task. Runs in the worker: a user's function may import anything."""
    del report
    # What size a folder's images will have is the model's to say; for counting them any size does.
    task = data.load(source, image_size=_ANY_SIZE if source.kind == "images" else None)
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


def remembered(cache: Cache, fingerprint: str | None) -> TaskFacts | None:
    """The facts of data with this fingerprint, where they were examined before."""
    path = cache.root / "tasks" / f"{fingerprint}.json"
    if fingerprint is None or not path.is_file():
        return None
    return TaskFacts(**json.loads(path.read_text()))


def remember(cache: Cache, facts: TaskFacts) -> None:
    path = cache.root / "tasks" / f"{facts.fingerprint}.json"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(asdict(facts)))
        scratch.replace(path)
