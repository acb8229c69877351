"""Function-preserving rescaling of channels: a float network that computes the same and quantizes badly.

Where a channel passes only layers that are positively homogeneous (f(s x) = s f(x) for s > 0: ReLU, pooling, Add, the
identity), the layer that makes it can multiply it by s and what reads it divide by s. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction" (ICCV 2019, section 4.1) choose s to make ranges equal;
here s is drawn to make them unequal, as training without weight decay or merged checkpoints can. Per-tensor int8
activations then have too few levels for the small channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_HOMOGENEOUS = (
    "Add", "AveragePooling2D", "Dropout", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "LeakyReLU",
    "MaxPooling2D", "SpatialDropout2D", "ZeroPadding2D",
)  # fmt: skip
_WEIGHTED = ("BatchNormalization", "Conv2D", "Dense", "DepthwiseConv2D")


def rescale_channels(model: Any, seed: int, spread: float) -> Any:
    """A copy of a functional tf_keras model whose channels are scaled by 2**u, u uniform in [-spread, spread].

    One scale a channel for every tensor, and one vector for all that an Add joins. Inputs, outputs, and what touches
    another layer (ReLU6, softmax, Multiply, Flatten, ...) keep their scale, so a MobileNetV2 is rescaled in its linear
    bottlenecks. ValueError for nested models and shared layers, and where no channel can be scaled.
    """
    import tf_keras

    copy = tf_keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    groups = _Groups()
    for layer in copy.layers:
        if len(layer.inbound_nodes) != 1 or hasattr(layer, "layers"):
            raise ValueError(f"layer {layer.name!r} is shared or a model of its own: flatten the model first")
        _join(layer, groups)
    for tensor in (*copy.inputs, *copy.outputs):
        groups.pin(tensor)
    rng = np.random.default_rng(seed)
    scales: dict[int, Any] = {}

    def scale(tensor: Any) -> Any:
        root = groups.root(tensor)
        if root not in scales:
            factors = 2.0 ** rng.uniform(-spread, spread, int(tensor.shape[-1]))
            scales[root] = np.ones_like(factors) if root in groups.pinned else factors
        return scales[root]

    for layer in copy.layers:
        if type(layer).__name__ in _WEIGHTED:
            _scale_weights(layer, scale(layer.input), scale(layer.output))
    if all((factors == 1).all() for factors in scales.values()):
        raise ValueError("no channel of the model can be scaled: every one meets a layer that isn't homogeneous")
    return copy


class _Groups:
    """Tensors that share one vector of scales (union-find), and which of them must stay as they are."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self.pinned: set[int] = set()

    def root(self, tensor: Any) -> int:
        at = id(tensor)
        while self._parents.get(at, at) != at:
            at = self._parents[at]
        return at

    def join(self, first: Any, second: Any) -> None:
        a, b = self.root(first), self.root(second)
        self._parents[b] = a
        if b in self.pinned:
            self.pinned.add(a)

    def pin(self, tensor: Any) -> None:
        self.pinned.add(self.root(tensor))


def _join(layer: Any, groups: _Groups) -> None:
    inputs = layer.input if isinstance(layer.input, list) else [layer.input]
    outputs = layer.output if isinstance(layer.output, list) else [layer.output]
    kind = type(layer).__name__
    if kind in _WEIGHTED:
        if not _scalable_output(layer):
            groups.pin(outputs[0])
        if not _scalable_input(layer):
            groups.pin(inputs[0])
    elif kind in _HOMOGENEOUS or _is_relu(layer):
        for tensor in inputs:
            groups.join(outputs[0], tensor)
    else:
        for tensor in (*inputs, *outputs):
            groups.pin(tensor)


def _is_relu(layer: Any) -> bool:
    kind = type(layer).__name__
    if kind == "ReLU":
        return layer.max_value is None and not layer.threshold
    return kind == "Activation" and layer.activation.__name__ in ("relu", "linear")


def _scalable_output(layer: Any) -> bool:
    if type(layer).__name__ == "BatchNormalization":
        return bool(layer.scale and layer.center)
    return layer.activation.__name__ in ("relu", "linear")


def _scalable_input(layer: Any) -> bool:
    if type(layer).__name__ == "BatchNormalization":
        return bool(layer.scale and layer.center)
    return getattr(layer, "groups", 1) == 1


def _scale_weights(layer: Any, before: Any, after: Any) -> None:
    """before, after: scales of the layer's input and output channels."""
    weights = [w.astype(np.float64) for w in layer.get_weights()]
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        if layer.scale:
            weights[0] *= after / before
        if layer.center:
            weights[1] *= after
        weights[-2] *= before  # the moving mean; the variance stays, as gamma has taken the scale
    elif kind == "DepthwiseConv2D":  # [height, width, in, multiplier]
        weights[0] *= after.reshape(weights[0].shape[2:]) / before[:, None]
    else:  # [..., in, out]
        weights[0] *= after / before[:, None]
    if kind != "BatchNormalization" and layer.use_bias:
        weights[1] *= after
    layer.set_weights([w.astype(np.float32) for w in weights])
