"""Low-rank factorisation: a Dense or convolution layer becomes two that cost less.

A kernel is laid out as a matrix, its SVD is cut after `rank` singular values, and each half is a layer: the first
linear and without bias, the second with the layer's bias, activation and name. By the theorem of Eckart and Young
(1936) no other pair of that rank comes nearer to the kernel in squared error, and that error is the sum of the squared
singular values left out: the energy lost. How the matrix is laid out is the scheme:

matrix: a Dense kernel as it is, [in, out].
channel: [height * width * in, out]; the convolution with `rank` filters, then 1x1. Zhang et al., "Accelerating Very
    Deep Convolutional Networks for Classification and Detection" (2016), section 3.1, without their weighting by
    responses; Denton et al., "Exploiting Linear Structure Within Convolutional Networks" (2014), section 3.3.
spatial: [height * in, width * out]; height x 1, then 1 x width. Jaderberg et al., "Speeding up Convolutional Neural
    Networks with Low Rank Expansions" (2014), scheme 2; the SVD finds its best kernels at once: Tai et al.,
    "Convolutional neural networks with low-rank regularization" (2016), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.bridge import flatten
from edgecompile.bridge.graph import Names
from edgecompile.costs import Cost, layer_costs, model_cost
from edgecompile.errors import CompressionGateError
from edgecompile.ranks import Candidate, Choice, Option
from edgecompile.responses import Responses

MATRIX, CHANNEL, SPATIAL, AUTO = "matrix", "channel", "spatial", "auto"
SCHEMES = (AUTO, SPATIAL, CHANNEL)
KEEP, FACTORIZE = "keep", "factorize"
FIRST_LAST = (KEEP, FACTORIZE)

# What the first of the two layers is called, after the layer; the second keeps the name, as it gives what it gave.
_FIRST = {MATRIX: "reduce", CHANNEL: "reduce", SPATIAL: "vertical"}

Array = npt.NDArray[Any]


def split_kernel(kernel: Array, scheme: str, rank: int) -> tuple[Array, Array]:
    """The kernels of the two layers, float32, in Keras' layout.

    kernel: [in, out] for MATRIX, [..., in, out] for CHANNEL, [height, width, in, out] for SPATIAL.
    1 <= rank <= the smaller side of its matrix. Returns [in, rank] and [rank, out]; [..., in, rank] and
    [1, ..., rank, out]; or [height, 1, in, rank] and [1, width, rank, out].
    """
    left, singular, right = np.linalg.svd(_as_matrix(kernel, scheme), full_matrices=False)
    # The root of the singular values to each side: halves of equal size quantize and train on better than a pair of
    # which one holds them all.
    root = np.sqrt(singular[:rank])
    first, second = left[:, :rank] * root, root[:, None] * right[:rank]
    if scheme == CHANNEL:
        first = first.reshape(*kernel.shape[:-1], rank)
        second = second.reshape(*(1,) * (kernel.ndim - 2), rank, kernel.shape[-1])
    elif scheme == SPATIAL:
        height, width, inputs, outputs = kernel.shape
        first = first.reshape(height, 1, inputs, rank)
        second = second.reshape(rank, width, outputs).transpose(1, 0, 2)[None]
    return first.astype(np.float32), second.astype(np.float32)


def singular_values(kernel: Array, scheme: str) -> Array:
    """Float64, descending; as many as the matrix' smaller side."""
    values: Array = np.linalg.svd(_as_matrix(kernel, scheme), compute_uv=False)
    return values


def _as_matrix(kernel: Array, scheme: str) -> Array:
    exact: Array = np.asarray(kernel, np.float64)
    if scheme == SPATIAL:
        height, width, inputs, outputs = exact.shape
        exact = exact.transpose(0, 2, 1, 3)
        return exact.reshape(height * inputs, width * outputs)
    return exact.reshape(-1, exact.shape[-1])


