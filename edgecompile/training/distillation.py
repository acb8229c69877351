"""Distillation: a student learns from what a teacher gives for the same samples, beside their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.errors import ModelError, RecipeError
from edgecompile.stages.base import require
from edgecompile.task import CLASSIFICATION

_WRAPPERS = ("quant_", "prune_low_magnitude_", "cluster_")  # what TF-MOT puts before a layer's name
_LEAST = 1e-30  # of a probability: what is clipped has no gradient, and a softmax's small values are as exact as others
_SUM = 0.02  # how far from 1 probabilities add up: a softmax in bfloat16 misses it by 0.003


@dataclass(frozen=True)
class Distillation:
    """weight: share of the teacher's outputs in the loss, the labels having the rest; 1 needs no labels' signal.

    temperature: softens both distributions (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural
        Network" (2015), section 2). Outputs that are no classes' scores are matched by their squared error.
    features: weight of a further term, the distance of intermediate activations; 0: none. Activation maps are
        compared as attention maps (Zagoruyko and Komodakis, "Paying More Attention to Attention" (2017), section
        3.1) and vectors by the similarities of samples (Tung and Mori, "Similarity-Preserving Knowledge
        Distillation" (2019), section 3), since both let the student have fewer channels than the teacher.
    layers: names of the layers compared, the same in both models; (): the last of each resolution.
    mixup: teacher and student see mixtures of two samples in a random ratio (Zhang et al., "mixup" (2018), section 2),
        for which the teacher has an answer and no label does: with few samples much more of the teacher is seen
        (Beyer et al., "Knowledge distillation: A good teacher is patient and consistent" (2022), section 3). Floating
        point inputs only; weight must be 1.
    """

    weight: float = 0.5
    temperature: float = 4.0
    features: float = 0.0
    layers: tuple[str, ...] = ()
    mixup: bool = False

    def __post_init__(self) -> None:
        require(
            "distillation",
            weight=(self.weight, 0 < self.weight <= 1, "a share above 0, at most 1"),
            temperature=(self.temperature, self.temperature > 0, "a number above 0"),
            features=(self.features, self.features >= 0, "0 or more"),
            layers=(self.layers, not self.layers or self.features > 0, "empty where features = 0"),
            mixup=(self.mixup, not self.mixup or self.weight == 1, "false where weight < 1: mixtures have no labels"),
        )


class Teaching:
    """Teacher and student side by side: what the student gives for a batch, and its distance to the teacher."""

    def __init__(self, config: Distillation, teacher: Any, student: Any, kinds: Sequence[str]) -> None:
        """kinds: of the outputs' labels. Errors: ModelError where the outputs differ in number or form, RecipeError for
        layers not in both."""
        import tf_keras

        given, wanted = [tuple(t.shape) for t in student.outputs], [tuple(t.shape) for t in teacher.outputs]
        if given != wanted:
            raise ModelError(
                f"the teacher's outputs have shapes {wanted}, the student's {given}",
                hint="distillation needs a teacher of the same task, with the same outputs",
            )
        self._config = config
        self._kinds = kinds
        pairs = _pairs(config, teacher, student) if config.features else []
        self._count = len(student.outputs)
        teacher.trainable = False
        self._teacher = tf_keras.Model(teacher.inputs, [*teacher.outputs, *(t for t, _ in pairs)])
        self.student = tf_keras.Model(student.inputs, [*student.outputs, *(s for _, s in pairs)])

    def outputs(self, given: Any) -> tuple[list[Any], list[Any]]:
        """(outputs, intermediate activations) of what `student` gave."""
        flat = list(given) if isinstance(given, list | tuple) else [given]
        return flat[: self._count], flat[self._count :]

    def loss(self, x: Any, labels_loss: Any, given: Any) -> Any:
        """The whole loss: labels, teacher's outputs, and activations."""
        import tensorflow as tf

        scores, activations = self.outputs(given)
        wanted, wanted_activations = self.outputs(self._teacher(x, training=False))
        parts = [self._output_loss(*each) for each in zip(wanted, scores, self._kinds, strict=True)]
        weight = self._config.weight
        loss = (1 - weight) * labels_loss + weight * tf.add_n(parts) / len(parts)
        if activations:
            distances = [_distance(w, s) for w, s in zip(wanted_activations, activations, strict=True)]
            loss += self._config.features * tf.add_n(distances) / len(distances)
        return loss

    def _output_loss(self, wanted: Any, given: Any, kind: str) -> Any:
        import tensorflow as tf

        if kind != CLASSIFICATION or given.shape[-1] == 1:
            return tf.reduce_mean(tf.square(wanted - given))
        t = self._config.temperature
        soft = tf.nn.softmax(_logits(wanted) / t)
        log_ratio = tf.math.log(tf.maximum(soft, _LEAST)) - tf.nn.log_softmax(_logits(given) / t)
        # the soft targets' gradients shrink with 1/t^2: without t^2 the weight would mean less the higher t is
        return tf.reduce_mean(tf.reduce_sum(soft * log_ratio, -1)) * t * t


def _logits(scores: Any) -> Any:
    """Logits, up to a constant, of what may be probabilities: a softmax's own logarithm gives them back."""
    import tensorflow as tf

    total = tf.reduce_sum(scores, -1, keepdims=True)
    probabilities = tf.reduce_all(scores >= 0) & tf.reduce_all(tf.abs(total - 1) < _SUM)
    return tf.where(probabilities, tf.math.log(tf.maximum(scores, _LEAST)), scores)


def _distance(wanted: Any, given: Any) -> Any:
    import tensorflow as tf

    view: Callable[[Any], Any] = _attention if len(given.shape) == 4 else _similarities
    a, b = view(wanted), view(given)
    return tf.reduce_mean(tf.reduce_sum(tf.square(a - b), -1))


def _attention(activations: Any) -> Any:
    """[n, h, w, c] -> [n, h * w]: energy by place, each sample's of length 1."""
    import tensorflow as tf

    energy = tf.reduce_mean(tf.square(activations), -1)
    return tf.math.l2_normalize(tf.reshape(energy, [tf.shape(energy)[0], -1]), -1)


def _similarities(activations: Any) -> Any:
    """[n, ...] -> [n, n]: how alike the samples of a batch are to this layer, rows of length 1."""
    import tensorflow as tf

    flat = tf.reshape(activations, [tf.shape(activations)[0], -1])
    return tf.math.l2_normalize(tf.matmul(flat, flat, transpose_b=True), -1)


def _pairs(config: Distillation, teacher: Any, student: Any) -> list[tuple[Any, Any]]:
    """(teacher's, student's) activations of the layers to compare."""
    by_name = {_plain(layer.name): layer for layer in student.layers}
    names = config.layers or _last_of_each_size(teacher, by_name)
    pairs = []
    for name in names:
        ours = by_name.get(name)
        theirs = next((layer for layer in teacher.layers if layer.name == name), None)
        if ours is None or theirs is None:
            raise RecipeError(
                f"distillation: {'the teacher' if theirs is None else 'the student'} has no layer {name!r}",
                hint="`edgecompile inspect MODEL` lists the layers",
            )
        a, b = theirs.output, ours.output
        if len(a.shape) != len(b.shape) or tuple(a.shape[1:-1]) != tuple(b.shape[1:-1]):
            raise RecipeError(f"distillation: layer {name!r} gives {a.shape} in the teacher, {b.shape} in the student")
        pairs.append((a, b))
    if not pairs:
        raise RecipeError("distillation: the two models have no layer in common", hint="name some in `layers`")
    return pairs


def _last_of_each_size(teacher: Any, student: dict[str, Any]) -> Sequence[str]:
    """The last layer of each spatial size that is in both models with that size, but for the outputs themselves."""
    last: dict[tuple[Any, ...], str] = {}
    ends = {layer.name for layer in teacher.layers if not layer.outbound_nodes}
    for layer in teacher.layers:
        ours = student.get(layer.name)
        single = len(layer.inbound_nodes) == 1 and ours is not None and len(ours.inbound_nodes) == 1
        if not single or not layer.inbound_nodes[0].inbound_layers or layer.name in ends:
            continue
        size, other = tuple(layer.output.shape[1:-1]), tuple(student[layer.name].output.shape[1:-1])
        if size == other and len(layer.output.shape) in (2, 4):
            last[size] = layer.name
    return list(last.values())


def _plain(name: str) -> str:
    """The layer's name without what TF-MOT's wrapper put before it."""
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name
