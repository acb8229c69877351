"""Sliding windows: of convolutions and poolings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Window:
    """Pairs are (height, width). before: rows and columns of padding above and to the left.

    apart: how far the input's rows and columns lie from each other, with zeros between them (transposed convolutions).
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    input: tuple[int, int]
    output: tuple[int, int]
    apart: tuple[int, int] = (1, 1)

    @property
    def spread(self) -> tuple[int, int]:
        """Rows and columns of the input with what lies between them."""
        (height, width), (down, across) = self.input, self.apart
        return (height - 1) * down + 1, (width - 1) * across + 1

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns, with padding, that the outputs need."""
        sizes = zip(self.output, self.stride, self.size, self.dilation, strict=True)
        height, width = ((out - 1) * stride + (size - 1) * dilation + 1 for out, stride, size, dilation in sizes)
        return height, width

    @property
    def padded(self) -> bool:
        beyond = any(r > i for r, i in zip(self.reach, self.spread, strict=True))
        return any(self.before) or beyond or self.apart != (1, 1)

    @property
    def pointwise(self) -> bool:
        """Whether every output is made of the one input at its place."""
        return self.size == self.stride == (1, 1) and not self.padded


def window(
    options: Mapping[str, Any],
    input: tuple[int, int],
    size: tuple[int, int],
    around: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
) -> Window:
    """As TFLite's options say. around: (before, after) of each direction, of a PAD in front."""
    stride = options["stride_h"], options["stride_w"]
    dilation = options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1)
    before, output = [], []
    for n, k, s, d, (first, last) in zip(input, size, stride, dilation, around, strict=True):
        spread = (k - 1) * d + 1
        if options["padding"] == "SAME":
            out = -(-n // s)
            before.append(max((out - 1) * s + spread - n, 0) // 2)
        else:
            out = (n + first + last - spread) // s + 1
            before.append(first)
        output.append(out)
    return Window(size, stride, dilation, (before[0], before[1]), input, (output[0], output[1]))
