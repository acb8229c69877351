"""One Keras 3 layer to the tf-keras layer of the same class: its configuration and its weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgecompile.bridge.operations import COMPOSED
from edgecompile.errors import BridgeError, UnsupportedLayerError
from edgecompile.loaders.base import clean_name

CURE = "replace it with a layer that both have, save the model with tf-keras, or use a recipe without training"

RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
# Layers around another layer, and the attributes that hold it.
WRAPPERS = {
    "TimeDistributed": ("layer",),
    "SpectralNormalization": ("layer",),
    "Bidirectional": ("forward_layer", "backward_layer"),
    "RNN": ("cell",),
    "StackedRNNCells": ("cells",),
}
# Of no consequence for what a trained layer computes: seeds of dropout, and the default layout.
HARMLESS: dict[str, tuple[Any, ...]] = {"data_format": ("channels_last", None), "autocast": (True,)}
# What a fused activation of these layers is applied to is the layer's output, so it can be taken out.
FUSED = frozenset({"Dense", "EinsumDense", "Activation", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D",
                   "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv1DTranspose", "Conv2DTranspose",
                   "Conv3DTranspose"})  # fmt: skip


def model_name(model: Any) -> str:
    return clean_name(model.name)


def layer(op: Any, name: str) -> tuple[Any, str]:
    """(a new tf-keras layer without weights, the activation to apply to its output or "")."""
    import tf_keras

    kind = type(op).__name__
    target = getattr(tf_keras.layers, kind, None)
    if target is None or not type(op).__module__.startswith("keras."):
        raise UnsupportedLayerError(f"layer {op.name!r}: tf-keras has no layer {kind!r}", hint=CURE)
    config = op.get_config()
    activation = composed(op)
    if activation:
        config["activation"] = "linear"
    arguments = translate_config(op, target, config)
    arguments["name"] = name
    if kind == "Normalization":
        arguments.update(_statistics(op))
    for attribute in WRAPPERS.get(kind, ()):
        arguments.update(_inner(op, kind, attribute))
    if kind == "Bidirectional":
        # tf-keras puts "forward_" and "backward_" before the names itself.
        arguments["layer"] = arguments.pop("forward_layer")
    if kind == "Softmax":
        axis = arguments.get("axis")
        arguments["axis"] = tuple(axis) if isinstance(axis, list) else axis
    made = target(**arguments)
    made.trainable = op.trainable
    return made, activation


def composed(op: Any) -> str:
    """The layer's activation where tf-keras has none like it, so that it must follow as a layer; else ""."""
    activation = op.get_config().get("activation") if type(op).__name__ in FUSED else None
    if isinstance(activation, Mapping):
        return clean_name(str(activation.get("registered_name") or activation.get("class_name")))
    return activation if isinstance(activation, str) and not _same_activation(activation) else ""


def _same_activation(name: str) -> bool:
    """Whether tf-keras has an activation of this name that computes the same."""
    import tf_keras

    if name in COMPOSED:
        return False
    try:
        tf_keras.activations.get(name)
    except ValueError:
        return False
    return True


def activation_layer(op: Any) -> Any:
    """A Keras 3 layer that applies the activation of a layer like this."""
    import keras

    return keras.layers.Activation(op.activation, name=f"{op.name}_activation")


def refuse_code(op: Any) -> None:
    """UnsupportedLayerError for a layer that runs code which its configuration can't say safely."""
    from edgecompile.loaders.origin import unsafe

    if any(isinstance(op, cls) for cls in unsafe()):
        raise UnsupportedLayerError(
            f"layer {op.name!r} ({type(op).__name__}) carries code: it can't be kept in a tf-keras model",
            hint="write it as a layer class of your own and name that with --custom, or use a recipe without training",
        )


def translate_config(op: Any, target: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of tf-keras's constructor; UnsupportedLayerError where one with an effect has no equal."""
    accepted, defaults = _parameters(target), _parameters(type(op))
    out: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("name", "trainable", "mean", "variance") or key.endswith("_initializer"):
            continue  # the weights are copied: what they began with has no effect
        if key in ("layer", "backward_layer", "cell", "cells"):
            continue  # see WRAPPERS
        new = RENAMED.get(type(op).__name__, {}).get(key, key)
        if key == "dtype":
            out["dtype"] = _dtype(op, value)
        elif new in accepted:
            out[new] = _value(op, key, value)
        elif key != "seed" and value not in HARMLESS.get(key, ()) and not _is_default(value, defaults.get(key)):
            raise UnsupportedLayerError(
                f"layer {op.name!r} ({type(op).__name__}): tf-keras has no {key} (here {value!r})", hint=CURE
            )
    return out


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's parameters, with those of the bases that it hands **kwargs on to."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(name, parameter)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    if "return_sequences" in found:  # tf-keras's RNN layers take this one out of **kwargs
        found.setdefault("zero_output_for_mask", inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, default=False))
    return found


