"""What a build ends with: a table that says what it gained, and the gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile.cli.tables import print_fitting
from edgecompile.manifest import find, of_outputs
from edgecompile.pipeline import Built
from edgecompile.report import techniques
from edgecompile.report.formats import metric, ratio, speed, within_spread
from edgecompile.report.techniques import LATENCY, SOURCE, Rung
from edgecompile.units import format_count, format_mebibytes, format_metric, format_ms, format_size

_SIZE = ("smaller", "larger")
_STEPS = 6  # rows at most of what each step bought: the report has all
_Row = tuple[str, str, Callable[[float], str], tuple[str, str]]


def print_plan(plan: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for key, value in plan.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        if key in ("inputs", "outputs") and value is not None:
            value = [f"{tensor['name']} {tensor['dtype']} {list(tensor['shape'])}" for tensor in value]
        if isinstance(value, list):
            value = (" -> " if key == "stages" else ", ").join(map(str, value))
        console.print(f"{key:<8} {'none' if value is None else value}", markup=False)


def print_summary(built: Built) -> None:
    manifest = built.manifest
    console = Console(highlight=False)
    console.print()
    print_fitting(_comparison(manifest), console)
    console.print()
    steps = _steps(manifest)
    if steps is not None:
        print_fitting(steps, console)
        console.print()
    measured = manifest["measurement"]
    if measured:
        won = measured["results"][manifest["winner"]["id"]]
        console.print(
            f"{measured['label']} on {measured['device']}, {won['threads']} thread(s), {won['runs']} runs, "
            f"{measured['date']}",
            soft_wrap=True,
            markup=False,
        )
    else:
        console.print("latency: not measured (no device for this target)", markup=False)
    for line in _search(manifest):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"engine: {manifest['winner']['id']}, {manifest['winner']['why']}", markup=False, soft_wrap=True)
    for text in manifest["cautions"]:
        console.print(f"NOTE: {text}", markup=False, soft_wrap=True, style="yellow")
    for gate in manifest["gates"]:
        mark = {True: "ok", False: "FAILED", None: "-"}[gate["passed"]]
        console.print(f"{mark:<3}{gate['name']}: {gate['text']}", markup=False, soft_wrap=True)
    if built.ran == 0:
        console.print(f"nothing to do: all {built.cached} stages were done before", markup=False)
    console.print(f"report: {built.out / 'report.html'}, each step and layer", markup=False, soft_wrap=True)
    console.print(f"bundle: {built.out}", markup=False, soft_wrap=True)


def _metric_cells(before: float, after: float) -> tuple[str, str, str]:
    scale = max(abs(before), abs(after))
    return format_metric(before, scale), format_metric(after, scale), format_metric(after - before, scale, sign=True)


def _comparison(manifest: Mapping[str, Any]) -> Table:
    """The float source beside the bundle."""
    table = Table(title=None, box=None, padding=(0, 2, 0, 0))
    for heading in ("", "float", _made(manifest), ""):
        table.add_column(heading, justify="left" if not heading else "right")
    metric = manifest["data"]["metric"] if manifest["data"] else None
    if metric:
        before, after = find(manifest, metric, "source"), find(manifest, metric, "model")
        if before is not None and after is not None:
            table.add_row(metric, *_metric_cells(before, after))
        for name in of_outputs(manifest):
            before, after = find(manifest, name, "source"), find(manifest, name, "model")
            if before is not None and after is not None:
                table.add_row(f"  {name}", *_metric_cells(before, after))
    for name, title, written, words in _rows(manifest):
        before, after = find(manifest, name, "source"), find(manifest, name, "model")
        if before is not None and after is not None:
            change = "" if within_spread(manifest, name) else ratio(before, after, *words)
            table.add_row(title, written(before), written(after), change)
    return table


def _made(manifest: Mapping[str, Any]) -> str:
    """The recipe, or what a search took."""
    return techniques.chosen(manifest) or str(manifest["recipe"]["name"])


def _search(manifest: Mapping[str, Any]) -> list[str]:
    """What a search tried, and why the others were not taken."""
    found = techniques.search(manifest)
    if found is None:
        return []
    others = [f"{row['settings']} ({_why_not(row)})" for row in found["rows"] if not row["chosen"]]
    lines = [f"chosen on validation samples: {techniques.chosen(manifest)}"]
    lines += [f"  not taken: {text}" for text in others]
    return [*lines, *([f"nothing was trained: {found['untrained']}"] if found["untrained"] else [])]


def _why_not(trial: Mapping[str, Any]) -> str:
    return str(trial["reason"]) or ("was beaten" if trial["accepted"] else "drops too much")


def _rows(manifest: Mapping[str, Any]) -> list[_Row]:
    """(figure, title, how it is written, words for less and more): the packed forms and MACs where they tell more."""
    forms = [form for form in dict.fromkeys(("gzip", manifest["options"]["pack"])) if form]
    macs = find(manifest, "macs", "source") != find(manifest, "macs", "model")
    return [
        ("file_size", "size", format_size, _SIZE),
        *((f"file_size_{form}", f"size, {form}", format_size, _SIZE) for form in forms),
        *([("macs", "MACs", format_count, ("fewer", "more"))] if macs else []),
        (LATENCY, "latency p50", format_ms, speed(manifest)),
        ("latency_p90", "latency p90", format_ms, speed(manifest)),
        ("peak_rss", "peak RSS", format_mebibytes, ("less", "more")),
    ]


def _steps(manifest: Mapping[str, Any]) -> Table | None:
    """What each step bought; None for a recipe with one, where the first table says all."""
    rungs = techniques.ladder(manifest)
    if sum(rung.stages != (techniques.SLIM,) for rung in rungs) <= 2:  # the source is one
        return None
    form = techniques.packed_form(manifest)
    name = (manifest["data"] or {}).get("metric")
    columns: Sequence[tuple[str, str, Callable[[float], str]]] = [
        ("validation", name or "metric", metric),
        ("bytes", "size", format_size),
        (form, form, format_size),
        ("macs", "MACs", format_count),
        (LATENCY, "p50", format_ms),
    ]
    shown = [column for column in columns if _tells(rungs, column[0])]
    table = Table(title=None, box=None, padding=(0, 2, 0, 0))
    table.add_column("after")
    for _, heading, _ in shown:
        table.add_column(f"{heading}, validation" if heading == name else heading, justify="right")
    left_out = max(0, len(rungs) - _STEPS)
    for rung in [*rungs[:1], *rungs[1 + left_out :]]:
        cells = (written(rung.values[key]) if key in rung.values else "-" for key, _, written in shown)
        table.add_row("float" if rung.name == SOURCE else rung.name, *cells)
    return table


def _tells(rungs: Sequence[Rung], column: str) -> bool:
    """Whether there is something to see: MACs only where they changed."""
    values = {rung.values[column] for rung in rungs if column in rung.values}
    return len(values) > (1 if column == "macs" else 0)
