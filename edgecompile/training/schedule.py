"""How a model is trained: the schedule, and the places where a stage can step in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgecompile.stages.base import require
from edgecompile.training.distillation import Distillation

FLOAT32, BFLOAT16 = "float32", "bfloat16"


@dataclass(frozen=True)
class Schedule:
    """Adam with cosine decay from `learning_rate` to a hundredth of it over all epochs.

    freeze_batchnorm: after this share of the epochs BatchNorm uses its moving statistics and updates them no more,
        as inference does (Krishnamoorthi, "Quantizing deep convolutional networks" (2018), section 3.2.4); 1: never.
    distillation: what of the loss comes from a teacher; None: nothing.
    precision: "bfloat16" computes convolutions and matrix products in it where the CPU has instructions for it
        (AMX, AVX-512 BF16), and in float32 elsewhere; weights, BatchNorm's statistics and losses stay float32.
    steps: how many of the optimizer's steps training comes to at least: an epoch of a small training set is several
        passes over it.
    dropout: the share of the model's own dropout rates that training uses. What was right for the whole model is too
        much for one that lost half of its channels, and a teacher regularizes, too; 0 turns dropout off.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    freeze_batchnorm: float = 1.0
    distillation: Distillation | None = None
    precision: str = FLOAT32
    dropout: float = 1.0
    steps: int = 0

    def __post_init__(self) -> None:
        known = (FLOAT32, BFLOAT16)
        require(
            "training",
            epochs=(self.epochs, self.epochs >= 1, "1 or more"),
            learning_rate=(self.learning_rate, 0 < self.learning_rate < 10, "a number above 0"),
            batch_size=(self.batch_size, self.batch_size >= 1, "1 or more"),
            freeze_batchnorm=(self.freeze_batchnorm, 0 <= self.freeze_batchnorm <= 1, "a share from 0 to 1"),
            precision=(self.precision, self.precision in known, " or ".join(map(repr, known))),
            steps=(self.steps, self.steps >= 0, "0 or more"),
            dropout=(self.dropout, 0 <= self.dropout <= 1, "a share from 0 to 1"),
        )

    def passes(self, batches: int) -> int:
        """Over a training set of so many batches, in an epoch."""
        return max(1, -(-self.steps // (batches * self.epochs)))


@dataclass(frozen=True)
class Result:
    epochs: int
    losses: list[float]
    seconds_per_epoch: float


@dataclass
class Hooks:
    """What a stage does around training.

    `planned` learns the number of steps in all; `start` is called before the first step, after a resumed state
    was read back; `after_step` with the number of steps done, from the first epoch on; `penalty` is traced into
    every step and its scalar added to the loss; so is `gradient`, which may change that of a variable.
    `variables`: what else has to survive a kill (masks).
    """

    planned: Callable[[int], None] = lambda _: None
    start: Callable[[], None] = lambda: None
    after_step: Callable[[int], None] | None = None
    after_epoch: Callable[[], None] = lambda: None
    penalty: Callable[[], Any] | None = None
    gradient: Callable[[Any, Any], Any] | None = None
    variables: tuple[Any, ...] = ()