def _is_default(value: Any, parameter: inspect.Parameter | None) -> bool:
    return value is None or value is False or (parameter is not None and parameter.default == value)


def _dtype(op: Any, value: Any) -> str:
    """The name of a dtype policy: float32, mixed_bfloat16, ..."""
    if isinstance(value, Mapping):
        if value.get("class_name") not in ("DTypePolicy", "FloatDTypePolicy"):
            raise UnsupportedLayerError(
                f"layer {op.name!r} has the dtype policy {value.get('class_name')}: it is quantized already",
                hint="give the model as it was before quantization",
            )
        return str(value["config"]["name"])
    return str(value)


def _value(op: Any, key: str, value: Any) -> Any:
    """A plain value as it is; a serialized regularizer, constraint or activation as an object of tf-keras."""
    import tf_keras

    if isinstance(value, Mapping) and "class_name" in value:
        for suffix, module in (("_regularizer", tf_keras.regularizers), ("_constraint", tf_keras.constraints)):
            cls = getattr(module, str(value["class_name"]), None)
            if key.endswith(suffix) and cls is not None:
                return cls(**value["config"])
        raise UnsupportedLayerError(
            f"layer {op.name!r} ({type(op).__name__}): its {key} is a {value['class_name']}, which tf-keras lacks",
            hint=CURE,
        )
    if key.endswith("activation") and isinstance(value, str):
        if not _same_activation(value):
            raise UnsupportedLayerError(
                f"layer {op.name!r} ({type(op).__name__}): tf-keras has no activation {value!r} there", hint=CURE
            )
        return "swish" if value == "silu" else value
    return value


def _inner(op: Any, kind: str, attribute: str) -> dict[str, Any]:
    """The translated layer (or cells) that a wrapper holds, as its constructor's argument."""
    from edgecompile.bridge.graph import is_graph

    inner = getattr(op, attribute)
    if attribute == "cells":
        return {"cells": [layer(cell, clean_name(cell.name))[0] for cell in inner]}
    if is_graph(inner):
        raise UnsupportedLayerError(f"layer {op.name!r} ({kind}) holds a whole model", hint=CURE)
    name = clean_name(inner.name)
    if kind == "Bidirectional":
        name = name.removeprefix("forward_").removeprefix("backward_")
    made, activation = layer(inner, name)
    if activation:
        raise UnsupportedLayerError(
            f"layer {op.name!r} ({kind}): tf-keras has no activation {activation!r} inside it", hint=CURE
        )
    return {attribute: made}


def _statistics(op: Any) -> dict[str, Any]:
    """A Normalization's mean and variance as constants: adapted ones are weights, and no layer's to train."""
    shape = op._mean_and_var_shape if op.axis else ()
    return {
        "mean": np.asarray(op.mean, np.float32).reshape(shape),
        "variance": np.asarray(op.variance, np.float32).reshape(shape),
    }


def copy_weights(op: Any, made: Any) -> None:
    """Give the new layer, once built, the original's weights; BridgeError where they don't match one to one."""
    if type(op).__name__ == "Normalization":
        return
    source = [(w.path.rpartition("/")[2], np.asarray(w)) for w in op.weights]
    target = [(w.name.rpartition("/")[2].partition(":")[0], tuple(w.shape)) for w in made.weights]
    if [a.shape for _, a in source] != [shape for _, shape in target]:
        raise BridgeError(
            f"layer {op.name!r} ({type(op).__name__}): its weights {[(n, a.shape) for n, a in source]} "
            f"have no equals in tf-keras's {target}",
            hint=CURE,
        )
    if sorted(n for n, _ in source) == sorted(n for n, _ in target) and len({n for n, _ in source}) == len(source):
        by_name = dict(source)
        made.set_weights([by_name[name] for name, _ in target])
    else:
        made.set_weights([array for _, array in source])
