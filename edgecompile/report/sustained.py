"""The page of a sustained benchmark: latency and temperature over time, and the ranking at first and at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgecompile.devices.sustained import first_seconds, ranking
from edgecompile.measure import Measurement
from edgecompile.report.svg import dot, line, picture, polyline, text
from edgecompile.units import format_ms, format_seconds

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 880.0, 220.0, 84.0, 190.0
_COLOURS = ("blue", "orange", "green", "purple")


def page(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """What sustained.html.j2 shows: one section for each group of candidates that ran interleaved."""
    return {"sections": [_section(each) for each in measurements]}


def _section(found: Measurement) -> dict[str, Any]:
    windows = list(found.windows)
    heat = [max(window["temperatures"].values(), default=None) for window in windows]
    return {
        "device": found.device,
        "label": found.label,
        "date": found.date,
        "seconds": windows[-1]["at"],
        "settled": windows[-1]["settled"],
        "throttled": list(found.throttled),
        "first_seconds": first_seconds(windows),
        "rows": ranking(windows),
        "latency": _curves(
            windows, {name: [w["p50_ms"][name] for w in windows] for name in windows[0]["p50_ms"]}, "p50"
        ),
        "heat": None if None in heat else _curves(windows, {"hottest zone": heat}, "°C"),
    }


def _curves(windows: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[Any]], unit: str) -> Markup:
    """A line a series, named at its end; the vertical axis spans what there is, and says so at both ends."""
    times = [window["at"] for window in windows]
    values = [value for each in series.values() for value in each]
    low, high = min(values), max(values)
    low, high = (low * 0.98, high * 1.02) if low == high else (low, high)

    def place(at: float, value: float) -> tuple[float, float]:
        across, up = at / times[-1], (value - low) / (high - low)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * across, 14 + (_HEIGHT - 44) * (1 - up)

    def shown(value: float) -> str:
        return f"{value:.1f} °C" if unit == "°C" else format_ms(value)

    base = place(0, low)[1]
    body = [line(_LEFT, base, _WIDTH - _RIGHT, base, "axis")]
    body += [text(_LEFT - 8, place(0, value)[1] + 4, shown(value), "muted", "end") for value in (low, high)]
    body += [text(place(at, low)[0], base + 20, format_seconds(at), "muted", "middle") for at in (0, times[-1])]
    for number, (name, each) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [place(at, value) for at, value in zip(times, each, strict=True)]
        body.append(polyline(points, f"curve {colour}"))
        for (x, y), at, value in zip(points, times, each, strict=True):
            body.append(dot(x, y, colour, f"{name}, {format_seconds(at)}: {shown(value)}"))
        body.append(text(points[-1][0] + 10, points[-1][1] + 4, name, "", most=28))
    described = "; ".join(
        f"{name}: {shown(each[0])} at first, {shown(each[-1])} at the end" for name, each in series.items()
    )
    return picture(_WIDTH, _HEIGHT, f"{unit} over time", body, described)
