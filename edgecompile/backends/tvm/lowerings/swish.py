"""LOGISTIC, with the MUL by its own input behind it: together swish, which is one pass, and of bytes one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgecompile.backends.tvm.arithmetic import FAST, Range, exponential, f32, multiplier
from edgecompile.backends.tvm.epilogues import activated
from edgecompile.backends.tvm.lowerings.calls import alike, described, emit
from edgecompile.backends.tvm.lowerings.elementwise import one
from edgecompile.backends.tvm.operators.pointwise import looked_up, pointwise
from edgecompile.backends.tvm.tables import table
from edgecompile.task import Array
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

_plain = one(lambda x, _: f32(1) / (f32(1) + exponential(-x)), quick=True)


def logistic(planner: Planner, operator: Operator) -> None:
    given, made = operator.inputs[0], operator.outputs[0]
    behind = planner.only_reader(made)
    if behind is None or behind.name != "MUL" or set(behind.inputs) != {given, made}:
        _plain(planner, operator)
        return
    activation = behind.options.get("fused_activation_function", "NONE")
    of, between = planner.range(given), planner.range(made)
    into = planner.range(behind.outputs[0], activation)
    if planner.tensor(given).dtype == planner.tensor(behind.outputs[0]).dtype == "float32":
        operands, shape = alike(planner, operator, operator.inputs)
        function = pointwise(
            described(operands), shape, lambda x: activated(x / (f32(1) + exponential(-x)), activation)
        )
        emit(planner, behind, operands, function, shape, front=operator)
    elif of is not None and between is not None and into is not None and into.dtype in ("int8", "uint8"):
        x = planner.value(given)
        first = np.arange(256) + np.iinfo(x.dtype).min - of.zero
        product = first * (table(planner, operator).astype(np.int64) - between.zero)
        real = np.float32(of.scale) * np.float32(between.scale) / np.float32(into.scale)
        entries = _requantized(product, float(real), into, planner.mode)
        emit(planner, behind, (x, entries), looked_up(x.stored, x.dtype, into.dtype), x.stored, front=operator)
    else:
        _plain(planner, operator)
        return
    planner.take(behind)


def _requantized(product: Array, real: float, into: Range, mode: str) -> Array:
    """As pairs.multiplied has it, of numbers that are known."""
    if mode == FAST:
        found = np.rint(product.astype(np.float32) * np.float32(real)).astype(np.int64)
    else:
        m, shift = multiplier(real)
        left, right = max(shift, 0), max(-shift, 0)
        found = ((product << left) * m + (1 << 30)) >> 31
        if right:
            found = (found + (1 << right - 1) + (found >> 63)) >> right
    return np.asarray((found + into.zero).clip(into.low, into.high), into.dtype)


LOWERINGS = {"LOGISTIC": logistic}
