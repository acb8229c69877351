"""What a stage is, and what it is given.

A stage is a frozen dataclass: its fields are its configuration and part of its cache key. It takes an
artifact, writes NEW files under `ctx.out` and returns a new artifact. It runs in the worker process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgecompile import loaders
from edgecompile.artifact import Artifact, Signature
from edgecompile.errors import DataError, RecipeError
from edgecompile.loaders.base import LoadOptions, SourceModel
from edgecompile.task import Task

TRAINING, REPRESENTATIVE, NOTHING = "training", "representative", "nothing"


@dataclass(frozen=True)
class Progress:
    """How far a stage is, or (total = 0) just a line it has to say."""

    text: str
    done: int = 0
    total: int = 0


@dataclass
class Outcome:
    """What a stage returns: the new artifact's kind and files, and what goes into its record."""

    kind: str
    files: dict[str, Path]
    signature: Signature
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """`out`: empty folder for new files. `work`: folder that survives a kill, for checkpoints.

    `io`: "float" or "int8", the type of the bundle's inputs and outputs. `budget_seconds`: this stage's
    share of the training budget, or None. `task` is None where the user gave no data. `teacher`: the float Keras
    model that distillation takes, where a stage `uses` it. `least`: the validation metric at which training is given
    up, for it changes no result but only whether there is one.
    """

    out: Path
    work: Path
    task: Task | None
    io: str
    options: LoadOptions
    seed: int
    budget_seconds: float | None
    tensorboard: Path | None
    report: Callable[[Progress], None]
    teacher: Artifact | None = None
    least: float | None = None

    def load(self, artifact: Artifact) -> SourceModel:
        """The artifact's model in memory, by the loader of its kind."""
        return loaders.load(artifact.model, self.options)

    def require_task(self) -> Task:
        if self.task is None:
            raise DataError("this stage needs data", hint="give --data")
        return self.task

    def say(self, text: str) -> None:
        self.report(Progress(text))


def require(stage: str, **checks: tuple[Any, bool, str]) -> None:
    """RecipeError for the first setting that isn't what it must be: name=(value, whether it is, what it must be)."""
    for name, (value, passed, expected) in checks.items():
        if not passed:
            raise RecipeError(f"{stage}: {name} is {value!r}, expected {expected}", hint="correct the recipe's file")


class Stage(Protocol):
    """`accepts`: kinds of artifact it takes; `makes`: the kind it gives for each; `needs`: the data it wants.

    `judged`: the validation metric is taken after it; `tensorflow`: it works with TensorFlow.
    `uses` names what else its result depends on ("task", "io", "options", "budget", "teacher", "device") and so
    belongs to its cache key.
    """

    @property
    def name(self) -> str: ...
    @property
    def accepts(self) -> Mapping[str, str]: ...
    @property
    def needs(self) -> str: ...
    @property
    def uses(self) -> frozenset[str]: ...
    @property
    def judged(self) -> bool: ...
    @property
    def tensorflow(self) -> bool: ...

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        """Compress, convert or quantize `artifact`."""
        ...
