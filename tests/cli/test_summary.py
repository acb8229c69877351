"""The tables a build ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecompile.cli.summary import print_summary
from edgecompile.pipeline import Built

Figures = dict[str, tuple[float, float]]
SIZES: Figures = {"file_size": (45_000, 14_000), "file_size_gzip": (40_000, 9_000), "file_size_xz": (36_000, 8_000)}


def printed(
    capsys: pytest.CaptureFixture[str],
    figures: Figures,
    techniques: list[dict[str, Any]] | None = None,
    *,
    pack: str | None = None,
    metric: str | None = None,
) -> list[str]:
    """The lines printed for {figure: (float model's, bundle's)}."""
    found = [
        {"name": name, "of": of, "value": value}
        for name, values in figures.items()
        for of, value in zip(("source", "model"), values, strict=True)
    ]
    manifest: dict[str, Any] = {
        "recipe": {"name": "int8"},
        "options": {"pack": pack},
        "data": {"metric": metric} if metric else None,
        "history": [{"stage": "baseline", "metrics": {"validation": 0.97} if metric else {}}],
        "figures": found,
        "techniques": techniques or [],
        "measurement": None,
        "winner": {"id": "litert", "why": "the only one"},
        "cautions": [],
        "gates": [],
    }
    print_summary(Built(Path("out"), manifest, cached=0, ran=1))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def row(lines: list[str], title: str) -> str:
    return next(line for line in lines if line.startswith(title + "  "))


def step(*stages: str, size: int, macs: int = 1000, validation: float | None = None) -> dict[str, Any]:
    packed = {"gzip": size // 2, "xz": size // 3}
    return {"stages": list(stages), "bytes": size, "packed": packed, "macs": macs, "latency_p50": None,
            "validation": validation}  # fmt: skip


def test_words_fit_what_was_gained_or_lost(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(
        capsys,
        {
            "file_size": (45_000, 18_000),
            "file_size_gzip": (40_000, 44_000),
            "latency_p50": (1.8, 1.0),
            "latency_p90": (1.9, 1.1),
            "peak_rss": (45.1, 45.2),
        },
    )
    assert row(lines, "size").endswith("2.50× smaller")
    assert row(lines, "size, gzip").endswith("1.10× larger")
    assert row(lines, "latency p50").endswith("1.80× faster")
    assert row(lines, "latency p90").endswith("1.73× faster")
    assert row(lines, "peak RSS").endswith("47.40 MB  the same")
    assert lines[-2:] == ["report: out/report.html, each step and layer", "bundle: out"]


def test_a_percentile_within_the_spread_of_the_runs_has_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, {"latency_p50": (1.0, 1.3), "latency_p90": (2.4, 2.0)})
    assert row(lines, "latency p50").endswith("1.30× slower")
    assert row(lines, "latency p90").endswith("ms")


def test_the_packed_form_that_was_asked_for_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert row(printed(capsys, SIZES, pack="xz"), "size, xz").endswith("8,000 B  4.50× smaller")
    assert not [line for line in printed(capsys, SIZES) if line.startswith("size, xz")]


def test_macs_have_a_row_where_they_changed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, {**SIZES, "macs": (167_488, 44_832)})
    assert row(lines, "MACs").endswith("167,488   44,832  3.74× fewer")
    assert not [line for line in printed(capsys, {**SIZES, "macs": (5, 5)}) if line.startswith("MACs")]


def test_several_steps_have_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    techniques = [
        step("prune-channels", size=30_000, macs=500, validation=0.9),
        step("qat", "convert", size=15_000, macs=500, validation=0.95),
        step("slim", size=14_000, macs=500, validation=0.95),
    ]
    lines = printed(capsys, {**SIZES, "macs": (1000, 500)}, techniques, pack="xz", metric="accuracy")
    start = next(i for i, line in enumerate(lines) if line.startswith("after  "))
    table = [line.split() for line in lines[start : start + 5]]
    # no figure of latency: no column for it
    assert table[0] == ["after", "accuracy,", "validation", "size", "xz", "MACs"]
    assert table[1] == ["float", "0.9700", "45.0", "kB", "36.0", "kB", "1,000"]
    assert table[3] == ["qat", "+", "convert", "0.9500", "15.0", "kB", "5,000", "B", "500"]
    assert lines[start + 5] == ""
    assert max(map(len, lines[start : start + 5])) <= 80


def test_one_step_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, SIZES, [step("quantize", size=15_000), step("slim", size=14_000)])
    assert not [line for line in lines if line.startswith("after  ")]


def test_a_long_recipe_keeps_its_last_steps(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, SIZES, [step(f"step-{i}", size=40_000 - i) for i in range(9)])
    start = next(i for i, line in enumerate(lines) if line.startswith("after  "))
    assert lines[start].split() == ["after", "size", "gzip"]  # no step changed the MACs
    names = [line.split()[0] for line in lines[start + 1 : lines.index("", start)]]
    assert names == ["float", "step-4", "step-5", "step-6", "step-7", "step-8"]
