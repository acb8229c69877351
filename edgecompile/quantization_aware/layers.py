"""The layers that round in a quantization-aware twin, of TF-MOT's parts.

TF-MOT's own wrapper stops masks, and wraps whole layers, so that what a layer computes inside has to be known to it.
Here it wraps kernels alone, and ranges of activations are layers of the graph.
"""

from __future__ import annotations

import functools
from typing import Any

from edgecompile.quantization_aware.kinds import KERNELS
from edgecompile.ties import Ties

_LEVELS = 127  # of an int8 kernel's magnitudes
_TINY = 1e-12


def range_of_activation(name: str) -> Any:
    """A layer that rounds what passes to 8 bits, on a range that it learns by a moving average."""
    from tensorflow_model_optimization.python.core.quantization.keras.quantizers import MovingAverageQuantizer

    return _classes().Range(MovingAverageQuantizer(8, False, False, False), name=name)


def range_of_input(name: str) -> Any:
    """The same for an input of the model, on the widest range seen."""
    from tensorflow_model_optimization.python.core.quantization.keras.quantizers import AllValuesQuantizer

    return _classes().Range(AllValuesQuantizer(8, False, False, False), name=name)


def rounded_kernel(layer: Any, ties: Ties | None) -> Any:
    """`layer`, which is built, with its kernel rounded to 8 bits; named "quant_" and its name, as TF-MOT does.

    ties: what has to stay equal, or zero, in the kernel while it trains.
    """
    classes = _classes()
    attribute, channels = KERNELS[type(layer).__name__]
    quantizer = classes.quantizer(type(layer).__name__, channels)
    if ties is not None:
        quantizer = classes.Tied(quantizer, ties)
    return classes.Kernel(layer, classes.Config(attribute, quantizer))


def _emulated(kernel: Any, channels: tuple[int, ...]) -> Any:
    """`kernel` rounded to int8 with a symmetric scale for each output channel, and the gradient of what it was."""
    import tensorflow as tf

    others = [axis for axis in range(len(kernel.shape)) if axis not in channels]
    scale = tf.maximum(tf.reduce_max(tf.abs(kernel), others, keepdims=True), _TINY) / _LEVELS
    return kernel + tf.stop_gradient(tf.round(kernel / scale) * scale - kernel)


def _hold(ties: Ties, kernel: Any) -> Any:
    """`kernel` as it is, with its gradient tied."""
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def identity(x: Any) -> tuple[Any, Any]:
        return tf.identity(x), ties.tie

    return identity(kernel)


@functools.cache
def _classes() -> Any:
    """The classes, made where TensorFlow may be imported."""
    from types import SimpleNamespace

    from tensorflow_model_optimization.python.core.quantization.keras import quantizers
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantizers
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_config import QuantizeConfig
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapperV2

    class Range(QuantizeLayer):  # type: ignore[misc]
        """TF-MOT's layer, which passes masks on."""

        def __init__(self, quantizer: Any, **kwargs: Any) -> None:
            super().__init__(quantizer, **kwargs)
            self.supports_masking = True

    class Kernel(QuantizeWrapperV2):  # type: ignore[misc]
        """TF-MOT's wrapper, which passes masks on where the layer in it does."""

        def __init__(self, layer: Any, config: Any) -> None:
            super().__init__(layer, config)
            self.supports_masking = layer.supports_masking

        def call(self, inputs: Any, training: Any = None) -> Any:
            return super().call(inputs, training)

        def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
            return self.layer.compute_mask(inputs, mask)

        @property
        def trainable_weights(self) -> list[Any]:
            return list(super().trainable_weights) if self.layer.trainable else []

        @property
        def non_trainable_weights(self) -> list[Any]:
            frozen = [] if self.layer.trainable else list(super().trainable_weights)
            return self._dedup_weights([*frozen, *super().non_trainable_weights])  # type: ignore[no-any-return]

    class Config(QuantizeConfig):  # type: ignore[misc]
        """The kernel alone: activations are rounded by layers of their own."""

        def __init__(self, attribute: str, quantizer: Any) -> None:
            self._attribute, self._quantizer = attribute, quantizer

        def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
            return [(getattr(layer, self._attribute), self._quantizer)]

        def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
            del layer
            return []

        def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
            setattr(layer, self._attribute, quantize_weights[0])

        def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
            pass

        def get_output_quantizers(self, layer: Any) -> list[Any]:
            del layer
            return []

        def get_config(self) -> dict[str, Any]:
            return {}

    class Tied(quantizers.Quantizer):  # type: ignore[misc]
        """Another quantizer's work, on weights that are tied while they train."""

        def __init__(self, inner: Any, held: Ties) -> None:
            self._inner, self._held = inner, held

        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            return self._inner.build(tensor_shape, name, layer)

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            held = _hold(self._held, inputs) if training else inputs
            return self._inner(held, training, weights, **kwargs)

        def get_config(self) -> dict[str, Any]:
            return {}

    class Emulated(quantizers.Quantizer):  # type: ignore[misc]
        """Rounds in training as the converter will: it finds no fake quantization on these kernels, and gives them
        a symmetric scale for each output channel. With fake quantization it would leave them in float."""

        def __init__(self, channels: tuple[int, ...]) -> None:
            self._channels = channels

        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            del tensor_shape, name, layer
            return {}

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            del weights, kwargs
            return _emulated(inputs, self._channels) if training else inputs

        def get_config(self) -> dict[str, Any]:
            return {}

    def quantizer(kind: str, channels: tuple[int, ...]) -> Any:
        if kind == "Dense":
            return quantizers.LastValueQuantizer(num_bits=8, per_axis=False, symmetric=True, narrow_range=True)
        if kind in ("Conv2D", "DepthwiseConv2D"):
            return default_8bit_quantizers.Default8BitConvWeightsQuantizer()
        return Emulated(channels)

    return SimpleNamespace(Range=Range, Kernel=Kernel, Config=Config, Tied=Tied, quantizer=quantizer)
