"""Low-rank factorisation by SVD: layers of a float model become pairs that cost less, then train on if asked to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgecompile.artifact import KERAS, Artifact
from edgecompile.costs import Cost, model_cost
from edgecompile.errors import CompressionGateError
from edgecompile.factorization import FIRST_LAST, KEEP, SCHEMES, SPATIAL, factorizable, factorize, find_candidates
from edgecompile.loaders.base import save_keras
from edgecompile.ranks import BUDGETS, PARAMETERS, Candidate, Choice, by_budget, by_energy
from edgecompile.responses import Responses, measure_responses
from edgecompile.stages.base import NOTHING, REPRESENTATIVE, Context, Outcome, require
from edgecompile.stages.trainable import TrainedStage, changed_weights, train, trainable_model, training_metrics
from edgecompile.task import align


@dataclass(frozen=True, kw_only=True)
class Factorize(TrainedStage):
    """The methods, and their papers, are in edgecompile/factorization.py and ranks.py.

    scheme: how a convolution is split: "spatial" (k x 1, then 1 x k), "channel" (fewer filters, then 1x1) or "auto",
    what saves most. Dense layers and 1x1 convolutions are split as matrices under each.
    energy: share of the squared singular values that each layer keeps; its rank is the smallest that does.
    budget: "macs" or "parameters": instead of one energy for all layers, the least is lost that brings the whole model
    to the share `keep` of them.
    samples: how many training samples, drawn with the build's seed, tell along which axes a layer's answers vary: the
    energy is then theirs, and layers are split by channels alone. 0 goes by the kernels, and needs no data.
    round_to: ranks are multiples of it (8 is what kernels with SIMD like).
    first_last: "keep" leaves the first and the last layer whole, "factorize" treats them like all others.
    epochs: of training afterwards; 0 is none, and needs no data.
    """

    name: ClassVar[str] = "factorize"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: KERAS}

    scheme: str = "auto"
    energy: float = 0.9
    budget: str | None = None
    keep: float = 0.5
    samples: int = 0
    round_to: int = 1
    first_last: str = KEEP
    epochs: int = 0

    def __post_init__(self) -> None:
        require(
            self.name,
            scheme=(self.scheme, self.scheme in SCHEMES, f"one of {', '.join(SCHEMES)}"),
            energy=(self.energy, 0 < self.energy < 1, "a share between 0 and 1"),
            budget=(self.budget, self.budget is None or self.budget in BUDGETS, " or ".join(map(repr, BUDGETS))),
            keep=(self.keep, 0 < self.keep < 1, "a share between 0 and 1"),
            samples=(
                self.samples,
                self.samples == 0 or (self.samples > 0 and self.scheme != SPATIAL),
                "0 (by the kernels) or more, and 0 with scheme 'spatial', which answers can't split",
            ),
            round_to=(self.round_to, self.round_to >= 1, "1 or more"),
            first_last=(self.first_last, self.first_last in FIRST_LAST, " or ".join(map(repr, FIRST_LAST))),
            epochs=(self.epochs, self.epochs >= 0, "0 (no training) or more"),
            distillation=(self.distillation, self.distillation is None or self.epochs > 0, "none without epochs"),
        )
        if self.epochs:
            super().__post_init__()

    @property
    def needs(self) -> str:
        if self.epochs:
            return super().needs
        return REPRESENTATIVE if self.samples else NOTHING

    @property
    def uses(self) -> frozenset[str]:
        if self.epochs:
            return super().uses
        return frozenset({"task"}) if self.samples else frozenset()

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        model = trainable_model(artifact, ctx)
        total = model_cost(model)
        layers, left = factorizable(model, self.first_last)
        responses = self._responses(model, layers, artifact, ctx)
        silent = {name: "always answers the same" for name, r in responses.items() if not r.strength.any()}
        left |= silent
        layers = [layer for layer in layers if layer.name not in silent]
        candidates = find_candidates(model, layers, self.scheme, responses)
        if not candidates:
            raise CompressionGateError(
                f"there is no layer in this model that can be factorised: {_reasons(left) or 'none has a kernel'}",
                hint="take a recipe without factorisation",
            )
        choices, whole = self._choose(candidates, total)
        small = factorize(model, choices, responses)
        cost = model_cost(small)
        self._check(total, cost)
        ctx.say(f"factorised {len(choices)} layers: {cost.macs / total.macs:.1%} of the MACs are left")
        metrics: dict[str, Any] = {
            "factorized": {choice.name: _row(choice) for choice in choices},
            "macs_before": total.macs,
            "macs": cost.macs,
            "parameters_before": total.parameters,
            "parameters": cost.parameters,
        }
        if self.epochs:
            before = [v.numpy() for v in small.trainable_variables]
            result = train(small, artifact.signature, self.schedule, ctx)
            after = [v.numpy() for v in small.trainable_variables]
            metrics |= {**training_metrics(result), **changed_weights(before, after)}
        path = ctx.out / "model.keras"
        save_keras(small, path)
        left |= whole
        notes = (f"not factorised: {_reasons(left)}",) if left else ()
        return Outcome(KERAS, {"model": path}, artifact.signature, metrics, notes)

    def _responses(self, model: Any, layers: list[Any], artifact: Artifact, ctx: Context) -> dict[str, Responses]:
        if not self.samples or not layers:
            return {}
        fit, _ = ctx.require_task().split(ctx.seed)
        chosen = np.random.default_rng(ctx.seed).permutation(len(fit))[: self.samples]
        return measure_responses(model, layers, align(fit.take(chosen).x, artifact.signature.inputs))

    def _choose(self, candidates: list[Candidate], total: Cost) -> tuple[list[Choice], dict[str, str]]:
        if self.budget is None:
            return by_energy(candidates, self.energy, self.round_to)
        return by_budget(candidates, total, self.budget, self.keep, self.round_to)

    def _check(self, before: Cost, after: Cost) -> None:
        """The promise, on the model itself."""
        if self.budget is None:
            return
        had, has = (c.parameters if self.budget == PARAMETERS else c.macs for c in (before, after))
        if has > self.keep * had:
            raise CompressionGateError(
                f"factorize promised {self.keep:.1%} of {had} {self.budget}; the model has {has}",
                hint="lower keep in the recipe",
            )


def _row(choice: Choice) -> dict[str, Any]:
    return {
        "scheme": choice.scheme,
        "rank": choice.rank,
        "full_rank": choice.full_rank,
        "energy": choice.energy,
        "macs_before": choice.before.macs,
        "macs": choice.after.macs,
    }


def _reasons(left: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in left.items())