def factorizable(model: Any, first_last: str) -> tuple[list[Any], dict[str, str]]:
    """(layers that can be factorised, why each other layer with a kernel can't), of a flat tf-keras model.

    first_last: "keep" leaves the layers alone that no other layer with a kernel comes before, or after.
    """
    ends = _ends(model) if first_last == KEEP else {}
    kernels = [layer for layer in model.layers if _has_kernel(layer)]
    reasons = {layer.name: _obstacle(layer) or ends.get(layer.name) for layer in kernels}
    left = {name: reason for name, reason in reasons.items() if reason is not None}
    return [layer for layer in kernels if layer.name not in left], left


def find_candidates(
    model: Any, layers: Sequence[Any], scheme: str, responses: Mapping[str, Responses]
) -> list[Candidate]:
    """How each of `layers` can be factorised, and what it costs.

    scheme: one of SCHEMES. "spatial" is for convolutions of two dimensions; all others are split by their channels.
    responses: of layers whose answers, not their kernels, say what a rank keeps; those are split by channels alone.
    Errors: ModelError where an input's size is free.
    """
    costs = layer_costs(model)
    return [_candidate(layer, scheme, costs[layer.name], responses.get(layer.name)) for layer in layers]


def factorize(model: Any, choices: Sequence[Choice], responses: Mapping[str, Responses]) -> Any:
    """A new flat functional tf_keras.Model in which each chosen layer is two; `model` stays as it was.

    responses: what the choices were made with.
    Inputs, outputs and all other layers keep their names, order and weights.
    Errors: CompressionGateError where the new model doesn't cost what the choices add up to.
    """
    import tf_keras

    names = Names([])
    for layer in model.layers:
        names.take(layer.name)
    chosen = {choice.name: choice for choice in choices}
    pairs: dict[str, Any] = {}

    def clone(layer: Any) -> Any:
        if layer.name not in chosen:
            return type(layer).from_config(layer.get_config())
        pairs[layer.name] = _pair(layer, chosen[layer.name], names)
        return pairs[layer.name]

    nested = tf_keras.models.clone_model(model, clone_function=clone)
    for layer in model.layers:
        if layer.name in chosen:
            pairs[layer.name].set_weights(_split(layer, chosen[layer.name], responses.get(layer.name)))
        else:
            nested.get_layer(layer.name).set_weights(layer.get_weights())
    nested.output_names = list(model.output_names)  # the second layers have these names, not the pairs around them
    flat = flatten(nested)
    _check(model, flat, choices)
    return flat


def _split(layer: Any, choice: Choice, responses: Responses | None) -> list[Array]:
    """The weights of the two layers, in order."""
    kernel, *bias = layer.get_weights()
    if responses is None:
        return [*split_kernel(kernel, choice.scheme, choice.rank), *bias]
    first, second, shift = responses.split(kernel, choice.rank)
    return [first, second, *(b + shift for b in bias)]


def _pair(layer: Any, choice: Choice, names: Names) -> Any:
    """The two layers as one, for `clone_model`; `flatten` takes them apart. A Sequential that is built when called:
    cloning counts the calls of a functional model from 1, and would wait forever for the one it calls 0."""
    import tf_keras

    first, second = _configs(layer, choice)
    first["name"] = names.take(f"{layer.name}_{_FIRST[choice.scheme]}")
    kind = type(layer)
    return tf_keras.Sequential(
        [kind.from_config(first), kind.from_config(second)], name=names.take(f"{layer.name}_pair")
    )


def _configs(layer: Any, choice: Choice) -> tuple[dict[str, Any], dict[str, Any]]:
    """Strides, padding and dilation go where they change nothing in the sum: TensorFlow pads each axis by itself, and
    a kernel of size 1 needs no padding, so both schemes are exact."""
    # Zeros, for a constant initializer may have the shape of the whole kernel; the weights are set in any case.
    config = {**layer.get_config(), "kernel_initializer": "zeros"}
    config.pop("batch_input_shape", None)
    first = {**config, "use_bias": False, "activation": "linear", "activity_regularizer": None}
    if choice.scheme == MATRIX:
        return {**first, "units": choice.rank}, config
    first["filters"] = choice.rank
    if choice.scheme == CHANNEL:
        ones = (1,) * len(layer.kernel_size)
        return first, {**config, "kernel_size": ones, "strides": ones, "dilation_rate": ones, "padding": "valid"}
    axes = ("kernel_size", "strides", "dilation_rate")
    vertical = {name: (config[name][0], 1) for name in axes}
    horizontal = {name: (1, config[name][1]) for name in axes}
    return {**first, **vertical}, {**config, **horizontal}


