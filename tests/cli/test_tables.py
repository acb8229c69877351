"""Tables in narrow terminals lose nothing, and sizes are written in one unit."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from edgecompile.cli.tables import print_fitting
from edgecompile.units import format_mebibytes, format_size

ROWS = [("litert-xnnpack-sparse", "1,234.56 ms", "a rather long explanation of it", "[1x8x8x1]"),
        ("tvm", "0.12 ms", "", "float32")]  # fmt: skip


def drawn(width: int) -> str:
    table = Table(box=None)
    for heading in ("engine", "p50", "what it is", "shape"):
        table.add_column(heading)
    for row in ROWS:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    out = io.StringIO()
    print_fitting(table, Console(file=out, width=width, force_terminal=True, color_system=None, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
def test_every_word_is_there_and_every_line_fits(width: int) -> None:
    text = drawn(width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    whole = re.sub(r"\s", "", text)
    for row in ROWS:
        for cell in row:
            assert all(word in whole for word in cell.split())


def test_a_wide_terminal_has_a_table() -> None:
    assert drawn(200).splitlines()[0].split() == ["engine", "p50", "what", "it", "is", "shape"]
    assert drawn(40).splitlines()[0].strip() == "litert-xnnpack-sparse"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (9_999, "9,999 B"), (10_000, "10.0 kB"), (1_000_000, "1.00 MB"), (2_500_000_000, "2.50 GB")],
)
def test_sizes_are_in_powers_of_1000(size: int, text: str) -> None:
    assert format_size(size) == text


def test_memory_is_written_as_sizes_are() -> None:
    assert format_mebibytes(48.0) == format_size(48 * 1024 * 1024) == "50.33 MB"
