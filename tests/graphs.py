"""Random functional models, from a grammar of the layers that users' models are made of, and samples for them.

`random_graph(draw, keras)` takes Keras 3's module or tf_keras: both build the same graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

Draw = Callable[[Any], Any]
SIZE = 8
ACTIVATIONS = ("linear", "relu", "swish", "gelu", "sigmoid", "tanh", "elu")


class _Graph:
    """One model in the making: every method takes a tensor and gives one."""

    def __init__(self, draw: Draw, keras: Any) -> None:
        self._draw, self._layers = draw, keras.layers

    def one_of(self, *options: Any) -> Any:
        return self._draw(st.sampled_from(options))

    # -- pictures, [n, h, w, c]

    def conv(self, x: Any) -> Any:
        kind = self.one_of("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose")
        strides = self.one_of(1, 2) if kind == "Conv2DTranspose" and x.shape[1] <= SIZE else 1
        options = {"padding": "same", "activation": self.one_of(*ACTIVATIONS), "use_bias": self.one_of(True, False)}
        if kind == "DepthwiseConv2D":
            return self._layers.DepthwiseConv2D(3, **options)(x)
        return getattr(self._layers, kind)(self.one_of(2, 4, 5), self.one_of(1, 3), strides=strides, **options)(x)

    def conv_norm(self, x: Any) -> Any:
        kind = self.one_of("Conv2D", "SeparableConv2D", "Conv2DTranspose")
        x = getattr(self._layers, kind)(4, 3, padding="same", use_bias=self.one_of(True, False))(x)
        return self.activation(self._layers.BatchNormalization()(x))

    def norm(self, x: Any) -> Any:
        kinds = ("BatchNormalization", "LayerNormalization", "UnitNormalization")
        return getattr(self._layers, self.one_of(*kinds))()(x)

    def group_norm(self, x: Any) -> Any:
        return self._layers.GroupNormalization(groups=1)(x)

    def activation(self, x: Any) -> Any:
        kind = self.one_of("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "relu6", "Softmax")
        if kind == "Activation":
            return self._layers.Activation(self.one_of(*ACTIVATIONS))(x)
        if kind == "relu6":
            return self._layers.ReLU(6.0)(x)
        return self._layers.PReLU(shared_axes=[1, 2])(x) if kind == "PReLU" else getattr(self._layers, kind)()(x)

    def resize(self, x: Any) -> Any:
        kind = self.one_of("max", "average", "nearest", "bilinear", "resizing", "pad", "crop")
        if kind in ("max", "average") and x.shape[1] > 2:
            pool = self._layers.MaxPooling2D if kind == "max" else self._layers.AveragePooling2D
            return pool(self.one_of(2, 3), self.one_of(1, 2), "same")(x)
        if kind in ("nearest", "bilinear") and x.shape[1] <= SIZE:
            return self._layers.UpSampling2D(2, interpolation=kind)(x)
        if kind == "crop" and x.shape[1] > 3:
            return self._layers.Cropping2D(1)(x)
        return self._layers.ZeroPadding2D(1)(x) if kind == "pad" else self._layers.Resizing(6, 6)(x)

    def rescale(self, x: Any) -> Any:
        return self._layers.Rescaling(0.5, self.one_of(0.0, 0.1))(x)

    def drop(self, x: Any) -> Any:
        return self._layers.Dropout(0.1)(x)

    def residual(self, x: Any) -> Any:
        merge = self.one_of("Add", "Multiply", "Subtract", "Average", "Maximum", "Minimum")
        branch = self._layers.Conv2D(x.shape[-1], 3, padding="same", activation=self.one_of(*ACTIVATIONS))(x)
        return getattr(self._layers, merge)()([x, branch])

    def branches(self, x: Any) -> Any:
        pooled = self._layers.MaxPooling2D(2, self.one_of(1, 2), "same")(x)
        average = self._layers.AveragePooling2D(3, 1, "same")(pooled)
        parts = [self.conv_norm_1x1(pooled), self.conv_norm_1x1(average), pooled]
        return self._layers.Concatenate()(parts[: self.one_of(2, 3)])

    def conv_norm_1x1(self, x: Any) -> Any:
        return self._layers.ReLU()(self._layers.BatchNormalization()(self._layers.Conv2D(3, 1)(x)))

    def squeeze_excite(self, x: Any) -> Any:
        gate = self._layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = self._layers.Conv2D(2, 1, activation=self.one_of("swish", "relu"))(gate)
        return self._layers.Multiply()([x, self._layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(gate)])

    def shared(self, x: Any) -> Any:
        conv = self._layers.Conv2D(x.shape[-1], 3, padding="same", activation=self.one_of("relu", "swish", "linear"))
        return self._layers.Add()([conv(x), conv(conv(x))])

    # -- sequences, [n, steps, c]

    def conv1d(self, x: Any) -> Any:
        kind = self.one_of("Conv1D", "SeparableConv1D", "DepthwiseConv1D", "Conv1DTranspose")
        options = {"padding": "same", "activation": self.one_of("linear", "relu", "swish")}
        if kind == "DepthwiseConv1D":
            x = self._layers.DepthwiseConv1D(3, **options)(x)
        else:
            x = getattr(self._layers, kind)(4, 3, **options)(x)
        return self._layers.BatchNormalization()(x) if self.one_of(True, False) else x

    def causal(self, x: Any) -> Any:
        return self._layers.Conv1D(4, 3, padding="causal", dilation_rate=self.one_of(1, 2))(x)

    def attention(self, x: Any) -> Any:
        attended = self._layers.MultiHeadAttention(2, 3)(x, x)
        return self._layers.LayerNormalization()(self._layers.Add()([x, attended]))

    def feed_forward(self, x: Any) -> Any:
        inner = self._layers.Dense(6, activation=self.one_of("gelu", "relu"))(x)
        return self._layers.Add()([x, self._layers.Dense(x.shape[-1])(inner)])

    def by_step(self, x: Any) -> Any:
        return self._layers.TimeDistributed(self._layers.Dense(3, activation="relu"))(x)

    def pool1d(self, x: Any) -> Any:
        return self.one_of(self._layers.MaxPooling1D, self._layers.AveragePooling1D)(2, 1, "same")(x)

    # -- vectors, [n, c]

    def dense(self, x: Any) -> Any:
        x = self._layers.Dense(6, activation=self.one_of(*ACTIVATIONS))(x)
        return self._layers.BatchNormalization()(x) if self.one_of(True, False) else x

    def flat(self, x: Any) -> Any:
        rank = len(x.shape) - 2
        kinds = ("Flatten", f"GlobalAveragePooling{rank}D", f"GlobalMaxPooling{rank}D")
        return getattr(self._layers, self.one_of(*kinds))()(x)


PICTURES = (
    *("conv", "conv_norm", "norm", "group_norm", "activation", "resize", "rescale", "drop", "residual", "branches"),
    *("squeeze_excite", "shared"),
)
SEQUENCES = ("conv1d", "causal", "attention", "feed_forward", "by_step", "pool1d", "norm", "drop")


def random_graph(draw: Draw, keras: Any, most: int = 5) -> Any:
    """A functional model of pictures [n, 8, 8, 1 to 3] or sequences [n, 8, 3] with scores of 4 classes.

    draw: hypothesis's. most: blocks before the head. Weights, BatchNorm's statistics too, come from a drawn seed.
    """
    graph = _Graph(draw, keras)
    pictures = draw(st.integers(0, 3)) > 0
    shape = (SIZE, SIZE, draw(st.integers(1, 3))) if pictures else (SIZE, 3)
    inputs = x = keras.layers.Input(shape, name="x")
    for block in draw(st.lists(st.sampled_from(PICTURES if pictures else SEQUENCES), min_size=1, max_size=most)):
        x = getattr(graph, block)(x)
    x = graph.flat(x)
    if draw(st.booleans()):
        x = graph.dense(x)
    scores = keras.layers.Dense(4, activation=graph.one_of("softmax", "linear", "sigmoid"), name="scores")(x)
    model = keras.Model(inputs, scores, name="graph")
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    model.set_weights([_drawn(rng, w) for w in model.get_weights()])
    return model


def samples(model: Any, count: int = 24) -> np.ndarray:
    """[count, ...] for the model's only input."""
    shape = tuple(model.inputs[0].shape[1:])
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def _drawn(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    """Kernels as Glorot has them; vectors (biases, factors, statistics) from 0.3 to 1.2, which suits variances too."""
    if weight.ndim < 2:
        return rng.uniform(0.3, 1.2, weight.shape).astype(weight.dtype)
    scale = np.sqrt(2 / np.prod(weight.shape[:-1]))
    return (rng.normal(size=weight.shape) * scale).astype(weight.dtype)
