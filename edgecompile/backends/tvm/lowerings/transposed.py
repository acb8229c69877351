"""TRANSPOSE_CONV, as a convolution of its input with zeros between its rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgecompile.backends.tvm.lowerings.convolution import Call, convolution, known_weights
from edgecompile.backends.tvm.operators.window import Window
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def transposed(planner: Planner, operator: Operator) -> None:
    x = planner.value(operator.inputs[2])
    weights, zero = known_weights(planner, operator, x)
    _, rows, columns, _ = planner.tensor(operator.outputs[0]).shape
    size, sizes = (weights.shape[1], weights.shape[2]), (x.shape[1], x.shape[2])
    stride = operator.options["stride_h"], operator.options["stride_w"]
    before = []
    for out, n, k, s in zip((rows, columns), sizes, size, stride, strict=True):
        around = max((n - 1) * s + k - out, 0) if operator.options["padding"] == "SAME" else 0
        before.append(k - 1 - around // 2)
    shape = Window(size, (1, 1), (1, 1), (before[0], before[1]), sizes, (rows, columns), stride)
    flipped = np.ascontiguousarray(weights[:, ::-1, ::-1])
    convolution(Call(planner, operator, (), zero, bias=3), x, flipped, shape)


LOWERINGS = {"TRANSPOSE_CONV": transposed}
