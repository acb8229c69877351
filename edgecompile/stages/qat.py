"""Quantization-aware training with TF-MOT: training goes on with int8 rounding in the forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgecompile import promises
from edgecompile.artifact import KERAS, QAT, Artifact
from edgecompile.errors import CompressionGateError, UnsupportedLayerError
from edgecompile.loaders.base import save_keras
from edgecompile.quantization.calibration import draw
from edgecompile.quantization_aware import Settled, rewrite, settle
from edgecompile.quantization_aware.kinds import KERNELS, kernel_of
from edgecompile.stages.base import Context, Outcome, require
from edgecompile.stages.convert import convert, keras_call, variables_of
from edgecompile.stages.trainable import TrainedStage, changed_weights, naming, train, trainable_model, training_metrics
from edgecompile.task import Array
from edgecompile.ties import Ties
from edgecompile.training import Hooks

_CALIBRATION = 256  # samples that activations get their first ranges from
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Qat(TrainedStage):
    """Quantization-aware training of Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (2018), section 3, in TF-MOT's 8-bit scheme. The untrained model is converted
    and checked first: what is lost there stays in float, by name.

    preserve_sparsity: zeros of the incoming weights stay zero. preserve_clusters: equal weights stay equal. Both
        are promises that the conversion checks in the weights of the .tflite.
    float_layers: "allow" leaves layers that can't be quantized in float and names them; "refuse" is an error.
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
        batches = list(_batches(artifact, ctx))
        base, rewritten = rewrite(trainable_model(artifact, ctx), batches[0])
        base_path, weights_path = ctx.out / "model.keras", ctx.out / "weights.npz"
        save_keras(base, base_path)
        promised, ties = self._promises(base)

        def to_tflite(model: Any) -> bytes:
            return convert(keras_call(model), variables_of(model), artifact.signature, int8_io=False)

        settled = settle(base, ties, batches, to_tflite, ctx.work / "untrained.tflite")
        left_float = [f"{name} ({what})" for name, what in settled.floats.items()]
        if left_float and self.float_layers == "refuse":
            raise UnsupportedLayerError(
                f"quantization-aware training can't quantize {', '.join(left_float)}, and the recipe refuses float "
                "layers",
                hint='set float_layers = "allow" in the recipe, or take recipe int8',
            )
        if left_float:
            ctx.say(f"left in float, they can't be quantized: {', '.join(left_float)}")
        as_json = {name: promise.to_json() for name, promise in promised.items()}
        unkept = promises.unkept(settled.file, as_json)
        for layer, problem in unkept.items():
            ctx.say(f"no promise for {layer}: {problem}")
        model = settled.twin.model
        before = [v.numpy() for v in model.trainable_variables]
        result = train(model, artifact.signature, self.schedule, ctx, _held(settled, ties, self._of_floats(settled)))
        after = [v.numpy() for v in model.trainable_variables]
        metrics = {**training_metrics(result), **changed_weights(before, after)}
        np.savez(weights_path, *[v.numpy() for v in model.variables])
        notes = naming(
            {
                "left in float (they can't be quantized)": left_float,
                "zeros or clusters not promised in the .tflite": list(unkept),
                **rewritten,
            }
        )
        meta = {
            "in_float": list(settled.in_float),
            "float_layers": settled.may_be_float,
            "promised": {name: promise for name, promise in as_json.items() if name not in unkept},
        }
        return Outcome(QAT, {"model": base_path, "weights": weights_path}, artifact.signature, metrics, notes, meta)

    @property
    def _wanted(self) -> dict[str, bool]:
        return {"sparsity": self.preserve_sparsity, "clusters": self.preserve_clusters}

    def _promises(self, model: Any) -> tuple[dict[str, promises.Promise], dict[str, Ties]]:
        """By layer that came pruned or clustered: what has to be kept, and the ties that keep it in kernels that are
        quantized."""
        promised, ties = {}, {}
        for layer in model.layers if any(self._wanted.values()) else ():
            kernel = kernel_of(layer)
            weights = _matrices(layer.trainable_weights) if kernel is None else [_by_channel(layer, kernel.numpy())]
            promise = promises.of_kernel(_joined(weights), **self._wanted) if weights else None
            if promise is None:
                continue
            promised[layer.name] = promise
            if kernel is not None:
                ties[layer.name] = self._ties(kernel.numpy())
        for kind, kept in (("sparsity", "zeros"), ("clusters", "values")):
            if self._wanted[kind] and not any(getattr(p, kept) for p in promised.values()):
                what = "sparse" if kind == "sparsity" else "clustered"
                raise CompressionGateError(
                    f"preserve_{kind} was asked for, and no layer of the incoming model is {what}",
                    hint=f"put a {'prune' if kind == 'sparsity' else 'cluster'} step before it, or leave it out",
                )
        return promised, ties

    def _ties(self, kernel: Array) -> Ties:
        return Ties.of(kernel, sparsity=self.preserve_sparsity, clusters=self.preserve_clusters)

    def _of_floats(self, settled: Settled) -> list[tuple[Any, Ties]]:
        """(variable, what has to be kept in it) of the layers in float, where no rounding ties them."""
        if not any(self._wanted.values()):
            return []
        found = [v for variables in settled.twin.floats.values() for v in variables if len(v.shape) > 1]
        kept = [v for v in found if promises.of_kernel(_joined([v.numpy()]), **self._wanted) is not None]
        return [(v, self._ties(v.numpy())) for v in kept]


def _held(settled: Settled, ties: Mapping[str, Ties], floats: Sequence[tuple[Any, Ties]]) -> Hooks:
    """Hooks that keep zeros and clusters where they are."""
    import tensorflow as tf

    kernels = [(variable, ties[name]) for name, variable in settled.twin.kernels.items() if name in ties]
    by_variable = {variable.ref(): held for variable, held in floats}

    def tie(variable: Any, gradient: Any) -> Any:
        held = by_variable.get(variable.ref())
        return gradient if held is None else held.tie(tf.convert_to_tensor(gradient))

    def snap() -> None:
        for variable, held in (*kernels, *floats):
            variable.assign(held.snap(variable.numpy()))

    return Hooks(after_epoch=snap, gradient=tie if floats else None)


def _batches(artifact: Artifact, ctx: Context) -> Iterator[list[Array]]:
    """Training samples without augmentation, drawn with the build's seed, as lists of the model's inputs."""
    drawn = draw(ctx, artifact.signature, _CALIBRATION)
    for start in range(0, len(drawn), _AT_ONCE):
        some = drawn[start : start + _AT_ONCE]
        yield [np.concatenate([sample[spec.name] for sample in some]) for spec in artifact.signature.inputs]


def _by_channel(layer: Any, kernel: Array) -> Array:
    """The kernel with its output channels in the last axis."""
    _, channels = KERNELS[type(layer).__name__]
    others = [axis for axis in range(kernel.ndim) if axis not in channels]
    moved: Array = kernel.transpose(*others, *channels)
    return moved.reshape(*(kernel.shape[axis] for axis in others), -1)


def _matrices(variables: Sequence[Any]) -> list[Array]:
    """Of the weights of a layer that stays in float, those that pruning and clustering take: no biases or factors."""
    return [variable.numpy() for variable in variables if len(variable.shape) > 1]


def _joined(arrays: Sequence[Array]) -> Array:
    """One array as it is; several as a column, in which channels are no matter."""
    return arrays[0] if len(arrays) == 1 else np.concatenate([array.reshape(-1) for array in arrays])[:, None]
