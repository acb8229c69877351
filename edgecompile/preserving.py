"""A quantization scheme for TF-MOT under which zeros stay zero and clusters stay clusters.

TF-MOT has a scheme for each combination, and each loses some layers: a layer before a concatenation gets its
default configuration, 1x1 convolutions and layers whose channels have unequal numbers of clusters are taken for
something else. This one ties weights together instead, whatever the layer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from edgecompile.ties import Ties


def preserving_scheme(ties: Mapping[str, Ties]) -> Any:
    """TF-MOT's default 8-bit scheme with the kernels of the layers named in `ties` tied."""
    from tensorflow_model_optimization.python.core.quantization.keras import quantizers
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_layout_transform,
        default_8bit_quantize_registry,
        default_8bit_quantize_scheme,
    )

    class Tied(quantizers.Quantizer):  # type: ignore[misc]
        """Another quantizer's work, on weights that are tied while they train."""

        def __init__(self, inner: Any, held: Ties) -> None:
            self._inner = inner
            self._held = held

        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            return self._inner.build(tensor_shape, name, layer)

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            held = _hold(self._held, inputs) if training else inputs
            return self._inner(held, training, weights, **kwargs)

        def get_config(self) -> dict[str, Any]:
            return dict(self._inner.get_config())

    class Layout(default_8bit_quantize_layout_transform.Default8BitQuantizeLayoutTransform):  # type: ignore[misc]
        """The default changes of the graph; after them it is settled which configuration each layer has."""

        def apply(self, model: Any, layer_quantize_map: Any) -> Any:
            model, found = super().apply(model, layer_quantize_map)
            registry = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
            for layer in model.layers:
                if layer.name not in ties or layer.name not in found:
                    continue
                config = found[layer.name].get("quantize_config") or registry.get_quantize_config(layer)
                if not hasattr(config, "weight_quantizer"):
                    continue  # left in float; who asked for the ties looks for them afterwards
                config = copy.copy(config)  # the registry gives all layers of a type the same one
                config.weight_quantizer = Tied(config.weight_quantizer, ties[layer.name])
                found[layer.name]["quantize_config"] = config
            return model, found

    class Scheme(default_8bit_quantize_scheme.Default8BitQuantizeScheme):  # type: ignore[misc]
        def get_layout_transformer(self) -> Any:
            return Layout()

    return Scheme()


def _hold(ties: Ties, kernel: Any) -> Any:
    """`kernel` as it is, with its gradient tied."""
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def identity(x: Any) -> tuple[Any, Any]:
        return tf.identity(x), ties.tie

    return identity(kernel)
