"""What a backend is: something that can run the final model, in one or more ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgecompile.artifact import Artifact, TensorInfo
from edgecompile.target import Target
from edgecompile.task import Array

if TYPE_CHECKING:
    from edgecompile.stages.base import Stage


# Of a candidate's config: {instruction set: the features that a CPU needs for it}, the best first.
VARIANTS = "variants"


@dataclass(frozen=True)
class Candidate:
    """One way to run the model. `config` is what the runner on the device needs to know, JSON only; with `exact` in it
    the parity gate asks for the reference kernels' very integers."""

    id: str
    backend: str
    model: Path
    threads: int
    config: Mapping[str, Any] = field(default_factory=dict)

    def job(self) -> dict[str, Any]:
        """This candidate as the on-device runner takes it."""
        engine = {"id": self.id, "model": str(self.model), "engine": self.backend, "threads": self.threads}
        return {**engine, **self.config}


def with_threads(name: str, threads: int) -> str:
    """A candidate's id where its engine competes with several numbers of threads."""
    return f"{name}-{threads}-thread{'s' * (threads != 1)}"


def without_threads(name: str) -> str:
    """An id without what `with_threads` says."""
    return re.sub(r"-\d+-threads?$", "", name)


class Runner(Protocol):
    """A candidate opened on this machine."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What `run` gives, in order."""
        ...

    def run(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """All samples: {input: [n, ...]} -> {output: [n, ...]} in the model's own dtypes, for any n.

        Samples for a quantized input are given in the source's units and quantized here, or are of its type already.
        """
        ...

    def run_real(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """As `run`, with quantized outputs turned into the real numbers they stand for."""
        ...

    def scale(self, output: str) -> float | None:
        """The scale of a quantized output, None for float and for plain integers."""
        ...


@dataclass(frozen=True)
class Question:
    """What only the worker can tell, and is asked before any work: `ask(*arguments, report=...)`, a function of a
    module, raises the error that the work would end in. depends: digests of what else the answer depends on."""

    text: str
    ask: Callable[..., None]
    arguments: tuple[Any, ...]
    depends: tuple[str, ...] = ()


def nothing_to_ask(self: object, target: Target) -> Question | None:
    """A backend's `question`, where `unavailable_reason` says all."""
    del self, target
    return None


class Backend(Protocol):
    """`on_board`: its engines are built on the board that they run on, and run nowhere else; `open` then runs what they
    are built from."""

    @property
    def on_board(self) -> bool: ...

    def runs_here(self, candidate: Candidate) -> bool:
        """Whether this machine can run it; what can't is judged by its outputs on the board."""
        ...

    def unavailable_reason(self, target: Target) -> str | None:
        """None where it can be used; else a sentence with the cure."""
        ...

    def question(self, target: Target) -> Question | None:
        """What is asked in the worker where there is no such reason; None: nothing."""
        ...

    def stages(self, target: Target, threads: int) -> Sequence[Stage]:
        """What is run on the final .tflite before `compile`, which finds their files in the artifact."""
        ...

    def compile(self, artifact: Artifact, target: Target, threads: int) -> list[Candidate]: ...

    def open(self, candidate: Candidate) -> Runner:
        """Where the candidate can run on this machine."""
        ...
