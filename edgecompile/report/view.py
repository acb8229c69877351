"""What the page shows, from the manifest: rows and sentences, no HTML."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgecompile.backends.base import without_threads
from edgecompile.manifest import metric_of, of_outputs
from edgecompile.report import formats, layer_errors, roofline, techniques
from edgecompile.units import format_count, format_mebibytes, format_ms, format_size

LONG = 40  # rows: longer lists are folded away until asked for
_ROLE = {"source": "float source", "model": "this bundle"}


@dataclass(frozen=True)
class Value:
    """A figure: `raw` is the manifest's number, `text` what is read."""

    raw: float
    text: str


@dataclass(frozen=True)
class Row:
    """One line of the before/after table; a side that is None was not measured, and `reason` says why.

    `span`: over how many rows its `origin` holds, 0 where the row above it has it.
    """

    name: str
    title: str
    before: Value | None
    after: Value | None
    change: str
    detail: str
    labels: tuple[str, ...]
    origin: tuple[str, ...]
    reason: str
    span: int = 1


def page(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the template beside the manifest itself."""
    rows = comparison(manifest)
    layers = _layers_of_operators(manifest)
    packed = f"file_size_{manifest['options']['pack'] or 'gzip'}"
    return {
        "rows": rows,
        "cards": [row for row in rows if row.name in (_metric(manifest), "file_size", packed, "latency_p50")],
        "verdict": verdict(manifest["gates"]),
        "stages": stages(manifest),
        "techniques": techniques.page(manifest, _latency_reason(manifest)),
        "layer_errors": layer_errors.page(manifest),
        "rooflines": roofline.tables(manifest),
        "layers_of": layers,
        "sparsity": sparsity(manifest, layers),
        "types": types(manifest["optimization"]),
        "macs": macs(manifest["inspection"]),
        "latencies": latencies(manifest),
        "threads": threads(manifest),
        "device": device(manifest),
        "not_measured": _latency_reason(manifest),
        "distance": manifest["distance"],
        "long": LONG,
    }


def verdict(gates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{ok, open, text} over all gates: one that had no limit, or nothing to be judged on, is not a pass."""
    failed = [gate["name"] for gate in gates if gate["passed"] is False]
    passed = [gate["name"] for gate in gates if gate["passed"]]
    open_ = [gate["name"] for gate in gates if gate["passed"] is None]
    if failed:
        return {"ok": False, "open": False, "text": f"failed: {', '.join(failed)}"}
    text = f"passed: {', '.join(passed)}" if passed else "no gate was judged"
    if open_:
        text += f" (not judged: {', '.join(open_)})"
    return {"ok": bool(passed), "open": not passed, "text": text}


def _metric(manifest: Mapping[str, Any]) -> str:
    return (manifest["data"] or {}).get("metric") or "metric"


def comparison(manifest: Mapping[str, Any]) -> list[Row]:
    """The before/after table. A figure that is absent keeps its row, with the reason."""
    metric = _metric(manifest)
    title = "Task metric" if metric == "metric" else metric[:1].upper() + metric[1:]
    slower, larger = formats.speed(manifest), ("smaller", "larger")
    latency = _latency_reason(manifest)
    specs: list[tuple[str, str, Callable[[float], str], tuple[str, str], str]] = [
        (metric, title, formats.metric, ("lower", "higher"), _gate_text(manifest, "accuracy", "not measured")),
        *(
            (name, _of_output(name), formats.metric, ("lower", "higher"), "not measured")
            for name in of_outputs(manifest)
        ),
        ("file_size", "File size", format_size, larger, "not measured"),
        *(
            (f"file_size_{form}", f"File size, {form}", format_size, larger, "not measured")
            for form in ("gzip", "xz", "zstd")
            if form == "gzip" or any(figure["name"] == f"file_size_{form}" for figure in manifest["figures"])
        ),
        ("macs", "MACs", format_count, ("fewer", "more"), "not measured"),
        ("latency_p50", "Latency p50", format_ms, slower, latency),
        ("latency_p90", "Latency p90", format_ms, slower, latency),
        ("latency_p99", "Latency p99", format_ms, slower, latency),
        ("init_time", "Initialization", format_ms, slower, latency),
        ("peak_rss", "Peak RSS", format_mebibytes, ("less", "more"), latency),
    ]
    if any(figure["name"] == "energy_mean" for figure in manifest["figures"]):  # where the device told its power
        specs += [
            ("energy_mean", "Energy an inference", lambda mj: f"{mj:.3g} mJ", ("less", "more"), latency),
            ("power_mean", "Power", lambda watts: f"{watts:.2f} W", ("less", "more"), latency),
        ]
    return _spanned([_row(manifest, *spec) for spec in specs])


def _spanned(rows: list[Row]) -> list[Row]:
    """Rows that follow one another and were found in the same way share one cell that says how."""
    found: list[Row] = []
    for _, group in itertools.groupby(rows, key=lambda row: row.origin):
        first, *others = group
        found.append(replace(first, span=1 + len(others)))
        found += [replace(row, span=0) for row in others]
    return found


def _row(
    manifest: Mapping[str, Any],
    name: str,
    title: str,
    written: Callable[[float], str],
    words: tuple[str, str],
    reason: str,
) -> Row:
    figures = {f["of"]: f for f in manifest["figures"] if f["name"] == name and f["of"] in _ROLE}
    sides = {of: Value(figure["value"], written(figure["value"])) for of, figure in figures.items()}
    before, after = sides.get("source"), sides.get("model")
    change = detail = ""
    if before and after:
        change, detail = formats.ratio(before.raw, after.raw, *words), ""
        if formats.within_spread(manifest, name):
            change, detail = "", "within the spread of the runs"
        if name == _metric(manifest) or name in of_outputs(manifest):
            change, detail = _metric_change(manifest, name, before.raw, after.raw)
    origins = {of: provenance(figure) for of, figure in figures.items()}
    if len(set(origins.values())) > 1:
        origin = tuple(f"{_ROLE[of]}: {origins[of]}" for of in _ROLE if of in origins)
    else:
        origin = tuple(set(origins.values()))
    labels = tuple(dict.fromkeys(figure["label"] for figure in figures.values()))
    return Row(name, title, before, after, change, detail, labels, origin, reason)


def provenance(figure: Mapping[str, Any]) -> str:
    """All that is needed to believe a figure, in one line."""
    runs, threads, samples = figure["runs"], figure["threads"], figure["samples"]
    parts = [
        "counted from the file" if figure["device"] == "none" else figure["device"],
        threads is not None and f"{threads} thread{'s' * (threads != 1)}",
        runs is not None and f"{runs:,} run{'s' * (runs != 1)}",
        samples is not None and f"{samples:,} samples of the {figure['split']} set",
        figure["executed_on"],
        formats.date(figure["date"]),
    ]
    return " · ".join(part for part in parts if part)


def _of_output(name: str) -> str:
    metric, _, output = name.partition("/")
    return f"{metric[:1].upper()}{metric[1:]} of {output}"


def _metric_change(manifest: Mapping[str, Any], name: str, before: float, after: float) -> tuple[str, str]:
    """The change of the metric, and its 95% interval from the same samples run through both models."""
    tests = [record["metrics"] for record in manifest["history"] if record["stage"] == "test"]
    if name != _metric(manifest):
        tests = [
            found for test in tests for key, found in test["outputs"].items() if metric_of(found["metric"], key) == name
        ]
    points = bool(tests) and "points" in tests[-1]["drop_unit"]
    unit = " points" if points else ""
    scale = max(abs(before), abs(after))

    def written(value: float) -> str:
        return formats.signed(100 * value, 2) if points else formats.signed_metric(value, scale)

    change = written(after - before) + unit
    if not tests:
        return change, ""
    low, high = map(written, tests[-1]["interval"])
    drop = tests[-1]["drop"]
    # Of a float model whose metric is 0, no share of it tells the drop.
    relative = "" if points or drop is None else f"; {abs(drop):,.2f}% {'worse' if drop >= 0 else 'better'}"
    return change, f"95% interval {low} to {high}{unit}{relative}"


def _gate_text(manifest: Mapping[str, Any], name: str, otherwise: str) -> str:
    texts = [gate["text"] for gate in manifest["gates"] if gate["name"] == name]
    return texts[0] if texts and texts[0].startswith("not measured") else otherwise


def _latency_reason(manifest: Mapping[str, Any]) -> str:
    return _gate_text(manifest, "latency", "not measured: there is no device")


def stages(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """`columns` for the chart of metric and size, `seconds` for the timeline, `notes` by stage."""
    history = manifest["history"]
    source = next((f["value"] for f in manifest["figures"] if (f["name"], f["of"]) == ("file_size", "source")), None)
    columns = []
    for record in history:
        metrics = record["metrics"]
        size = metrics.get("bytes", source if record["stage"] == "baseline" else None)
        value = metrics.get("validation")
        if size is not None or value is not None:
            name = "float source" if record["stage"] == "baseline" else record["stage"]
            columns.append({"name": name, "value": value, "metric": metrics.get("validation_metric"), "bytes": size})
    samples = next((r["metrics"]["validation_samples"] for r in history if "validation_samples" in r["metrics"]), None)
    return {
        "columns": columns,
        "samples": samples,
        "seconds": [(step["name"], step["seconds"]) for step in manifest["steps"]],
        "total": sum(step["seconds"] for step in manifest["steps"]),
    }


def _layers_of_operators(manifest: Mapping[str, Any]) -> dict[int, list[str]]:
    """{operator index: layers of the source}, for the operators of the main subgraph."""
    return {op["index"]: list(op["layers"]) for op in manifest["optimization"]["operators"]}


def sparsity(manifest: Mapping[str, Any], layers: Mapping[int, list[str]]) -> dict[str, Any]:
    """`rows` by weight tensor in the order of the operators, named after layers, and the `overall` share.

    note: why the zeros make it no faster, None where there is nothing to say.
    """
    weights = manifest["inspection"]["sparsity"]
    users: dict[tuple[int, int], Mapping[str, Any]] = {}
    for operator in manifest["inspection"]["operators"]:
        for tensor in operator["inputs"]:
            users.setdefault((operator["subgraph"], tensor["index"]), operator)
    rows: list[dict[str, Any]] = []
    for weight in weights:
        user = users.get((weight["subgraph"], weight["tensor"]))
        of = layers.get(user["index"], []) if user and weight["subgraph"] == 0 else []
        parts = set(re.split(r"[/;:]", weight["name"].replace("/quant_", "/")))
        named = [layer for layer in of if layer in parts] or of
        name = named[0] if named else weight["name"]
        rows.append(
            {
                "label": name,
                "value": weight["zeros"],
                "text": f"{formats.share(weight['zeros'])} of {format_count(weight['elements'])}",
                "order": (user["subgraph"], user["index"]) if user else (weight["subgraph"], -1),
                "tip": f"{weight['name']}: {weight['dtype']} {formats.shape(weight['shape'])}",
            }
        )
    elements = sum(weight["elements"] for weight in weights)
    zeros = sum(weight["zeros"] * weight["elements"] for weight in weights)
    return {
        "rows": sorted(rows, key=lambda row: row["order"]),
        "overall": zeros / elements if elements else None,
        "elements": elements,
        "pruned": any(record["stage"] == "prune" for record in manifest["history"]),
        "note": manifest.get("sparsity_note"),
    }


def types(optimization: Mapping[str, Any]) -> dict[str, Any]:
    """Counts by type, before and after, most first, and the largest of them for a common scale."""

    def rows(counts: Mapping[str, int]) -> list[dict[str, Any]]:
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [{"label": name, "value": count, "text": str(count)} for name, count in ordered]

    before, after = rows(optimization["before"]), rows(optimization["after"])
    return {"before": before, "after": after, "most": max((row["value"] for row in before + after), default=1)}


def macs(inspection: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Multiply-accumulates by operator type, those that have none left out."""
    total = inspection["totals"]["macs"] or 1
    return [
        {
            "label": f"{row['type']} ({row['count']})",
            "value": row["macs"],
            "text": f"{format_count(row['macs'])} ({formats.share(row['macs'] / total)})",
        }
        for row in inspection["by_type"]
        if row["macs"]
    ]


def device(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(fact, before, after the benchmark) of the device that measured."""
    if manifest["measurement"] is None:
        return []
    facts = manifest["measurement"]["environment"]
    before, after = facts["before"], facts["after"]
    return [
        (name.replace("_", " "), formats.plain(value), formats.plain(after.get(name))) for name, value in before.items()
    ]


def latencies(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """[{label, role, result}]: the float source first, then the model after steps, the winner, and the others by their
    medians."""
    if manifest["measurement"] is None:
        return []
    roles = {f"after-{row['stages'][-1]}": "after a step" for row in manifest["techniques"]}
    roles |= {candidate["id"]: "candidate" for candidate in manifest["candidates"]}
    roles[manifest["winner"]["id"]] = "winner"

    def role(name: str) -> str:
        return roles.get(name) or roles.get(without_threads(name), "float source")

    order = ("float source", "after a step", "winner", "candidate")
    found = [
        {"label": name, "role": role(name), "result": result}
        for name, result in manifest["measurement"]["results"].items()
    ]

    def place(row: Mapping[str, Any]) -> tuple[int, float]:
        return order.index(row["role"]), row["result"]["p50"] if row["role"] == "candidate" else 0.0

    return sorted(found, key=place)


def threads(manifest: Mapping[str, Any]) -> str:
    """Of all that was measured: "1 thread", "1, 2 and 4 threads"."""
    if manifest["measurement"] is None:
        return ""
    *others, last = sorted({result["threads"] for result in manifest["measurement"]["results"].values()})
    told = f"{', '.join(map(str, others))} and {last}" if others else str(last)
    return f"{told} thread{'s' * (told != '1')}"
