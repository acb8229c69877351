"""Magnitude pruning with TF-MOT: the smallest weights of each layer become zero while the rest train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgecompile.artifact import KERAS, Artifact
from edgecompile.errors import CompressionGateError
from edgecompile.loaders.base import save_keras
from edgecompile.stages.base import TRAINING, Context, Outcome, require
from edgecompile.stages.trainable import changed_weights, train, trainable_model, training_metrics
from edgecompile.training import Hooks, Schedule

_MASK_UPDATES = 100  # how often the masks are recomputed on the way: each is a sort of every kernel
_SLACK = 0.01  # ties at the threshold; and a kernel of few weights can't have any share exactly


@dataclass(frozen=True)
class Prune:
    """Polynomial-decay schedule of Zhu and Gupta, "To prune, or not to prune" (2017), section 3.

    sparsity: share of zeros in every pruned kernel at the end, reached after `ramp` of the steps; the rest of
    the training lets the model recover. Depthwise kernels, which TF-MOT leaves alone, and biases stay dense.
    """

    name: ClassVar[str] = "prune"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: KERAS}
    judged: ClassVar[bool] = True
    tensorflow: ClassVar[bool] = True
    needs: ClassVar[str] = TRAINING
    uses: ClassVar[frozenset[str]] = frozenset({"task", "budget"})

    sparsity: float = 0.5
    ramp: float = 0.6
    epochs: int = 8
    learning_rate: float = 0.001
    batch_size: int = 32

    def __post_init__(self) -> None:
        require(
            self.name,
            sparsity=(self.sparsity, 0 < self.sparsity < 1, "a share between 0 and 1"),
            ramp=(self.ramp, 0 < self.ramp <= 1, "a share above 0, at most 1"),
        )
        _ = self.schedule  # checks itself

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.epochs, self.learning_rate, self.batch_size)

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        import tensorflow_model_optimization as tfmot

        model = trainable_model(artifact, ctx)
        before = [v.numpy() for v in model.trainable_variables]
        # Begin and end are in steps, known once the trainer has fixed the number of epochs (see _hooks).
        decay = tfmot.sparsity.keras.PolynomialDecay(0.0, self.sparsity, begin_step=0, end_step=10**9, frequency=1)
        wrapped, pruned, dense = self._wrap(model, decay)
        if not pruned:
            raise CompressionGateError(
                "there is no layer in this model that TF-MOT can prune", hint="take a recipe without pruning"
            )
        result = train(wrapped, artifact.signature, self.schedule, ctx, self._hooks(wrapped, decay))
        stripped = tfmot.sparsity.keras.strip_pruning(wrapped)
        zeros = {name: self._zeros(stripped.get_layer(name)) for name in pruned}
        path = ctx.out / "model.keras"
        save_keras(stripped, path)
        after = [v.numpy() for v in stripped.trainable_variables]
        metrics = {**training_metrics(result), **changed_weights(before, after), "sparsity": zeros}
        notes = (f"not pruned: {', '.join(dense)}",) if dense else ()
        return Outcome(KERAS, {"model": path}, artifact.signature, metrics, notes)

    def _wrap(self, model: Any, schedule: Any) -> tuple[Any, list[str], list[str]]:
        """(model with pruning wrappers, names of pruned layers, names of layers with kernels left dense)."""
        import tf_keras
        from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry, pruning_wrapper

        pruned: list[str] = []
        dense: list[str] = []

        def wrap(layer: Any) -> Any:
            registry = prune_registry.PruneRegistry
            if registry.supports(layer) and registry._weight_names(layer):
                pruned.append(layer.name)
                return pruning_wrapper.PruneLowMagnitude(layer, pruning_schedule=schedule)
            if any("kernel" in w.name for w in layer.trainable_weights):
                dense.append(layer.name)
            return layer

        return tf_keras.models.clone_model(model, clone_function=wrap), pruned, dense

    def _hooks(self, wrapped: Any, schedule: Any) -> Hooks:
        """TF-MOT does this in a Keras callback; our training loop has hooks of its own."""
        layers = [layer for layer in wrapped.layers if hasattr(layer, "pruning_obj")]

        def planned(steps: int) -> None:
            ramp = max(1, int(steps * self.ramp))
            schedule.frequency = max(1, ramp // _MASK_UPDATES)
            schedule.end_step = ramp // schedule.frequency * schedule.frequency

        def start() -> None:
            for layer in layers:
                if int(layer.pruning_step) < 0:
                    layer.pruning_step.assign(0)

        def mask() -> None:
            for layer in layers:
                layer.pruning_obj.weight_mask_op()

        return Hooks(planned, start, mask)

    def _zeros(self, layer: Any) -> float:
        """Share of zeros in the layer's kernels, the least of them. TF-MOT says nothing where its schedule never
        fired: the promise is checked on the weights."""
        least = 1.0
        for kernel in _kernels(layer):
            share = float(np.mean(kernel == 0))
            least = min(least, share)
            if share < self.sparsity - max(_SLACK, 1 / kernel.size):
                raise CompressionGateError(
                    f"prune promised {self.sparsity:.0%} zeros; layer {layer.name!r} has {share:.1%}",
                    hint="give more epochs, so that the pruning schedule ends",
                )
        return least


def _kernels(layer: Any) -> list[Any]:
    """The weights of the layer that TF-MOT prunes: for a separable convolution or an LSTM not just the first."""
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    weights: list[Any] = prune_registry.PruneRegistry.make_prunable(layer).get_prunable_weights()
    return [np.asarray(w) for w in weights]
