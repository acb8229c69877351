"""Where zeros in weights make LiteRT faster: what XNNPACK's sparse kernels need of a model and of a CPU.

XNNPACK (src/subgraph.c, `xnn_subgraph_rewrite_for_nchw`) multiplies sparse matrices only inside a chain of float layers
that it can compute in NCHW order. The chain starts with a 3x3 convolution of stride 2 over 3 channels, goes on with 1x1
convolutions, 3x3 and 5x5 depthwise ones and element-wise operators, and ends with a mean over height and width, from
which fully connected layers may go on. Padding must be equal on both sides, all that a layer of the chain gives
must stay in it, and more than 2/3 of the weights of its 1x1 convolutions and fully connected layers must be zero.
LiteRT asks for it where a file stores weights as sparse (sparsifying.py). On x86 CPUs with AVX XNNPACK never does.
Fully connected layers with fewer zeros would spoil the share: a RESHAPE, which no chain goes across, keeps them out.

TensorFlow pads layers of stride 2 unequally: 0 before, 1 after, where the size is even. A chain mirrored along that
axis has 1 before and 0 after, and XNNPACK's 1 and 1 adds only what no window reaches: so such chains are run mirrored.
A mean over height and width is the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecompile.tflite_file import Operator, TfliteModel

FLOAT = "float32"
SPATIAL = (1, 2)  # axes of height and width, in activations and in kernels

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_BINARY = frozenset({"ADD", "MUL"})
_UNARY = frozenset({
    "ABS", "CEIL", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6",
    "RELU_N1_TO_1", "ROUND", "RSQRT", "SQRT", "SQUARE", "TANH",
})  # fmt: skip
_ACTIVATIONS = frozenset({"NONE", "RELU", "RELU6", "RELU_N1_TO_1"})


@dataclass(frozen=True)
class Chain:
    """The layers of the main subgraph that XNNPACK can run with sparse kernels, and how they must be written for it.

    Operators and tensors go by their index. weights: of 1x1 convolutions and fully connected layers; `zeros` of their
    `elements` are 0. mirrored: the axes along which the chain has to run reversed. kernels: weights of all
    larger kernels. strided: operators of stride 2, each with the PAD in front of it, or None. pools: average pooling
    over the whole map, to be written as a mean. apart: fully connected layers to be kept out of the chain.
    """

    start: int
    weights: tuple[int, ...]
    kernels: tuple[int, ...]
    strided: tuple[tuple[int, int | None], ...]
    pools: tuple[int, ...]
    apart: tuple[int, ...]
    mirrored: tuple[int, ...]
    zeros: int
    elements: int


class NoChain(Exception):
    """Why there is none, as the end of a sentence."""


def find_chain(model: TfliteModel) -> Chain:
    """The model's chain; NoChain where XNNPACK would not run it with sparse kernels, on any CPU."""
    finder = _Finder(model)
    chain = finder.chain()
    if not _enough(chain.zeros, chain.elements):
        raise NoChain(
            "XNNPACK takes its sparse kernels where more than 2/3 of the weights of 1x1 convolutions are zero, and "
            f"{chain.zeros:,} of {chain.elements:,} ({chain.zeros / max(1, chain.elements):.0%}) are"
        )
    return chain


@dataclass(frozen=True)
class _Window:
    """A kernel along one axis: `size` input values, `before` zeros in front of them, `out` results."""

    kernel: int
    stride: int
    size: int
    before: int
    out: int

    def fits(self, mirrored: bool) -> bool:
        """Whether equal padding, kernel // 2 on both sides, gives the same windows."""
        pad = self.kernel // 2
        before = self.before
        if mirrored:  # the last window becomes the first; what lies in front of it is what was behind
            before = self.stride * (self.out - 1) + self.kernel - self.size - self.before
        return before == pad and (self.size + 2 * pad - self.kernel) // self.stride + 1 == self.out


