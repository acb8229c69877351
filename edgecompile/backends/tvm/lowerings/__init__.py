"""How each operator of a .tflite becomes calls, by its name in the schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecompile.backends.tvm.lowerings import (
    arrangement,
    convolution,
    detection,
    division,
    elementwise,
    logic,
    matmul,
    movement,
    pooling,
    reduction,
    resize,
    rows,
    swish,
    transposed,
)
from edgecompile.tflite_file.graph import Operator

Lowering = Callable[[Any, Operator], None]

LOWERINGS: dict[str, Lowering] = {
    **arrangement.LOWERINGS,
    **convolution.LOWERINGS,
    **division.LOWERINGS,
    **elementwise.LOWERINGS,
    **logic.LOWERINGS,
    **matmul.LOWERINGS,
    **movement.LOWERINGS,
    **pooling.LOWERINGS,
    **reduction.LOWERINGS,
    **resize.LOWERINGS,
    **rows.LOWERINGS,
    **swish.LOWERINGS,
    **transposed.LOWERINGS,
}

# By what a file calls them.
CUSTOM: dict[str, Lowering] = {**detection.CUSTOM}
