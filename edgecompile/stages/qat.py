"""Quantization-aware training with TF-MOT: training goes on with int8 rounding in the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgecompile.artifact import KERAS, QAT, Artifact
from edgecompile.errors import CompressionGateError, ConversionError, UnsupportedLayerError
from edgecompile.loaders.base import save_keras
from edgecompile.stages.base import TRAINING, Context, Outcome, require
from edgecompile.stages.trainable import changed_weights, train, trainable_model, training_metrics
from edgecompile.training import Schedule

_SPARSE = 0.3  # a kernel with fewer zeros was not pruned, so there is no sparsity to keep in it


@dataclass(frozen=True)
class Qat:
    """Quantization-aware training of Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (2018), section 3, in TF-MOT's 8-bit scheme.

    preserve_sparsity: zeros of the incoming weights stay zero (TF-MOT's prune-preserving scheme).
    float_layers: "allow" leaves layers TF-MOT can't quantize in float and names them; "refuse" is an error.
    """

    name: ClassVar[str] = "qat"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: QAT}
    judged: ClassVar[bool] = True
    tensorflow: ClassVar[bool] = True
    needs: ClassVar[str] = TRAINING
    uses: ClassVar[frozenset[str]] = frozenset({"task", "budget"})

    preserve_sparsity: bool = False
    float_layers: str = "allow"
    epochs: int = 6
    learning_rate: float = 0.0001
    batch_size: int = 32

    def __post_init__(self) -> None:
        known = ("allow", "refuse")
        require(self.name, float_layers=(self.float_layers, self.float_layers in known, "'allow' or 'refuse'"))
        _ = self.schedule  # checks itself

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.epochs, self.learning_rate, self.batch_size)

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        base = trainable_model(artifact, ctx)
        kept = _zero_masks(base) if self.preserve_sparsity else {}
        model, left_float = quantization_aware(base, preserve_sparsity=self.preserve_sparsity)
        if left_float and self.float_layers == "refuse":
            raise UnsupportedLayerError(
                f"TF-MOT can't quantize {', '.join(left_float)}, and the recipe refuses float layers",
                hint='set float_layers = "allow" in the recipe, or take recipe int8',
            )
        if left_float:
            ctx.say(f"left in float, TF-MOT can't quantize them: {', '.join(left_float)}")
        before = [v.numpy() for v in model.trainable_variables]
        result = train(model, artifact.signature, self.schedule, ctx)
        after = [v.numpy() for v in model.trainable_variables]
        metrics = {**training_metrics(result), **changed_weights(before, after)}
        base_path, weights_path = ctx.out / "model.keras", ctx.out / "weights.npz"
        save_keras(trainable_model(artifact, ctx), base_path)
        np.savez(weights_path, *[v.numpy() for v in model.variables])
        notes = (f"left in float (TF-MOT can't quantize them): {', '.join(left_float)}",) if left_float else ()
        meta = {"preserve_sparsity": self.preserve_sparsity, "float_layers": left_float, "sparse_layers": kept}
        return Outcome(QAT, {"model": base_path, "weights": weights_path}, artifact.signature, metrics, notes, meta)


def quantization_aware(model: Any, *, preserve_sparsity: bool) -> tuple[Any, list[str]]:
    """(the quantization-aware twin of a flat tf-keras model, names of the layers it leaves in float).

    Errors: UnsupportedLayerError where TF-MOT can't take the graph at all.
    """
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (
        default_8bit_prune_preserve_quantize_scheme as preserving,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry,
        default_8bit_quantize_scheme,
    )

    registry = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
    left_float: list[str] = []

    def annotate(layer: Any) -> Any:
        if isinstance(layer, tf_keras.layers.InputLayer):
            return layer
        shared = len(layer.inbound_nodes) > 1
        if (registry.supports(layer) or _folds(layer)) and not shared:
            return tfmot.quantization.keras.quantize_annotate_layer(layer)
        left_float.append(f"{layer.name} ({'shared ' if shared else ''}{type(layer).__name__})")
        return layer

    scheme = (
        preserving.Default8BitPrunePreserveQuantizeScheme()
        if preserve_sparsity
        else default_8bit_quantize_scheme.Default8BitQuantizeScheme()
    )
    annotated = tf_keras.models.clone_model(model, clone_function=annotate)
    if not any(type(layer).__name__ == "QuantizeAnnotate" for layer in annotated.layers):
        raise UnsupportedLayerError(
            f"TF-MOT can't quantize any layer of this model: {', '.join(left_float)}", hint="take recipe int8"
        )
    try:
        with tfmot.quantization.keras.quantize_scope():
            twin = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    except (ValueError, TypeError, RuntimeError, AttributeError) as problem:
        raise UnsupportedLayerError(
            f"TF-MOT can't make this model quantization-aware: {problem}",
            hint="take recipe int8 (post-training), which needs no change of the graph",
        ) from problem
    return twin, left_float


def _folds(layer: Any) -> bool:
    """Whether TF-MOT folds this BatchNorm into the layer before it; it knows BatchNorm in no other place."""
    import tf_keras

    if not isinstance(layer, tf_keras.layers.BatchNormalization):
        return False
    before = layer.inbound_nodes[0].inbound_layers
    foldable = (tf_keras.layers.Conv2D, tf_keras.layers.DepthwiseConv2D, tf_keras.layers.Dense)
    return (
        isinstance(before, foldable)
        and len(before.outbound_nodes) == 1
        and tf_keras.activations.serialize(before.activation) == "linear"
    )


def load_quantization_aware(artifact: Artifact, ctx: Context) -> Any:
    """The trained twin again: rebuilt from its base, since TF-MOT's own saving loses what holds it together."""
    model, _ = quantization_aware(trainable_model(artifact, ctx), preserve_sparsity=artifact.meta["preserve_sparsity"])
    with np.load(artifact.files["weights"]) as saved:
        if len(saved.files) != len(model.variables):
            raise ConversionError(
                f"the quantization-aware model has {len(model.variables)} variables, its file {len(saved.files)}"
            )
        for i, variable in enumerate(model.variables):
            variable.assign(saved[f"arr_{i}"])
    return model


def _zero_masks(model: Any) -> dict[str, float]:
    """Share of zeros by layer, for layers that came pruned."""
    shares = {}
    for layer in model.layers:
        for weight in layer.trainable_weights:
            share = float(np.mean(weight.numpy() == 0))
            if "kernel" in weight.name and share >= _SPARSE:
                shares[layer.name] = share
    if not shares:
        raise CompressionGateError(
            "preserve_sparsity was asked for, and no layer of the incoming model is sparse",
            hint="put a prune step before it, or set preserve_sparsity = false",
        )
    return shares
