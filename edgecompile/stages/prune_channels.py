"""Structured pruning: whole channels go, in rounds with fine-tuning between, until a budget is met."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgecompile.artifact import KERAS, Artifact, sha256_file
from edgecompile.cache import write_file
from edgecompile.channels import CRITERIA, Channels, Kept, Limits, apply, cost_of, dependency_groups, keep_widths
from edgecompile.channels import plan as plan_channels
from edgecompile.channels.budget import COSTS, MACS, PER_LATENCY, PLAIN, RANKINGS
from edgecompile.channels.importance import Batch, Scores, scores
from edgecompile.channels.latency import ChannelLatency, Search, channel_latency, search_widths
from edgecompile.errors import BudgetError, CompressionGateError
from edgecompile.loaders.base import save_keras
from edgecompile.losses import output_loss
from edgecompile.sealed import seal, unseal_or_none
from edgecompile.stages.base import Context, Outcome, require
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.stages.trainable import TrainedStage, changed_weights, train, trainable_model, training_metrics
from edgecompile.training import Schedule
from edgecompile.training.batches import Batches

LATENCY = "latency"
_BUDGETS = (*COSTS, LATENCY)
_TRAINED = "sha256_of_trained"


@dataclass(frozen=True, kw_only=True)
class PruneChannels(TrainedStage):
    """Removes channels that only go together (edgecompile/channels), least important first over the whole model.

    budget: what shrinks: "macs", "parameters", or the measured "latency" (p50 of the float .tflite on this machine,
    LiteRT with one thread). keep: the share of it that remains. importance: "l1", "l2", "bn" or "taylor", see
    channels/importance.py; ranking: by "importance" alone, or by what a step saves, "importance-per-cost" (of the
    budget) or "importance-per-latency" (measured as the budget "latency" is; layers with as many MACs may differ
    twofold in it).
    round_to: a layer that loses channels keeps a multiple of this; min_channels: the least it keeps; max_share: the
    largest share it may lose. taylor_batches: training batches that "taylor" looks at.
    rounds: the budget is reached in so many steps of equal ratio, with fine-tuning after each (Molchanov et al.,
    "Pruning Convolutional Neural Networks for Resource Efficient Inference" (2017), section 2). The last round gets
    twice the epochs of each before it; `epochs` are those of all rounds.
    """

    name: ClassVar[str] = "prune-channels"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: KERAS}

    budget: str = MACS
    keep: float = 0.5
    importance: str = "l2"
    ranking: str = PLAIN
    round_to: int = 8  # at half the MACs LiteRT was 5 to 7% faster than with 4 or 1 (ResNet8, MobileNetV1, AVX-512)
    min_channels: int = 4
    max_share: float = 0.75
    taylor_batches: int = 64
    rounds: int = 2
    epochs: int = 12

    def __post_init__(self) -> None:
        require(
            self.name,
            budget=(self.budget, self.budget in _BUDGETS, _one_of(_BUDGETS)),
            keep=(self.keep, 0 < self.keep < 1, "a share between 0 and 1"),
            importance=(self.importance, self.importance in CRITERIA, _one_of(CRITERIA)),
            ranking=(self.ranking, self.ranking in RANKINGS, _one_of(RANKINGS)),
            round_to=(self.round_to, self.round_to in (1, 4, 8, 16), "1, 4, 8 or 16"),
            min_channels=(self.min_channels, self.min_channels >= 1, "1 or more"),
            max_share=(self.max_share, 0 < self.max_share < 1, "a share between 0 and 1"),
            taylor_batches=(self.taylor_batches, self.taylor_batches >= 1, "1 or more"),
            rounds=(self.rounds, 1 <= self.rounds <= 10, "1 to 10"),
            epochs=(self.epochs, self.epochs >= self.rounds, f"{self.rounds} or more: one for each of the rounds"),
        )
        super().__post_init__()

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        whole = trainable_model(artifact, ctx)
        channels = dependency_groups(whole)
        if not channels.groups:
            raise CompressionGateError(
                f"there is no channel in this model that can be pruned: {_reasons(channels)}",
                hint="take a recipe without prune-channels",
            )
        latency = measured = None
        if self._measures:
            importance = self.scores(channels, artifact, ctx)
            if self.ranking == PER_LATENCY:
                latency = self._latency(channels, importance, artifact, ctx)
            if self.budget == LATENCY:
                measured = self._search(channels, importance, latency, artifact, ctx)
        rounds = _Rounds(self, artifact, ctx, whole, latency, measured)
        model = whole
        for number in range(1, self.rounds + 1):
            model = rounds.run(model, number)
        self._check(whole, model, measured)
        path = ctx.out / "model.keras"
        save_keras(model, path)
        after = dependency_groups(model).widths()
        metrics = {
            "epochs": sum(done["epochs"] for done in rounds.done),
            "losses": [loss for done in rounds.done for loss in done["losses"]],
            **{of: {"before": cost_of(whole, of), "after": cost_of(model, of)} for of in COSTS},
            "channels": {layer: [n, after[layer]] for layer, n in channels.widths().items()},
            "rounds": rounds.done,
        }
        if measured is not None:
            metrics["latency_search"] = measured.metrics()
        if latency is not None:
            metrics["channel_latency"] = latency.metrics()
        return Outcome(KERAS, {"model": path}, artifact.signature, metrics, self._notes(channels, whole))

    @property
    def uses(self) -> frozenset[str]:
        return super().uses | ({"device"} if self._measures else frozenset())

    @property
    def _measures(self) -> bool:
        return self.budget == LATENCY or self.ranking == PER_LATENCY

    @property
    def limits(self) -> Limits:
        return Limits(self.round_to, self.min_channels, self.max_share)

    def epochs_of(self, number: int) -> int:
        """Of round 1, 2, ...; they add up to `epochs`."""
        each = max(1, self.epochs // (self.rounds + 1))
        return each if number < self.rounds else self.epochs - each * (self.rounds - 1)

    def scores(self, channels: Channels, artifact: Artifact, ctx: Context) -> Scores:
        """The importance of the channels of `channels.model`, on the task's training samples where it needs some."""
        if self.importance != "taylor":
            return scores(channels, self.importance)
        return scores(channels, "taylor", self._batches(channels.model, artifact, ctx))

    def _batches(self, model: Any, artifact: Artifact, ctx: Context) -> Iterator[Batch]:
        import tensorflow as tf

        task, signature = ctx.require_task(), artifact.signature
        batches = Batches.of(task, signature.inputs, signature.outputs, ctx.seed, self.batch_size)
        x, labels = batches.few(64)
        given = tf.nest.flatten(model(x[0] if len(x) == 1 else x, training=False))
        losses = [
            output_loss(task, spec.name, np.asarray(label), np.asarray(made))
            for spec, label, made in zip(signature.outputs, labels, given, strict=True)
        ]
        for inputs, y in batches.epoch(0).take(self.taylor_batches):
            yield (
                list(inputs),
                lambda outputs, y=y: tf.add_n(  # type: ignore[misc]
                    [tf.reduce_mean(f(label, made)) for f, label, made in zip(losses, y, outputs, strict=True)]
                ),
            )

    def _latency(self, channels: Channels, importance: Scores, artifact: Artifact, ctx: Context) -> ChannelLatency:
        return channel_latency(
            channels,
            importance,
            limits=self.limits,
            signature=artifact.signature,
            inputs=golden_inputs(ctx.task, artifact.signature, ctx.seed),
            ctx=ctx,
        )

    def _search(
        self,
        channels: Channels,
        importance: Scores,
        latency: ChannelLatency | None,
        artifact: Artifact,
        ctx: Context,
    ) -> Search:
        return search_widths(
            channels,
            importance,
            self.keep,
            limits=self.limits,
            ranking=self.ranking,
            latency=latency.of if latency else None,
            signature=artifact.signature,
            inputs=golden_inputs(ctx.task, artifact.signature, ctx.seed),
            ctx=ctx,
        )

    def _check(self, whole: Any, model: Any, measured: Search | None) -> None:
        """The promise, on the model itself and not by the plan's arithmetic."""
        if measured is None:
            full, left = cost_of(whole, self.budget), cost_of(model, self.budget)
            if left > full * self.keep:
                raise CompressionGateError(
                    f"prune-channels promised {self.keep:.0%} of {full:,} {self.budget}; {left:,} are left"
                )
            return
        widths = {group.name: len(group.sets) for group in dependency_groups(model).groups}
        if widths != measured.widths:
            raise CompressionGateError(f"prune-channels measured a model of widths {measured.widths}, made {widths}")

    def _notes(self, channels: Channels, whole: Any) -> tuple[str, ...]:
        notes = []
        if channels.unknown:
            notes.append(f"channels that reach these layers stay: {', '.join(channels.unknown)}")
        if self.importance == "bn":
            raw = scores(dependency_groups(whole), "bn")
            silent = [g.name for g in channels.groups if np.isnan(raw[g.sets]).any()]
            if silent:
                notes.append(f"not pruned, no BatchNorm says how much they matter: {', '.join(silent)}")
        return tuple(notes)


