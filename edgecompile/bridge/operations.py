"""keras.ops calls in a functional graph, as layers of tf-keras: TF-MOT sees layers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def call(op: Any, node: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation's outputs for tf-keras tensors, by a layer named `name`; None where no layer computes it."""
    from tf_keras import layers

    args = (*args, *kwargs.values())
    kind = type(op).__name__
    shape = tuple(node.outputs[0].shape)
    if kind in BINARY:
        return _binary(BINARY[kind], name, args[0], args[1])
    x = args[0]
    if kind in ACTIVATIONS:
        return layers.Activation(ACTIVATIONS[kind], name=name)(x)
    if kind in COMPOSED_OPS:
        return COMPOSED[COMPOSED_OPS[kind]](x, name)
    if kind == "Gelu" and op.approximate:
        return None
    if kind in SIMPLE:
        return SIMPLE[kind](layers, op, name)(x)
    if kind == "Concatenate":
        return layers.Concatenate(axis=op.axis, name=name)(list(x))
    if kind in ("Reshape", "ExpandDims", "Squeeze") and None not in shape[1:]:
        before = tuple(node.input_tensors[0].shape)
        same_batch = shape and shape[0] == before[0] and None not in before[1:]
        same_batch = same_batch and math.prod(shape[1:]) == math.prod(before[1:])
        return layers.Reshape(shape[1:], name=name)(x) if same_batch else None
    if kind == "Transpose" and op.axes and op.axes[0] == 0:
        return layers.Permute(tuple(op.axes[1:]), name=name)(x)
    if kind in ("Mean", "Max"):
        return _pool(layers, kind, op, name, x)
    if kind == "Pad":
        return _pad(layers, op, name, x, args[1] if len(args) > 1 else None)
    if kind == "Square":
        return layers.Multiply(name=name)([x, x])
    if kind == "Clip" and _is_scalar(op.x_min, 0) and _is_scalar(op.x_max):
        return layers.ReLU(max_value=float(op.x_max), name=name)(x)
    return None


BINARY = {"Add": "Add", "Subtract": "Subtract", "Multiply": "Multiply", "Divide": "Divide", "TrueDivide": "Divide",
          "Maximum": "Maximum", "Minimum": "Minimum"}  # fmt: skip
ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Softsign": "softsign", "Silu": "swish",
               "Selu": "selu", "Exp": "exponential"}  # fmt: skip
COMPOSED_OPS = {"HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "Relu6": "relu6"}
SIMPLE: dict[str, Callable[[Any, Any, str], Any]] = {
    "Relu": lambda layers, _op, name: layers.ReLU(name=name),
    "LeakyRelu": lambda layers, op, name: layers.LeakyReLU(alpha=op.negative_slope, name=name),
    "Elu": lambda layers, op, name: layers.ELU(alpha=op.alpha, name=name),
    "Gelu": lambda layers, _op, name: layers.Activation("gelu", name=name),
    "Softmax": lambda layers, op, name: layers.Softmax(axis=op.axis, name=name),
    "Negative": lambda layers, _op, name: layers.Rescaling(-1.0, name=name),
    "Identity": lambda layers, _op, name: layers.Activation("linear", name=name),
}


def _binary(kind: str, name: str, a: Any, b: Any) -> Any:
    """Two tensors by a merge layer; a tensor and a constant by Rescaling (scale * x + offset)."""
    from tf_keras import layers

    tensors = [hasattr(v, "_keras_history") for v in (a, b)]
    if all(tensors):
        if kind == "Divide" or len(a.shape) != len(b.shape):
            return None
        return getattr(layers, kind)(name=name)([a, b])
    x, constant, left = (a, b, False) if tensors[0] else (b, a, True)
    if not x.dtype.is_floating or (left and kind == "Divide"):
        return None
    c = np.asarray(constant, np.float32)
    if c.ndim >= len(x.shape):
        return None
    if kind == "Maximum" and c.ndim == 0 and c == 0:
        return layers.ReLU(name=name)(x)
    scale_offset = {
        "Add": (1.0, c),
        "Subtract": (-1.0, c) if left else (1.0, -c),
        "Multiply": (c, 0.0),
        "Divide": (np.float32(1) / c, 0.0),
    }.get(kind)
    if scale_offset is None:
        return None
    scale, offset = (np.asarray(v).tolist() for v in scale_offset)
    return layers.Rescaling(scale, offset, name=name)(x)


def _pool(layers: Any, kind: str, op: Any, name: str, x: Any) -> Any:
    """A mean or maximum over all spatial axes is a global pooling."""
    rank = len(x.shape)
    axes = op.axis if isinstance(op.axis, Sequence) else (op.axis,)
    if rank not in (3, 4, 5) or None in axes or sorted(a % rank for a in axes) != list(range(1, rank - 1)):
        return None
    word = "Average" if kind == "Mean" else "Max"
    return getattr(layers, f"Global{word}Pooling{rank - 2}D")(keepdims=bool(op.keepdims), name=name)(x)


def _pad(layers: Any, op: Any, name: str, x: Any, value: Any) -> Any:
    """Zeros around the spatial axes are zero padding."""
    rank = len(x.shape)
    width = [tuple(pair) for pair in op.pad_width]
    spatial = len(width) == rank and width[0] == width[-1] == (0, 0)
    if op.mode != "constant" or value or not spatial or rank not in (3, 4):
        return None
    if rank == 3:
        return layers.ZeroPadding1D(width[1], name=name)(x)
    return layers.ZeroPadding2D(tuple(width[1:-1]), name=name)(x)


def _is_scalar(value: Any, equal: float | None = None) -> bool:
    if hasattr(value, "_keras_history") or np.ndim(value) != 0:
        return False
    return equal is None or bool(value == equal)


def _relu6(x: Any, name: str) -> Any:
    from tf_keras import layers

    return layers.ReLU(max_value=6.0, name=name)(x)


def _hard_sigmoid(x: Any, name: str) -> Any:
    """relu6(x + 3) / 6: tf-keras's own hard_sigmoid is another function (0.2 x + 0.5)."""
    from tf_keras import layers

    shifted = layers.Rescaling(1.0, offset=3.0, name=f"{name}_shift")(x)
    return layers.Rescaling(1.0 / 6.0, name=name)(layers.ReLU(max_value=6.0, name=f"{name}_relu6")(shifted))


def _hard_silu(x: Any, name: str) -> Any:
    from tf_keras import layers

    return layers.Multiply(name=name)([x, _hard_sigmoid(x, f"{name}_gate")])


# Activations that tf-keras lacks, or that mean something else there, made of its layers.
COMPOSED: dict[str, Callable[[Any, str], Any]] = {
    "relu6": _relu6,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": _hard_silu,
    "hard_swish": _hard_silu,
}
