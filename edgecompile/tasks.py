"""What there is to know of a task before its arrays are needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edgecompile import __version__, data
from edgecompile.artifact import sha256_json
from edgecompile.cache import Cache, write_file
from edgecompile.code import package_digest
from edgecompile.data import CALLABLE, IMAGES, DataSource, Expected
from edgecompile.data.expected import ImageForm
from edgecompile.stages.base import Progress
from edgecompile.task import AUTOENCODER

_ANY_FORM = Expected(ImageForm(8, 8, 4))


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
    # What form a folder's images will have is the model's to say; for counting them any does.
    task = data.load(source, _ANY_FORM if source.kind == IMAGES else None)
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

    A file that can't be read as facts counts as absent.
    """
    if fingerprint is None:
        return None
    try:
        found = json.loads(_path(cache, fingerprint, source).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = {field.name for field in fields(TaskFacts)}
    return TaskFacts(**found) if isinstance(found, dict) and set(found) == names else None


def remember(cache: Cache, facts: TaskFacts, source: DataSource) -> None:
    """Keep the facts for `remembered`; those of a user's function are only known once it has run, so not kept."""
    if source.kind != CALLABLE:
        write_file(_path(cache, facts.fingerprint, source), json.dumps(asdict(facts)))


def _path(cache: Cache, fingerprint: str, source: DataSource) -> Path:
    """Equal bytes under another name or read by other code are other facts."""
    key = sha256_json([fingerprint, __version__, package_digest(), source.kind, source.spec])[:32]
    return cache.root / "tasks" / f"{key}.json"
