"""Quantization-aware training with TF-MOT: training goes on with int8 rounding in the forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgecompile import promises
from edgecompile.artifact import KERAS, QAT, Artifact
from edgecompile.errors import CompressionGateError, UnsupportedLayerError
from edgecompile.folding import FOLDED, fold_dense_batchnorm
from edgecompile.loaders.base import save_keras
from edgecompile.quantization.calibration import draw
from edgecompile.quantization_aware import calibrate, kernel_variables, may_stay_float, quantization_aware
from edgecompile.stages.base import Context, Outcome, require
from edgecompile.stages.trainable import TrainedStage, changed_weights, naming, train, trainable_model, training_metrics
from edgecompile.task import Array
from edgecompile.ties import Ties
from edgecompile.training import Hooks

_CALIBRATION = 256  # samples that activations get their first ranges from
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Qat(TrainedStage):
    """Quantization-aware training of Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (2018), section 3, in TF-MOT's 8-bit scheme.

    preserve_sparsity: zeros of the incoming weights stay zero. preserve_clusters: equal weights stay equal. Both
        are promises that the conversion checks in the int8 weights.
    float_layers: "allow" leaves layers TF-MOT can't quantize in float and names them, here and, where they keep a
        kernel that reads them in float too, at the conversion; "refuse" is an error.
    """

    name: ClassVar[str] = "qat"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: QAT}
    epoch_cost: ClassVar[float] = 2.0  # 1.5 to 2.5 were seen, on convolutional networks

    preserve_sparsity: bool = False
    preserve_clusters: bool = False
    float_layers: str = "allow"
    epochs: int = 6
    learning_rate: float = 0.0001

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("allow", "refuse")
        require(self.name, float_layers=(self.float_layers, self.float_layers in known, "'allow' or 'refuse'"))

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        base, folded = fold_dense_batchnorm(trainable_model(artifact, ctx))
        base_path, weights_path = ctx.out / "model.keras", ctx.out / "weights.npz"
        save_keras(base, base_path)
        promised, ties = self._promises(base)
        model, found = quantization_aware(base, ties)
        left_float = [f"{name} ({what})" for name, what in found.items()]
        if left_float and self.float_layers == "refuse":
            raise UnsupportedLayerError(
                f"TF-MOT can't quantize {', '.join(left_float)}, and the recipe refuses float layers",
                hint='set float_layers = "allow" in the recipe, or take recipe int8',
            )
        if left_float:
            ctx.say(f"left in float, TF-MOT can't quantize them: {', '.join(left_float)}")
        calibrate(model, _batches(artifact, ctx))
        kernels = kernel_variables(model)
        self._check_tied(promised, kernels)

        def snap() -> None:
            for layer, held in ties.items():
                kernels[layer].assign(held.snap(kernels[layer].numpy()))

        before = [v.numpy() for v in model.trainable_variables]
        result = train(model, artifact.signature, self.schedule, ctx, Hooks(after_epoch=snap))
        after = [v.numpy() for v in model.trainable_variables]
        metrics = {**training_metrics(result), **changed_weights(before, after)}
        np.savez(weights_path, *[v.numpy() for v in model.variables])
        notes = naming({"left in float (TF-MOT can't quantize them)": left_float, FOLDED: folded})
        meta = {
            "float_layers": [*found, *may_stay_float(base, found)],
            "promised": {name: p.to_json() for name, p in promised.items()},
        }
        return Outcome(QAT, {"model": base_path, "weights": weights_path}, artifact.signature, metrics, notes, meta)

    def _promises(self, model: Any) -> tuple[dict[str, promises.Promise], dict[str, Ties]]:
        """By layer that came pruned or clustered: what has to be kept, and the ties that keep it."""
        wanted = {"sparsity": self.preserve_sparsity, "clusters": self.preserve_clusters}
        promised, ties = {}, {}
        for layer in model.layers:
            kernel = _kernel(layer)
            if kernel is None or not any(wanted.values()):
                continue
            promise = promises.of_kernel(_by_channel(layer, kernel), **wanted)
            if promise is not None:
                promised[layer.name] = promise
                ties[layer.name] = Ties.of(kernel, sparsity=promise.zeros > 0, clusters=promise.values is not None)
        for kind, kept in (("sparsity", "zeros"), ("clusters", "values")):
            if wanted[kind] and not any(getattr(p, kept) for p in promised.values()):
                what = "sparse" if kind == "sparsity" else "clustered"
                raise CompressionGateError(
                    f"preserve_{kind} was asked for, and no layer of the incoming model is {what}",
                    hint=f"put a {'prune' if kind == 'sparsity' else 'cluster'} step before it, or leave it out",
                )
        return promised, ties

    def _check_tied(self, promised: Mapping[str, Any], kernels: Mapping[str, Any]) -> None:
        lost = sorted(set(promised) - set(kernels))
        if lost:
            raise CompressionGateError(
                f"TF-MOT doesn't quantize the weights of {', '.join(lost)}, which came pruned or clustered",
                hint="leave these layers out of the pruning or clustering",
            )


def _batches(artifact: Artifact, ctx: Context) -> Iterator[list[Array]]:
    """Training samples without augmentation, drawn with the build's seed, as lists of the model's inputs."""
    drawn = draw(ctx, artifact.signature, _CALIBRATION)
    for start in range(0, len(drawn), _AT_ONCE):
        some = drawn[start : start + _AT_ONCE]
        yield [np.concatenate([sample[spec.name] for sample in some]) for spec in artifact.signature.inputs]


def _kernel(layer: Any) -> Any:
    """The layer's kernel as an array, or None."""
    for name in ("kernel", "depthwise_kernel"):
        if getattr(layer, name, None) is not None:
            return getattr(layer, name).numpy()
    return None


def _by_channel(layer: Any, kernel: Array) -> Array:
    """The kernel with its output channels in the last axis."""
    if getattr(layer, "depthwise_kernel", None) is not None:
        return kernel.reshape(*kernel.shape[:2], -1)
    return np.moveaxis(kernel, 2, 3) if type(layer).__name__ == "Conv2DTranspose" else kernel
