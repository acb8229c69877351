"""What a layer is to the 8-bit scheme: what the .tflite makes of it decides where ranges are needed."""

from __future__ import annotations

from typing import Any

KERNEL = "kernel"  # weights that become int8
KEEPS = "keeps"  # gives values of the scale that it takes: TFLite has no other kernels for it
OPERATOR = "operator"  # int8 in, int8 out on a scale of its own
FIXED = "fixed"  # int8 in, and out on the scale that TFLite prescribes
NORM = "norm"  # BatchNorm that the converter folds into the convolution before it
FLOAT = "float"  # anything else

# The attribute with a kernel, and the axes of its output channels.
KERNELS: dict[str, tuple[str, tuple[int, ...]]] = {
    "Conv1D": ("kernel", (2,)),
    "Conv2D": ("kernel", (3,)),
    "Dense": ("kernel", (1,)),
    "DepthwiseConv1D": ("depthwise_kernel", (1, 2)),
    "DepthwiseConv2D": ("depthwise_kernel", (2, 3)),
    "Conv1DTranspose": ("kernel", (1,)),
    "Conv2DTranspose": ("kernel", (2,)),
}
_KEEPING = frozenset({
    "ActivityRegularization", "AlphaDropout", "AveragePooling1D", "AveragePooling2D", "Cropping1D", "Cropping2D",
    "Dropout", "Flatten", "GaussianDropout", "GaussianNoise", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
    "MaxPooling1D", "MaxPooling2D", "Permute", "RepeatVector", "Reshape", "Resizing", "SpatialDropout1D",
    "SpatialDropout2D", "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
})  # fmt: skip
_OPERATORS = frozenset({
    "Add", "Concatenate", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "LeakyReLU", "Multiply", "PReLU",
    "ReLU", "Subtract",
})  # fmt: skip
# Activations by the name of their function.
_ACTIVATIONS = {
    "linear": KEEPS, "relu": OPERATOR, "relu6": OPERATOR, "leaky_relu": OPERATOR, "gelu": OPERATOR,
    "sigmoid": FIXED, "tanh": FIXED, "softmax": FIXED, "swish": OPERATOR, "silu": OPERATOR,
}  # fmt: skip
SWISH = ("swish", "silu")


def kind_of(layer: Any) -> str:
    """Of a layer of tf-keras itself; any other is FLOAT."""
    name = type(layer).__name__
    if not type(layer).__module__.startswith("tf_keras."):
        return FLOAT
    if name in KERNELS:
        return KERNEL
    if name == "Activation":
        return _ACTIVATIONS.get(activation_of(layer), FLOAT)
    if name == "Softmax":
        return FIXED
    if name == "BatchNormalization":
        return NORM
    if name in _KEEPING:
        return KEEPS
    return OPERATOR if name in _OPERATORS else FLOAT


def activation_of(layer: Any) -> str:
    """The name of the layer's activation function; "linear" where it has none, "" where it is no function of Keras."""
    function = getattr(layer, "activation", None)
    if function is None:
        return "linear"
    name, module = str(getattr(function, "__name__", "")), str(getattr(function, "__module__", ""))
    return name if module.partition(".")[0] in ("tf_keras", "tensorflow") else ""


def is_clip(layer: Any) -> bool:
    """Whether the layer is a ReLU or ReLU6, which TFLite's kernels apply by themselves."""
    if type(layer).__name__ == "Activation":
        return activation_of(layer) in ("relu", "relu6")
    if type(layer).__name__ != "ReLU":
        return False
    return layer.max_value in (None, 6) and not layer.negative_slope and not layer.threshold


def kernel_of(layer: Any) -> Any:
    """The variable with the layer's kernel; None for a layer whose kernel the scheme doesn't know."""
    known = KERNELS.get(type(layer).__name__)
    return None if known is None else getattr(layer, known[0])
