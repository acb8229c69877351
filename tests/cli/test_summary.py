"""The table a build ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecompile.cli.summary import print_summary
from edgecompile.pipeline import Built


def summary(capsys: pytest.CaptureFixture[str], figures: dict[str, tuple[float, float]]) -> dict[str, str]:
    """{title: last column} as printed for {figure: (float model's, bundle's)}."""
    found = [
        {"name": name, "of": of, "value": value}
        for name, values in figures.items()
        for of, value in zip(("source", "model"), values, strict=True)
    ]
    manifest: dict[str, Any] = {
        "recipe": {"name": "int8"},
        "data": None,
        "figures": found,
        "measurement": None,
        "winner": {"id": "litert", "why": "the only one"},
        "gates": [],
    }
    print_summary(Built(Path("out"), manifest, cached=0, ran=1))
    lines = capsys.readouterr().out.splitlines()
    titles = ("size, gzip", "size", "latency p50", "latency p90", "peak RSS")
    return {title: next(line for line in lines if line.startswith(title + "  ")).strip() for title in titles}


def test_words_fit_what_was_gained_or_lost(capsys: pytest.CaptureFixture[str]) -> None:
    rows = summary(
        capsys,
        {
            "file_size": (45_000, 18_000),
            "file_size_gzip": (40_000, 44_000),
            "latency_p50": (1.8, 1.0),
            "latency_p90": (1.0, 1.3),
            "peak_rss": (45.1, 45.2),
        },
    )
    assert rows["size"].endswith("2.50× smaller")
    assert rows["size, gzip"].endswith("1.10× larger")
    assert rows["latency p50"].endswith("1.80× faster")
    assert rows["latency p90"].endswith("1.30× slower")
    assert rows["peak RSS"].endswith("45.2 MiB  the same")
