"""The report's charts, as inline SVG: no library, readable in light and dark and without colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgecompile.report.formats import metric, share, short
from edgecompile.report.svg import CHARACTER, ROW, dot, line, link, picture, polyline, rect, text
from edgecompile.units import format_ms, format_seconds, format_size

WIDTH = 880.0


def stage_figures(stages: Sequence[Mapping[str, Any]]) -> Markup:
    """stages: [{name, value (the metric on validation data), metric, bytes}], None where there is none.

    The metric as a line above, the sizes of .tflite files as bars below, one column a stage.
    """
    values = [s["value"] for s in stages if s["value"] is not None]
    sizes = [s["bytes"] for s in stages if s["bytes"] is not None]
    column = WIDTH / max(1, len(stages))
    centres = [column * (i + 0.5) for i in range(len(stages))]
    body: list[Markup] = []
    top = 0.0
    if values:
        low, high = min(values), max(values)
        if low == high:
            low, high = low - 1, high + 1
        ys = [None if s["value"] is None else 118 - 62 * (s["value"] - low) / (high - low) for s in stages]
        body.append(text(0, 16, f"{stages[0]['metric']}, validation data", "strong"))
        body.append(polyline([(x, y) for x, y in zip(centres, ys, strict=True) if y is not None], "stroke blue"))
        for x, y, stage in zip(centres, ys, stages, strict=True):
            if y is not None:
                body.append(dot(x, y, "blue", f"{stage['name']}: {stage['value']}"))
                body.append(text(x, y - 12, metric(stage["value"]), "strong", "middle"))
        top = 136.0
    if sizes:
        base, tallest = top + 140, max(sizes)
        body.append(text(0, top + 16, "size of the .tflite", "strong"))
        body.append(line(0, base, WIDTH, base, "axis"))
        for x, stage in zip(centres, stages, strict=True):
            if stage["bytes"] is None:
                body.append(text(x, base - 8, "no .tflite yet", "muted", "middle"))
                continue
            height = 84 * stage["bytes"] / tallest
            width = min(92.0, column * 0.6)
            body.append(rect(x - width / 2, base - height, width, height, "orange", f"{stage['bytes']:,} B"))
            body.append(text(x, base - height - 8, format_size(stage["bytes"]), "strong", "middle"))
        top = base
    for x, stage in zip(centres, stages, strict=True):
        body.append(text(x, top + 20, stage["name"], "", "middle", int(column / CHARACTER)))
    described = "; ".join(
        f"{s['name']}: {metric(s['value']) if s['value'] is not None else 'no metric'}, "
        f"{format_size(s['bytes']) if s['bytes'] is not None else 'no file'}"
        for s in stages
    )
    return picture(WIDTH, top + 28, "Metric and size after each stage", body, described)


def timeline(stages: Sequence[tuple[str, float]]) -> Markup:
    """(stage, seconds) in order: each bar begins where the one before it ended."""
    total = sum(seconds for _, seconds in stages) or 1.0
    left, right = 130.0, WIDTH - 90
    body: list[Markup] = []
    spent = 0.0
    for i, (name, seconds) in enumerate(stages):
        y = i * ROW
        x = left + (right - left) * spent / total
        width = max(1.5, (right - left) * seconds / total)
        body.append(line(left, y + ROW, right, y + ROW, "grid"))
        body.append(text(0, y + 16, name, "", most=19))
        body.append(rect(x, y + 5, width, 14, "blue", f"{name}: {seconds} s"))
        took = format_seconds(seconds) if seconds >= 0.1 else "under 0.1 s"
        body.append(text(x + width + 6, y + 16, took, "muted"))
        spent += seconds
    described = "; ".join(f"{name} {format_seconds(seconds)}" for name, seconds in stages)
    return picture(WIDTH, len(stages) * ROW + 4, "Seconds of each stage", body, described)


def bars(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    *,
    maximum: float,
    kind: str = "blue",
    width: float = WIDTH,
    mark: float | None = None,
) -> Markup:
    """rows: [{label, value, text}], a `tip` where the label alone doesn't say what it is, a `kind` where it differs.

    mark: a value that a line is drawn at, for a limit.
    """
    left = 0.36 * width
    longest = max((len(row["text"]) for row in rows), default=0) * CHARACTER + 10
    room = width - left - longest
    body: list[Markup] = []
    if mark is not None and maximum:
        x = left + room * mark / maximum
        body.append(line(x, 0, x, len(rows) * ROW, "mark thin"))
    for i, row in enumerate(rows):
        y = i * ROW
        body.append(line(0, y + ROW, width, y + ROW, "grid"))
        body.append(text(0, y + 16, row["label"], most=int((left - 8) / CHARACTER)))
        length = room * row["value"] / maximum if maximum else 0
        colour = row.get("kind", kind) if row["value"] else "grey"
        body.append(rect(left, y + 5, max(1.0, length), 14, colour, row.get("tip", "")))
        body.append(text(left + length + 6, y + 16, row["text"], "muted"))
    described = "; ".join(f"{row['label']}: {row['text']}" for row in rows[:40])
    return picture(width, len(rows) * ROW + 2, title, body, described)


def sizes(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """rows: [{label, bytes, packed (None where unknown), form}]: the file as a wide bar, its packed form within it."""
    most = max((max(row["bytes"], row["packed"] or 0) for row in rows), default=0) or 1
    left, tall = 170.0, 36
    texts = [
        format_size(row["bytes"])
        + ("" if row["packed"] is None else f", {format_size(row['packed'])} packed ({row['form']})")
        for row in rows
    ]
    room = WIDTH - left - max(map(len, texts), default=0) * CHARACTER - 10
    body: list[Markup] = []
    for i, (row, label) in enumerate(zip(rows, texts, strict=True)):
        y, length = i * tall, room * row["bytes"] / most
        body.append(line(0, y + tall, WIDTH, y + tall, "grid"))
        body.append(text(0, y + 22, row["label"], most=int((left - 8) / CHARACTER)))
        body.append(rect(left, y + 6, length, 24, "pale", f"{row['bytes']:,} B"))
        if row["packed"] is not None:
            body.append(rect(left, y + 12, room * row["packed"] / most, 12, "orange", f"{row['packed']:,} B packed"))
            length = max(length, room * row["packed"] / most)
        body.append(text(left + length + 6, y + 22, label, "muted"))
    described = "; ".join(f"{row['label']}: {label}" for row, label in zip(rows, texts, strict=True))
    return picture(WIDTH, len(rows) * tall + 2, "File and packed size after each step", body, described)


def parts(sizes: Mapping[str, int]) -> Markup:
    """Bytes by what they are for, as one bar."""
    total = sum(sizes.values()) or 1
    kinds = ("blue", "orange", "green", "grey", "purple")
    body: list[Markup] = []
    x = legend = 0.0
    for (name, size), kind in zip(sizes.items(), kinds, strict=False):
        width = WIDTH * size / total
        label = f"{name.replace('_', ' ')} {format_size(size)} ({share(size / total)})"
        body.append(rect(x, 0, max(0.0, width - 1.5), 26, kind, label))
        body.append(rect(legend, 39, 10, 10, kind))
        body.append(text(legend + 15, 48, label))
        x += width
        legend += 40 + len(label) * CHARACTER
    described = ", ".join(f"{name} {size} B" for name, size in sizes.items())
    return picture(WIDTH, 54, "Where the bytes of the file go", body, described)


def latencies(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """rows: [{label, role, result}] with what the benchmark gave; one histogram each over one logarithmic axis."""
    results = [row["result"] for row in rows]
    low = min(r["histogram"]["edges"][0] for r in results)
    low = low if low > 0 else 1e-6  # a clock's resolution can make a time zero
    high = max(min(r["max"], r["p99"] * 1.3) for r in results)
    high = max(high, low * 1.05)
    left, right, tall = 220.0, WIDTH - 16, 84.0

    def place(ms: float) -> float:
        return left + (right - left) * math.log(min(max(ms, low), high) / low) / math.log(high / low)

    body: list[Markup] = []
    bottom = len(rows) * tall
    for tick in ticks(low, high):
        body.append(line(place(tick), 0, place(tick), bottom, "grid"))
        name = f"{tick * 1000:g} µs" if tick < 1 else f"{tick:g} ms"
        body.append(text(place(tick), bottom + 18, name, "muted", "middle"))
    for i, row in enumerate(rows):
        result, base = row["result"], (i + 1) * tall - 6
        kind = {"winner": "blue", "float source": "grey", "after a step": "purple"}.get(row["role"], "orange")
        body.append(line(left, base, right, base, "axis"))
        body.append(text(0, base - 52, row["label"], "strong", most=32))
        body.append(text(0, base - 36, row["role"], "muted"))
        body.append(text(0, base - 20, f"p50 {format_ms(result['p50'])}  ·  p90 {format_ms(result['p90'])}"))
        body.append(text(0, base - 4, f"p99 {format_ms(result['p99'])}  ·  slowest {format_ms(result['max'])}"))
        counts, edges = result["histogram"]["counts"], result["histogram"]["edges"]
        most = max(counts) or 1
        for count, start, end in zip(counts, edges, edges[1:], strict=False):
            if count and start < high:
                x, width = place(start), max(1.0, place(end) - place(start) - 0.6)
                height = max(1.0, (tall - 32) * count / most)
                tip = f"{format_ms(start)} to {format_ms(end)}: {count:,} runs"
                body.append(rect(x, base - height, width, height, kind, tip, 0))
        for percentile, style in (("p50", "mark"), ("p90", "mark thin"), ("p99", "mark thin")):
            x = place(result[percentile])
            body.append(line(x, base - tall + 14, x, base + 3, style))
            if percentile != "p90":
                body.append(text(x + 3, base - tall + 22, percentile, "small"))
    described = "; ".join(f"{row['label']}: p50 {format_ms(row['result']['p50'])}" for row in rows)
    return picture(WIDTH, bottom + 26, "Distribution of latencies", body, described)


def ticks(low: float, high: float) -> list[float]:
    """Round values within [low, high]: 1, 2, 5 a decade, or evenly spaced ones where the range is narrow."""
    if high / low >= 5:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    else:
        rough = (high - low) / 4
        unit = 10 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough)
        found = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [tick for tick in found if low <= tick <= high]


def lsb(histogram: Mapping[Any, int]) -> Markup:
    """{LSB apart: how many values}; heights are logarithmic, so that a few far values among many equal ones show."""
    counts = sorted((int(apart), count) for apart, count in histogram.items())
    most = math.log(max(count for _, count in counts) + 1)
    step, base = 44.0, 62.0
    body = [line(0, base, max(160.0, step * len(counts)), base, "axis")]
    for i, (apart, count) in enumerate(counts):
        height = 40 * math.log(count + 1) / most
        x = i * step + step / 2
        body.append(rect(x - 13, base - height, 26, height, "green" if apart == 0 else "orange", f"{count:,} values"))
        body.append(text(x, base - height - 5, short(f"{count:,}", 7), "small", "middle"))
        body.append(text(x, base + 14, f"{apart}", "small", "middle"))
    described = "; ".join(f"{apart} LSB apart: {count} values" for apart, count in counts)
    return picture(max(160.0, step * len(counts)), base + 20, "Values by distance in LSB", body, described)


def mapping(layers: Sequence[Mapping[str, Any]], operators: Sequence[Mapping[str, Any]]) -> Markup:
    """The source's layers at the left, the operators of the .tflite at the right, and what went where."""
    ys = {layer["name"]: ROW * (i + 0.5) for i, layer in enumerate(layers)}
    wide, right = 348.0, WIDTH - 250
    places = _places(operators, ys)
    body: list[Markup] = []
    for layer in layers:
        for index in layer["operators"]:
            if index in places:
                body.append(link(wide + 62, ys[layer["name"]], right, places[index], f"link {layer['fate']}"))
    for layer in layers:
        y, fate = ys[layer["name"]], layer["fate"]
        body.append(rect(0, y - 10, wide, 20, f"box {fate}", f"{layer['name']} ({layer['type']}): {fate}", 4))
        body.append(text(9, y + 4, layer["name"], most=30))
        body.append(text(wide - 8, y + 4, layer["type"], "muted", "end", 22))
        body.append(text(wide + 8, y + 4, fate, f"fate {fate}"))
    for operator in operators:
        y = places[operator["index"]]
        origin = ", ".join(operator["layers"]) or "no layer of the source"
        body.append(rect(right, y - 10, 250, 20, "box" if operator["layers"] else "box removed", f"from {origin}", 4))
        body.append(text(right + 9, y + 4, f"{operator['index']}", "muted"))
        body.append(text(right + 40, y + 4, operator["type"], most=31))
    height = max([*ys.values(), *places.values()], default=0.0) + ROW / 2
    described = f"{len(layers)} layers became {len(operators)} operators; the table below lists them"
    return picture(WIDTH, height, "Layers of the source and operators of the .tflite", body, described)


def _places(operators: Sequence[Mapping[str, Any]], layers: Mapping[str, float]) -> dict[int, float]:
    """Heights of operators: beside the layers they came from, one below the other."""
    wanted: list[tuple[float, int]] = []
    last = 0.0
    for operator in operators:
        known = [layers[name] for name in operator["layers"] if name in layers]
        last = sum(known) / len(known) if known else last
        wanted.append((last, operator["index"]))
    found: dict[int, float] = {}
    free = ROW / 2
    for height, index in sorted(wanted):
        found[index] = max(height, free)
        free = found[index] + ROW
    return found
