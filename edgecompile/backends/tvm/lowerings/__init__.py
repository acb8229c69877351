"""How each operator of a .tflite becomes calls, by its name in the schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecompile.backends.tvm.lowerings import convolution, elementwise, matmul, movement, pooling, reduction
from edgecompile.tflite_file.graph import Operator

Lowering = Callable[[Any, Operator], None]

LOWERINGS: dict[str, Lowering] = {
    **convolution.LOWERINGS,
    **elementwise.LOWERINGS,
    **matmul.LOWERINGS,
    **movement.LOWERINGS,
    **pooling.LOWERINGS,
    **reduction.LOWERINGS,
}
