"""Equal graphs that the 8-bit scheme takes in more of their layers.

Each step is judged by the outputs on samples, as the bridge is, and left out where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgecompile.bridge import compare
from edgecompile.bridge.graph import Names
from edgecompile.quantization_aware.folding import FOLDED, affine, fold_batchnorm
from edgecompile.quantization_aware.graph import Graph
from edgecompile.quantization_aware.placement import folds_into, producer
from edgecompile.task import Array

SPLIT = "split into layers that can be quantized"
SCALED = "made a depthwise convolution"

Step = Callable[[Any], tuple[Any, list[str]]]
Made = Callable[[Any], Any]  # what stands for a layer, called with its input, or the list of them


def rewrite(model: Any, samples: Sequence[Array]) -> tuple[Any, dict[str, list[str]]]:
    """(a flat tf-keras model that computes the same, what was done to which layers).

    samples: inputs in the model's order, [n, ...] each.
    """
    done = {}
    steps: Mapping[str, Step] = {SPLIT: split, FOLDED: fold_batchnorm, SCALED: scale_by_convolution}
    for what, step in steps.items():
        rewritten, names = step(model)
        if names and compare.largest_difference(model, rewritten, list(samples)) <= compare.TOLERANCE:
            model, done[what] = rewritten, names
    return model, done


def split(model: Any) -> tuple[Any, list[str]]:
    """(the model with separable convolutions as two layers, Maximum and Minimum of layers with a scale of their own for
    each input, and without TimeDistributed around Dense; the names of these layers).

    The last layer of each has the name of the one that it stands for.
    """
    makers: Mapping[str, Callable[[Any, Names], Made | None]] = {
        "SeparableConv1D": _separable,
        "SeparableConv2D": _separable,
        "TimeDistributed": _dense_of_steps,
        "Maximum": _extreme,
        "Minimum": _extreme,
    }
    names = Names([])
    made = {}
    for layer in model.layers:
        names.take(layer.name)
    for layer in model.layers:
        new = makers[type(layer).__name__](layer, names) if type(layer).__name__ in makers else None
        if new is not None:
            made[layer.name] = new
    return _replaced(model, made)


def scale_by_convolution(model: Any) -> tuple[Any, list[str]]:
    """(the model with depthwise convolutions of width 1 for what only scales and shifts channels, the names).

    BatchNorm that no convolution takes in, Rescaling and Normalization, of pictures, sequences and vectors.
    """
    graph = Graph.of(model)
    names = Names([])
    for layer in model.layers:
        names.take(layer.name)
    made = {}
    for layer in model.layers:
        calls = [node for node in graph.calls if node.layer is layer]
        if not calls or any(len(node.keras_inputs) != 1 or _taken_in(graph, node) for node in calls):
            continue
        shape = tuple(calls[0].keras_inputs[0].shape)
        if len(shape) not in (2, 3, 4) or shape[-1] is None:
            continue
        found = _affine_of(layer)
        if found is not None:
            factor, offset = (np.broadcast_to(values, shape[-1]) for values in found)
            made[layer.name] = _depthwise(layer, len(shape) - 2, factor, offset, names)
    return _replaced(model, made)


def _taken_in(graph: Graph, node: Any) -> bool:
    before = producer(node.keras_inputs[0])
    return before is not None and folds_into(graph, before) is node


def _replaced(model: Any, made: Mapping[str, Made]) -> tuple[Any, list[str]]:
    """(the model with layers called instead of those of these names, the names); the model itself for none."""
    if not made:
        return model, []
    kept: dict[str, Any] = {}

    def call(node: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        layer = node.layer
        if layer.name in made:
            return made[layer.name](args[0] if args else kwargs["inputs"])
        first = layer.name not in kept
        if first:
            kept[layer.name] = type(layer).from_config(layer.get_config())
        result = kept[layer.name](*args, **kwargs)
        if first:
            kept[layer.name].set_weights(layer.get_weights())
        return result

    return Graph.of(model).rebuild(call), list(made)


def _chain(layers: Sequence[tuple[Any, list[Array]]]) -> Made:
    """Layers called one after the other, with their weights."""

    def call(tensor: Any) -> Any:
        for layer, weights in layers:
            tensor = layer(tensor)
            layer.set_weights(weights)
        return tensor

    return call


def _separable(layer: Any, names: Names) -> Made | None:
    """Depthwise, then pointwise: Chollet, "Xception" (2017), section 2."""
    from tf_keras import layers

    if layer.data_format != "channels_last":
        return None
    config, rank = layer.get_config(), layer.rank
    shared = {key: config[key] for key in ("strides", "dilation_rate", "depth_multiplier")}
    causal = config["padding"] == "causal"
    apart = getattr(layers, f"DepthwiseConv{rank}D")(
        config["kernel_size"],
        padding="valid" if causal else config["padding"],
        use_bias=False,
        trainable=layer.trainable,
        name=names.take(f"{layer.name}_depthwise"),
        **shared,
    )
    across = getattr(layers, f"Conv{rank}D")(
        config["filters"],
        1,
        activation=layer.activation,
        use_bias=config["use_bias"],
        trainable=layer.trainable,
        name=layer.name,
    )
    depthwise, *others = layer.get_weights()
    chain: list[tuple[Any, list[Array]]] = [(apart, [depthwise]), (across, others)]
    if causal:
        before = config["dilation_rate"][0] * (config["kernel_size"][0] - 1)
        chain.insert(0, (layers.ZeroPadding1D((before, 0), name=names.take(f"{layer.name}_padding")), []))
    return _chain(chain)


def _dense_of_steps(layer: Any, _names: Names) -> Made | None:
    """Dense works on the last axis alone: to apply it step by step changes nothing."""
    from tf_keras import layers

    if type(layer.layer) is not layers.Dense:
        return None
    dense = layers.Dense.from_config({**layer.layer.get_config(), "name": layer.name})
    return _chain([(dense, layer.get_weights())])


def _extreme(layer: Any, names: Names) -> Made:
    """max(a, b) = a + relu(b - a), min(a, b) = a - relu(a - b): TFLite's own operators want one scale for all inputs,
    and the converter fails where it can't give it to them."""
    from tf_keras import layers

    most = type(layer).__name__ == "Maximum"

    def call(tensors: Sequence[Any]) -> Any:
        found, *others = tensors
        for count, other in enumerate(others, 1):
            name = layer.name if count == len(others) else names.take(f"{layer.name}_{count}")
            pair = [other, found] if most else [found, other]
            over = layers.Subtract(name=names.take(f"{layer.name}_difference"))(pair)
            over = layers.ReLU(name=names.take(f"{layer.name}_excess"))(over)
            found = (layers.Add if most else layers.Subtract)(name=name)([found, over])
        return found

    return call