class _Rounds:
    """Prune, then fine-tune, round by round. What a round ends in is in its folder of the work folder, so that a
    killed stage goes on with the same bytes."""

    def __init__(
        self,
        stage: PruneChannels,
        artifact: Artifact,
        ctx: Context,
        whole: Any,
        latency: ChannelLatency | None,
        measured: Search | None,
    ) -> None:
        self._stage, self._artifact, self._ctx, self._measured = stage, artifact, ctx, measured
        self._latency = latency.of if latency else None
        self._of = MACS if stage.budget == LATENCY else stage.budget
        self._full = cost_of(whole, self._of)
        self._keep = stage.keep
        # Shares of what a group had at first, whatever a round takes.
        self._least = {g.name: stage.limits.floor(g.name, len(g.sets)) for g in dependency_groups(whole).groups}
        if measured is not None:
            self._keep = cost_of(apply(whole, _any_channels(measured.widths)), self._of) / self._full
            self._least = measured.widths
        self._unspent = 0.0  # seconds, of rounds that were too short to train in
        self.done: list[dict[str, Any]] = []

    def run(self, model: Any, number: int) -> Any:
        """The model after round `number`, which starts from `model`."""
        folder = self._ctx.work / f"round{number}"
        folder.mkdir(exist_ok=True)
        pruned, trained, record = folder / "pruned.keras", folder / "trained.keras", folder / "round.json"
        done = unseal_or_none(record)
        if done is None or not trained.is_file() or sha256_file(trained) != done[_TRAINED]:
            if not pruned.is_file():
                save_keras(apply(model, self._kept(model, number)), pruned)
            tuned, done = self._tune(self._load(pruned), number, folder)
            save_keras(tuned, trained)
            write_file(record, seal({**done, _TRAINED: sha256_file(trained)}))
        self._unspent = done["seconds_unspent"]
        self.done.append({key: value for key, value in done.items() if key not in ("seconds_unspent", _TRAINED)})
        return self._load(trained)

    def _kept(self, model: Any, number: int) -> Kept:
        stage, last = self._stage, number == self._stage.rounds
        channels = dependency_groups(model)
        importance = stage.scores(channels, self._artifact, self._ctx)
        if self._measured is not None and last:
            return keep_widths(channels, importance, self._measured.widths)
        limits = dataclasses.replace(stage.limits, max_share=1.0, least=self._least)
        target = int(self._full * self._keep ** (number / stage.rounds))
        return plan_channels(
            channels,
            importance,
            target,
            of=self._of,
            limits=limits,
            ranking=stage.ranking,
            latency=self._latency,
        )

    def _tune(self, model: Any, number: int, folder: Path) -> tuple[Any, dict[str, Any]]:
        stage, last = self._stage, number == self._stage.rounds
        epochs = stage.epochs_of(number)
        seconds = self._ctx.budget_seconds
        share = None if seconds is None else seconds * epochs / stage.epochs + self._unspent
        logs = self._ctx.tensorboard
        ctx = dataclasses.replace(
            self._ctx, work=folder, budget_seconds=share, tensorboard=logs / f"round{number}" if logs else None
        )
        self._ctx.say(f"round {number} of {stage.rounds}: {cost_of(model, self._of) / self._full:.0%} of {self._of}")
        before = [v.numpy() for v in model.trainable_variables]
        done = {"costs": {of: cost_of(model, of) for of in COSTS}, "seconds_unspent": 0.0}
        try:
            result = train(model, self._artifact.signature, self._schedule(epochs, last), ctx)
        except BudgetError:
            if last:
                raise
            self._ctx.say(f"round {number}: no time for an epoch, its share goes to the next round")
            return model, {**done, "epochs": 0, "losses": [], "seconds_unspent": share}
        after = [v.numpy() for v in model.trainable_variables]
        trained = {**training_metrics(result), **changed_weights(before, after)}
        return model, {**done, **trained}

    def _schedule(self, epochs: int, last: bool) -> Schedule:
        # BatchNorm is frozen at the end of all training, and not before channels go.
        steps = self._stage.steps * epochs // self._stage.epochs
        schedule = dataclasses.replace(self._stage.schedule, epochs=epochs, steps=steps)
        return schedule if last else dataclasses.replace(schedule, freeze_batchnorm=1.0)

    def _load(self, path: Path) -> Any:
        return self._ctx.load(self._artifact.replace(files={"model": path})).model


def _any_channels(widths: Mapping[str, int]) -> Kept:
    return {name: tuple(range(n)) for name, n in widths.items()}


def _one_of(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))


def _reasons(channels: Channels) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in channels.stay.items()) or "no convolution or dense layer"
