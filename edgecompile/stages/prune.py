"""Unstructured pruning: the weights that matter least become zero while the rest trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecompile.artifact import KERAS, Artifact
from edgecompile.errors import CompressionGateError
from edgecompile.loaders.base import save_keras
from edgecompile.pruning.kernels import DENSE, POLICIES, PRUNE, Kernel, find_kernels
from edgecompile.pruning.masks import (
    ELEMENT,
    GLOBAL,
    LAYER,
    SCOPES,
    STRUCTURES,
    TWO_OF_FOUR,
    Array,
    Mask,
    keep_masks,
    promised_units,
    zero_units,
)
from edgecompile.pruning.pruner import Pruner
from edgecompile.pruning.saliency import MAGNITUDE, SALIENCIES, TAYLOR
from edgecompile.pruning.schedule import CONSTANT, POLYNOMIAL, SCHEDULES, mask_updates
from edgecompile.stages.base import Context, Outcome, require
from edgecompile.stages.trainable import TrainedStage, changed_weights, train, trainable_model, training_metrics

_LEAST = 0.1  # of the average density: what scope "global" leaves every kernel


@dataclass(frozen=True, kw_only=True)
class Prune(TrainedStage):
    """Zeros in the kernels of a model, in the pattern and the places that the recipe asks for.

    sparsity: share of zeros in the pruned kernels at the end.
    pruning_schedule: "polynomial" rises to it from `begin` to `ramp`, shares of all steps (Zhu and Gupta, "To prune,
        or not to prune" (2017), section 3); the rest lets the model recover. "constant" prunes all at once at `begin`.
    scope: "layer" gives every kernel that sparsity. "global" compares the weights of all kernels and gives it to them
        as a whole; each keeps a tenth of the average density at least, so none is cut off.
    saliency: what goes first: small weights ("magnitude"), or those that the loss depends on least ("taylor",
        pruning/saliency.py).
    structure: what is zeroed together: a weight ("element"), blocks "1x16" or "4x4", or two of four ("2:4"), all of
        them in the deployed weights, [outputs, height, width, inputs]. Blocks are 16 neighbouring input channels, or 4
        output by 4 input channels; each 4 neighbouring input channels of 2:4 have two zeros. Layers whose channels
        don't divide into them stay dense.
    depthwise: "dense" leaves depthwise kernels alone, which have few weights and need most; "prune" takes them too.
    first_last: "dense" leaves the first and the last layer alone.
    l1: weight in the loss of the sum of all pruned kernels' magnitudes; 0: none.
    """

    name: ClassVar[str] = "prune"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: KERAS}

    sparsity: float = 0.5
    pruning_schedule: str = POLYNOMIAL
    begin: float = 0.0
    ramp: float = 0.6
    scope: str = LAYER
    saliency: str = MAGNITUDE
    structure: str = ELEMENT
    depthwise: str = DENSE
    first_last: str = PRUNE
    l1: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        half = self.structure == TWO_OF_FOUR
        blind = self.saliency == TAYLOR and self.pruning_schedule == CONSTANT
        require(
            self.name,
            sparsity=(self.sparsity, 0 < self.sparsity < 1, "a share between 0 and 1"),
            pruning_schedule=(self.pruning_schedule, self.pruning_schedule in SCHEDULES, _one_of(SCHEDULES)),
            ramp=(self.ramp, 0 < self.ramp <= 1, "a share above 0, at most 1"),
            begin=(self.begin, 0 <= self.begin < self.ramp, "a share from 0, less than ramp"),
            scope=(self.scope, self.scope in SCOPES, _one_of(SCOPES)),
            saliency=(self.saliency, self.saliency in SALIENCIES, _one_of(SALIENCIES)),
            structure=(self.structure, self.structure in STRUCTURES, _one_of(STRUCTURES)),
            depthwise=(self.depthwise, self.depthwise in POLICIES, _one_of(POLICIES)),
            first_last=(self.first_last, self.first_last in POLICIES, _one_of(POLICIES)),
            l1=(self.l1, self.l1 >= 0, "0 or more"),
        )
        require(
            self.name,
            sparsity=(self.sparsity, not half or self.sparsity == 0.5, "0.5 where structure is '2:4'"),
            scope=(self.scope, not half or self.scope == LAYER, "'layer' where structure is '2:4'"),
            begin=(self.begin, not blind or self.begin > 0, "more than 0: 'taylor' needs steps to see gradients in"),
        )

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        model = trainable_model(artifact, ctx)
        before = [v.numpy() for v in model.trainable_variables]
        kernels, dense = find_kernels(model, self.structure, depthwise=self.depthwise, first_last=self.first_last)
        left = ", ".join(f"{name} ({reason})" for name, reason in dense.items())
        if not kernels:
            raise CompressionGateError(
                f"there is no layer in this model that can be pruned: {left or 'none has a kernel'}",
                hint="take another structure, or a recipe without pruning",
            )
        if left:
            ctx.say(f"not pruned: {left}")
        pruner = Pruner(kernels, self._masks, self._updates, self.saliency, self.l1)
        result = train(model, artifact.signature, self.schedule, ctx, pruner.hooks())
        zeros = {"sparsity": self._check(kernels), "sparsity_total": _share(kernels)}
        path = ctx.out / "model.keras"
        save_keras(model, path)
        after = [v.numpy() for v in model.trainable_variables]
        metrics = {**training_metrics(result), **changed_weights(before, after), **zeros}
        notes = (f"not pruned: {left}",) if left else ()
        return Outcome(KERAS, {"model": path}, artifact.signature, metrics, notes)

    @property
    def _least(self) -> float:
        return _LEAST * (1 - self.sparsity)

    def _masks(self, saliencies: Sequence[Array], sparsity: float) -> list[Mask]:
        return keep_masks(saliencies, self.structure, sparsity, self.scope, self._least)

    def _updates(self, steps: int) -> dict[int, float]:
        return mask_updates(self.pruning_schedule, self.sparsity, steps, self.begin, self.ramp)

    def _check(self, kernels: Sequence[Kernel]) -> dict[str, float]:
        """Share of zeros by layer, in its kernel that has fewest. What was promised is checked on the weights.

        Errors: CompressionGateError that names the layer whose pattern or whose number of zeros is another.
        """
        weights = [kernel.view(kernel.variable.numpy()) for kernel in kernels]
        found = [zero_units(w, self.structure) for w in weights]
        promised = promised_units([total for _, total in found], self.structure, self.sparsity, self.scope, self._least)
        what = {ELEMENT: "zeros", TWO_OF_FOUR: "groups with two zeros"}.get(self.structure, "blocks of zeros")
        if self.scope == GLOBAL:
            count, total = sum(c for c, _ in found), sum(t for _, t in found)
            if count < promised[0]:
                raise _broken(f"{promised[0]} {what} in {total} over all layers, the model has {count}")
        else:
            for kernel, (count, total), wanted in zip(kernels, found, promised, strict=True):
                if count < wanted:
                    raise _broken(f"{wanted} {what} in {total}, layer {kernel.layer!r} has {count}")
        zeros: dict[str, float] = {}
        for kernel, w in zip(kernels, weights, strict=True):
            if not np.any(w):
                raise _broken(f"weights left in every layer, {kernel.layer!r} has none")
            zeros[kernel.layer] = min(zeros.get(kernel.layer, 1.0), float(np.mean(w == 0)))
        return zeros


def _share(kernels: Sequence[Kernel]) -> float:
    """Zeros among all weights of the kernels."""
    weights = [kernel.variable.numpy() for kernel in kernels]
    return float(sum(np.sum(w == 0) for w in weights) / sum(w.size for w in weights))


def _broken(what: str) -> CompressionGateError:
    return CompressionGateError(
        f"prune promised {what}", hint="give more epochs, so that the schedule ends, or a lower sparsity"
    )


def _one_of(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))