def _affine_of(layer: Any) -> tuple[Any, Any] | None:
    """(factor, offset) of a layer that is x * factor + offset in inference, each a number or [channels]."""
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        return affine(layer) if list(layer.axis) == [layer.input_spec.ndim - 1] else None
    if kind == "Rescaling":
        factor, offset = np.float64(layer.scale), np.float64(layer.offset)
    elif kind == "Normalization" and not layer.invert:
        mean, deviation = np.float64(layer.mean), np.maximum(np.sqrt(np.float64(layer.variance)), 1e-7)
        factor, offset = 1 / deviation, -mean / deviation
    else:
        return None
    if any(values.size != (values.shape[-1] if values.ndim else 1) for values in (factor, offset)):
        return None  # it differs by place, not by channel
    return factor.reshape(-1), offset.reshape(-1)


def _depthwise(layer: Any, rank: int, factor: Array, offset: Array, names: Names) -> Made:
    """rank: how many axes there are between samples and channels; vectors become sequences of one step."""
    from tf_keras import layers

    trainable = layer.trainable and bool(layer.trainable_weights)
    name = layer.name if rank else names.take(f"{layer.name}_depthwise")
    scaling = getattr(layers, f"DepthwiseConv{rank or 1}D")(1, trainable=trainable, name=name)
    kernel = factor.astype(np.float32).reshape(*[1] * (rank or 1), -1, 1)
    chain: list[tuple[Any, list[Array]]] = [(scaling, [kernel, offset.astype(np.float32)])]
    if not rank:
        step = layers.Reshape((1, factor.size), name=names.take(f"{layer.name}_step"))
        chain = [(step, []), *chain, (layers.Reshape((factor.size,), name=layer.name), [])]
    return _chain(chain)