def _check(model: Any, made: Any, choices: Iterable[Choice]) -> None:
    expected, actual = model_cost(model), model_cost(made)
    for choice in choices:
        expected = Cost(
            expected.macs + choice.after.macs - choice.before.macs,
            expected.parameters + choice.after.parameters - choice.before.parameters,
        )
    if actual != expected or list(made.output_names) != list(model.output_names):
        raise CompressionGateError(
            f"the factorised model has {actual.macs} MACs, {actual.parameters} parameters and outputs "
            f"{list(made.output_names)}; expected {expected.macs}, {expected.parameters} and {list(model.output_names)}"
        )


# -- which layers


def _has_kernel(layer: Any) -> bool:
    return any("kernel" in weight.name for weight in layer.weights)


def _obstacle(layer: Any) -> str | None:
    """Why the layer can't be factorised, in a few words; None where it can."""
    import tf_keras

    kinds = tf_keras.layers
    if type(layer) not in (kinds.Dense, kinds.Conv1D, kinds.Conv2D):
        return type(layer).__name__
    if getattr(layer, "groups", 1) > 1:
        return "grouped"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "channels first"
    if layer.kernel_constraint is not None:
        return "its kernel is constrained"
    if len({layer.get_input_shape_at(i) for i in range(len(layer.inbound_nodes))}) > 1:
        return "used on several shapes"
    if not np.any(layer.kernel.numpy()):
        return "its kernel is zero"
    return None


def _candidate(layer: Any, scheme: str, cost: Cost, responses: Responses | None) -> Candidate:
    import tf_keras

    kernel = layer.kernel.numpy()
    before = Cost(cost.macs, kernel.size)
    positions = cost.macs // kernel.size
    *window, inputs, outputs = kernel.shape
    ends = math.prod(window) * inputs + outputs
    options = []
    if type(layer) is tf_keras.layers.Conv2D and max(window) > 1 and scheme != CHANNEL and responses is None:
        height, width = window
        vertical, horizontal = height * inputs, width * outputs
        # The vertical half comes before the horizontal stride, and on all of the input's width.
        rows = positions // layer.get_output_shape_at(0)[2] * layer.get_input_shape_at(0)[2]
        unit = Cost(rows * vertical + positions * horizontal, vertical + horizontal)
        options.append(Option(SPATIAL, singular_values(kernel, SPATIAL), unit))
    if not options or scheme == AUTO:
        name = CHANNEL if window else MATRIX
        strength = singular_values(kernel, name) if responses is None else responses.strength[: kernel.size // outputs]
        options.append(Option(name, strength, Cost(positions * ends, ends)))
    return Candidate(layer.name, before, tuple(options))


def _ends(model: Any) -> dict[str, str]:
    """The layers with kernels that no other one comes before ("first layer") or after ("last layer")."""
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    before: dict[int, bool] = {}  # node -> whether a kernel is among its ancestors
    after: dict[int, bool] = {}
    for node in nodes:
        before[id(node)] = any(before[id(p)] or _has_kernel(p.layer) for p in node.parent_nodes)
    for node in reversed(nodes):
        after.setdefault(id(node), False)
        for parent in node.parent_nodes:
            after[id(parent)] = after.get(id(parent), False) or after[id(node)] or _has_kernel(node.layer)
    ends = {}
    for node in nodes:
        if _has_kernel(node.layer) and not (before[id(node)] and after[id(node)]):
            ends[node.layer.name] = "first layer" if not before[id(node)] else "last layer"
    return ends
