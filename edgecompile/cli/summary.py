"""What a build ends with: a table that says what it gained, and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile.manifest import find
from edgecompile.pipeline import Built
from edgecompile.report.formats import ratio
from edgecompile.units import format_ms, format_size

_SIZE, _TIME = ("smaller", "larger"), ("faster", "slower")
_ROWS = (
    ("file_size", "size", format_size, _SIZE),
    ("file_size_gzip", "size, gzip", format_size, _SIZE),
    ("latency_p50", "latency p50", format_ms, _TIME),
    ("latency_p90", "latency p90", format_ms, _TIME),
    ("peak_rss", "peak RSS", lambda value: f"{value:.1f} MiB", ("less", "more")),
)


def print_plan(plan: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for key, value in plan.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        if isinstance(value, list):
            value = " -> ".join(value)
        console.print(f"{key:<8} {'none' if value is None else value}", markup=False)


def print_summary(built: Built) -> None:
    manifest = built.manifest
    console = Console(highlight=False)
    table = Table(title=None, box=None, padding=(0, 2, 0, 0))
    for heading in ("", "float", manifest["recipe"]["name"], ""):
        table.add_column(heading, justify="left" if not heading else "right")
    metric = manifest["data"]["metric"] if manifest["data"] else None
    if metric:
        before, after = find(manifest, metric, "source"), find(manifest, metric, "model")
        if before is not None and after is not None:
            table.add_row(metric, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    for name, title, formatted, words in _ROWS:
        before, after = find(manifest, name, "source"), find(manifest, name, "model")
        if before is not None and after is not None:
            table.add_row(title, formatted(before), formatted(after), ratio(before, after, *words))
    console.print()
    console.print(table)
    console.print()
    measured = manifest["measurement"]
    if measured:
        runs = measured["results"][manifest["winner"]["id"]]["runs"]
        console.print(
            f"measured on {measured['device']}, {measured['threads']} thread(s), {runs} runs, {measured['date']}",
            soft_wrap=True,
            markup=False,
        )
    else:
        console.print("latency: not measured (no device for this target)", markup=False)
    console.print(f"engine: {manifest['winner']['id']}, {manifest['winner']['why']}", markup=False, soft_wrap=True)
    for gate in manifest["gates"]:
        mark = {True: "ok", False: "FAILED", None: "-"}[gate["passed"]]
        console.print(f"{mark:<3}{gate['name']}: {gate['text']}", markup=False, soft_wrap=True)
    if built.ran == 0:
        console.print(f"nothing to do: all {built.cached} stages were done before", markup=False)
    console.print(f"bundle: {built.out}", markup=False, soft_wrap=True)