class _Finder:
    """Follows the chain from its start, operator by operator."""

    def __init__(self, model: TfliteModel) -> None:
        self.model, self.graph = model, model.main
        self.consumers: dict[int, list[Operator]] = {}
        for operator in self.graph.operators:
            for index in operator.inputs:
                self.consumers.setdefault(index, []).append(operator)
        self.inside: set[int] = set()  # tensors that the chain computes
        self.members: list[Operator] = []
        self.pads: dict[int, Operator] = {}  # by the tensor that the PAD gives
        self.windows: list[tuple[_Window, _Window]] = []
        self.weights: list[int] = []
        self.kernels: list[int] = []
        self.strided: list[tuple[int, int | None]] = []
        self.pools: list[int] = []
        self.apart: list[int] = []

    def chain(self) -> Chain:
        start = self._start()
        self._kernel(start)
        self._enter(start)
        for operator in self.graph.operators[start.index + 1 :]:
            if any(index in self.inside for index in operator.inputs):
                self._follow(operator)
        for operator in self.members:
            self._leaves(operator)
        if not any(self._is_mean(operator) for operator in self.members):
            raise NoChain("the chain has to end with a mean over height and width, and has none")
        elements = zeros = 0
        for index in self.weights:
            values = self.model.data(self.graph.tensors[index])
            elements += values.size
            zeros += int(np.count_nonzero(values == 0))
        return Chain(
            start.index,
            tuple(dict.fromkeys(self.weights)),
            tuple(dict.fromkeys(self.kernels)),
            tuple(self.strided),
            tuple(self.pools),
            tuple(self.apart),
            self._mirrored(),
            zeros,
            elements,
        )

    def _start(self) -> Operator:
        found = [op for op in self.graph.operators if self._can_start(op)]
        if len(found) != 1:
            raise NoChain(
                "the chain of layers that XNNPACK can run with them starts with one float32 3x3 convolution of stride "
                f"2 over 3 channels, and the model has {len(found) or 'none'}"
            )
        for tensor in found[0].inputs[:1]:
            made = next((op for op in self.graph.operators if tensor in op.outputs), None)
            if made is not None and made.name == "PAD":
                self._pad(made)
        return found[0]

    def _can_start(self, operator: Operator) -> bool:
        if operator.name != "CONV_2D" or _strides(operator) != (2, 2):
            return False
        data, weights = (self.graph.tensors[index] for index in operator.inputs[:2])
        plain = weights.is_constant and not weights.is_sparse and data.dtype == weights.dtype == FLOAT
        dilated = {operator.options["dilation_w_factor"], operator.options["dilation_h_factor"]} != {1}
        clamped = operator.options["fused_activation_function"] in _ACTIVATIONS
        return plain and clamped and not dilated and weights.shape[1:] == (3, 3, 3) and data.shape[3] == 3

    def _enter(self, operator: Operator) -> None:
        self.members.append(operator)
        self.inside.update(operator.outputs)

    def _follow(self, operator: Operator) -> None:
        """Take `operator`, which reads the chain, into it; NoChain where that can't be. One behind a mean may stay out:
        the chain ends there."""
        if operator.name == "PAD":
            self._pad(operator)
            self.inside.update(operator.outputs)
            return
        problem = self._problem(operator)
        if problem is None:
            self._enter(operator)
            return
        makers = [member for member in self.members if set(member.outputs) & set(operator.inputs)]
        if not all(self._may_end(member) for member in makers) or not makers:
            raise NoChain(f"operator {operator.index} ({operator.name}) can't be in XNNPACK's sparse chain: {problem}")

    def _problem(self, operator: Operator) -> str | None:
        tensors = [self.graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        computed = [index for index in operator.inputs if index >= 0 and not self.graph.tensors[index].is_constant]
        if any(tensor.dtype != FLOAT for tensor in tensors if not (tensor.is_constant and tensor.dtype == "int32")):
            return f"it computes with {next(t.dtype for t in tensors if t.dtype != FLOAT)}"
        if any(index not in self.inside for index in computed):
            return "it also takes what is computed outside of it"
        if operator.options.get("fused_activation_function", "NONE") not in _ACTIVATIONS:
            return f"its activation is {operator.options['fused_activation_function']}"
        if operator.name in CONVOLUTIONS:
            return self._convolution(operator)
        if operator.name == "FULLY_CONNECTED":
            return self._dense(operator)
        if operator.name == "MEAN" or operator.name == "AVERAGE_POOL_2D":
            return self._mean(operator)
        if operator.name in _UNARY or operator.name in _BINARY:
            return self._element_wise(operator)
        return "its place is outside"

    def _convolution(self, operator: Operator) -> str | None:
        weights = self.graph.tensors[operator.inputs[1]]
        data = self.graph.tensors[operator.inputs[0]]
        height, width = weights.shape[1:3]
        if not weights.is_constant or weights.is_sparse:
            return "its weights are not plain constants"
        if {operator.options["dilation_w_factor"], operator.options["dilation_h_factor"]} != {1}:
            return "it is dilated"
        if operator.name == "CONV_2D":
            if (height, width) != (1, 1) or weights.shape[3] != data.shape[3]:
                return f"it is a {height}x{width} convolution" + ("" if height * width > 1 else " in groups")
            if _strides(operator) != (1, 1) or operator.inputs[0] in self.pads:
                return "it is a 1x1 convolution with stride or padding"
            self.weights.append(weights.index)
            return None
        if (height, width) not in ((3, 3), (5, 5)) or operator.options["depth_multiplier"] != 1:
            return (
                f"it is a depthwise {height}x{width} convolution, of {operator.options['depth_multiplier']} a channel"
            )
        if _strides(operator) not in ((1, 1), (2, 2)):
            return f"its strides are {_strides(operator)}"
        self._kernel(operator)
        return None

    def _kernel(self, operator: Operator) -> None:
        """Note a kernel larger than 1x1: its weights, and its windows along height and width."""
        weights = self.graph.tensors[operator.inputs[1]]
        pad = self.pads.get(operator.inputs[0])
        data = self.graph.tensors[pad.inputs[0] if pad else operator.inputs[0]]
        out = self.graph.tensors[operator.outputs[0]]
        paddings = self.model.data(self.graph.tensors[pad.inputs[1]]) if pad else np.zeros((4, 2), np.int64)
        stride = _strides(operator)[0]
        windows = []
        for axis in SPATIAL:
            kernel, size, given = weights.shape[axis], data.shape[axis], out.shape[axis]
            if min(data.shape_signature[axis], out.shape_signature[axis]) < 1:
                raise NoChain(f"operator {operator.index} ({operator.name}) takes images of any size")
            before = int(paddings[axis][0])
            if operator.options["padding"] == "SAME":
                padded = size + int(paddings[axis].sum())
                before += max(0, (given - 1) * stride + kernel - padded) // 2
            windows.append(_Window(kernel, stride, size, before, given))
        self.windows.append((windows[0], windows[1]))
        self.kernels.append(weights.index)
        if stride == 2:
            self.strided.append((operator.index, pad.index if pad else None))

    def _pad(self, operator: Operator) -> None:
        paddings = self.graph.tensors[operator.inputs[1]]
        used = self.consumers.get(operator.outputs[0], [])
        spatial = paddings.is_constant and paddings.shape == (4, 2)
        spatial = spatial and not self.model.data(paddings)[[0, 3]].any()
        if not spatial or len(used) != 1 or used[0].name not in CONVOLUTIONS:
            raise NoChain(f"operator {operator.index} (PAD) is not the padding of one convolution")
        self.pads[operator.outputs[0]] = operator

    def _dense(self, operator: Operator) -> str | None:
        weights = self.graph.tensors[operator.inputs[1]]
        if not weights.is_constant or weights.is_sparse:
            return "its weights are not plain constants"
        makers = [member for member in self.members if operator.inputs[0] in member.outputs]
        if not all(self._may_end(member) for member in makers):
            return "it is not behind a mean over height and width"
        if not _enough(int(np.count_nonzero(self.model.data(weights) == 0)), weights.elements):
            self.apart.append(operator.index)
            return "too few of its weights are zero"
        self.weights.append(weights.index)
        return None

    def _mean(self, operator: Operator) -> str | None:
        if not self._is_mean(operator):
            return "it is no mean over height and width"
        if operator.name == "AVERAGE_POOL_2D":
            self.pools.append(operator.index)
        return None

    def _is_mean(self, operator: Operator) -> bool:
        data = self.graph.tensors[operator.inputs[0]]
        if operator.name == "AVERAGE_POOL_2D":
            window = operator.options["filter_height"], operator.options["filter_width"]
            plain = operator.options["fused_activation_function"] == "NONE"
            whole = window == data.shape[1:3] and self.graph.tensors[operator.outputs[0]].shape[1:3] == (1, 1)
            return plain and whole and operator.options["padding"] == "VALID"
        axes = self.graph.tensors[operator.inputs[1]] if operator.name == "MEAN" else None
        return (
            axes is not None
            and axes.is_constant
            and len(data.shape) == 4
            and sorted(int(axis) % 4 for axis in self.model.data(axes).ravel()) == list(SPATIAL)
        )

    def _element_wise(self, operator: Operator) -> str | None:
        tensors = [self.graph.tensors[index] for index in operator.inputs]
        if any(len(tensor.shape) != 4 for tensor in tensors):
            return "its operands don't all have 4 dimensions"
        if any(tensor.is_constant and tensor.shape[:3] != (1, 1, 1) for tensor in tensors):
            return "its constant is not one value a channel"
        return None

    def _may_end(self, operator: Operator) -> bool:
        return operator.name == "FULLY_CONNECTED" or self._is_mean(operator)

    def _leaves(self, operator: Operator) -> None:
        """All that reads a layer of the chain must be in it, or nothing where the chain ends there."""
        inside = {member.index for member in self.members} | {pad.index for pad in self.pads.values()}
        for index in operator.outputs:
            used = self.consumers.get(index, [])
            out = [op for op in used if op.index not in inside]
            given = index in self.graph.outputs
            if (out or given) and not (self._may_end(operator) and len(out) == len(used)):
                raise NoChain(
                    f"what operator {operator.index} ({operator.name}) gives is used outside of the chain too"
                )

    def _mirrored(self) -> tuple[int, ...]:
        """The axes to mirror, as few as will do."""
        axes = []
        for axis, windows in zip(SPATIAL, zip(*self.windows, strict=True), strict=True):
            fitting = [mirrored for mirrored in (False, True) if all(w.fits(mirrored) for w in windows)]
            if not fitting:
                raise NoChain("its kernels are padded in a way that XNNPACK's sparse chain doesn't have")
            if fitting[0]:
                axes.append(axis)
        return tuple(axes)


def _enough(zeros: int, elements: int) -> bool:
    return zeros * 3 > elements * 2


def _strides(operator: Operator) -> tuple[int, int]:
    return int(operator.options["stride_h"]), int(operator.options["stride_w"])
