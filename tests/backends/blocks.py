"""Sums of bytes that are computed in blocks, by the names of tests."""

from __future__ import annotations

from typing import Any


def _window(
    size: tuple[int, int] = (1, 1), input: tuple[int, int] = (1, 1), padding: str = "SAME", stride: int = 1,
    dilation: tuple[int, int] = (1, 1),
) -> dict[str, Any]:  # fmt: skip
    return {
        "size": size, "input": input, "padding": padding, "stride": (stride, stride), "dilation": dilation,
        "activation": "NONE", "seed": 1, "zeros": (-7, 11), "scales": (0.05, 0.6),
    }  # fmt: skip


# (operator, type, window, channels, outputs, batch)
BLOCKS: dict[str, tuple[str, str, dict[str, Any], int, int, int]] = {
    "plain": ("CONV_2D", "int8", _window((3, 3), (8, 8)), 16, 16, 1),
    "overlapping": ("CONV_2D", "int8", _window((1, 1), (25, 5)), 16, 20, 1),  # 125 columns as 2 times 64
    "strided": ("CONV_2D", "int8", _window((3, 3), (11, 13), "VALID", 2), 12, 24, 1),
    "dilated": ("CONV_2D", "int8", _window((3, 2), (9, 11), dilation=(2, 3)), 7, 9, 2),
    "uint8": ("CONV_2D", "uint8", _window((3, 3), (6, 7)), 24, 12, 1),
    "dense": ("FULLY_CONNECTED", "int8", _window(), 40, 10, 6),
}
