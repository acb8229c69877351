"""Sliding windows of any size, stride, dilation and padding, with quantization as it comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from backends.operators import enumerated
from hypothesis import strategies as st

Array = npt.NDArray[Any]
ACTIVATIONS = ("NONE", "RELU", "RELU6")


@st.composite
def windows(draw: st.DrawFn, dilated: bool = False) -> dict[str, Any]:
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.sampled_from(((1, 1), (2, 1), (2, 3)))) if dilated else (1, 1)
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    return {
        "size": size,
        "dilation": dilation,
        "input": (draw(st.integers(reach[0], max(reach[0], 9))), draw(st.integers(reach[1], max(reach[1], 11)))),
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": draw(st.sampled_from(("SAME", "VALID"))),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "seed": draw(st.integers(0, 1 << 30)),
        "zeros": draw(st.tuples(st.integers(-128, 127), st.integers(-128, 127))),
        "scales": draw(st.tuples(st.floats(1e-3, 0.5), st.floats(1e-3, 0.5))),
        "threads": draw(st.sampled_from((1, 2))),
    }


def output_size(window: dict[str, Any]) -> tuple[int, ...]:
    sizes = zip(window["input"], window["size"], window["stride"], window["dilation"], strict=True)
    if window["padding"] == "SAME":
        return tuple(-(-n // s) for n, _, s, _ in sizes)
    return tuple((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in sizes)


def filled(options: Any, window: dict[str, Any]) -> Any:
    options.strideH, options.strideW = window["stride"]
    options.padding = enumerated(schema.Padding, window["padding"])
    options.fusedActivationFunction = enumerated(schema.ActivationFunctionType, window["activation"])
    return options


def integers(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-128, 128, shape).astype(np.int8)
