"""What each step of a recipe bought, from the float source to the bundle: rows and sentences, no HTML."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.manifest import find
from edgecompile.report import formats, sensitivity
from edgecompile.units import format_count, format_ms, format_size

SOURCE = "float source"
LATENCY = "latency_p50"
_SMALLER, _FEWER = ("smaller", "larger"), ("fewer", "more")
_FORMS = ("gzip", "xz")  # that the manifest has for every step
SLIM = "slim"
_NOISE = 1.1  # p50 of one file differs by as much between two runs on a machine that does other things too
# What makes weights easy to pack, and why a kernel that multiplies all of them is no faster for it.
_PACKING = {
    "prune": ("Pruning", "dense kernels multiply by a zero as by any other number"),
    "cluster": ("Clustering", "kernels read every weight, whichever values they share"),
}


@dataclass(frozen=True)
class Rung:
    """The model after `stages`, none for the float source, as a .tflite. values: figures by column, those there are:
    validation, bytes, packed forms (gzip, xz), macs and latency_p50 in ms."""

    stages: tuple[str, ...]
    values: Mapping[str, float]

    @property
    def name(self) -> str:
        return " + ".join(self.stages) or SOURCE


@dataclass(frozen=True)
class Cell:
    """step, total: the change against the rung before and against the float source; "" where one isn't known."""

    raw: float
    text: str
    step: str
    total: str


@dataclass(frozen=True)
class Column:
    name: str
    title: str
    written: Callable[[float], str]
    change: Callable[[float, float], str]


def ladder(manifest: Mapping[str, Any]) -> list[Rung]:
    """The float source, then the model after each step that changed it; the source alone where none did."""
    source = {
        "validation": _baseline(manifest).get("validation"),
        "bytes": find(manifest, "file_size", "source"),
        **{form: find(manifest, f"file_size_{form}", "source") for form in _FORMS},
        "macs": find(manifest, "macs", "source"),
        LATENCY: find(manifest, LATENCY, "source"),
    }
    rows: list[tuple[tuple[str, ...], Mapping[str, float | None]]] = [((), source)]
    for row in manifest["techniques"]:
        names = ("validation", "bytes", "macs", LATENCY)
        rows.append((tuple(row["stages"]), {**{name: row[name] for name in names}, **row["packed"]}))
    return [Rung(stages, {k: v for k, v in values.items() if v is not None}) for stages, values in rows]


def packed_form(manifest: Mapping[str, Any]) -> str:
    """The packed form to speak of: the one asked for, where every step was packed so, else gzip."""
    asked = manifest["options"]["pack"]
    return asked if asked in _FORMS and find(manifest, f"file_size_{asked}", "source") is not None else "gzip"


def page(manifest: Mapping[str, Any], latency_reason: str) -> dict[str, Any]:
    """The variables of the section "What each technique bought"."""
    rungs = ladder(manifest)
    columns = _columns(manifest)
    form = packed_form(manifest)
    metric = (manifest["data"] or {}).get("metric")
    reasons = {
        "validation": "not measured: " + ("no labelled samples to validate on" if metric else "there is no metric"),
        LATENCY: latency_reason,
        **{each: f"not counted for the source; --pack {each} does" for each in _FORMS},
    }
    missing = [
        (column.title, reasons[column.name])
        for column in columns
        if column.name in reasons and any(column.name not in rung.values for rung in rungs)
    ]
    return {
        "columns": columns,
        "rows": [(rung.name, cells) for rung, cells in zip(rungs, _cells(rungs, columns), strict=True)],
        "changed": len(rungs) > 1,
        "missing": missing,
        "origins": _origins(manifest, rungs),
        "bars": [
            {"label": rung.name, "bytes": rung.values["bytes"], "packed": rung.values.get(form), "form": form}
            for rung in rungs
            if "bytes" in rung.values
        ],
        "sentences": _sentences(rungs, form),
        "slimming": _slimming(manifest, rungs),
        "search": search(manifest),
        "sensitivity": sensitivity.page(manifest),
    }


def _baseline(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next((r["metrics"] for r in manifest["history"] if r["stage"] == "baseline"), {})
    return found


def _columns(manifest: Mapping[str, Any]) -> list[Column]:
    def ratio(words: tuple[str, str]) -> Callable[[float, float], str]:
        return lambda before, after: formats.ratio(before, after, *words)

    data = manifest["data"] or {}
    metric = data.get("metric") or "metric"
    return [
        Column("validation", f"{metric[:1].upper()}{metric[1:]}", formats.metric, _metric_change(data)),
        Column("bytes", "File", format_size, ratio(_SMALLER)),
        *(Column(form, f"Packed, {form}", format_size, ratio(_SMALLER)) for form in _FORMS),
        Column("macs", "MACs", format_count, ratio(_FEWER)),
        Column(LATENCY, "Latency p50", format_ms, ratio(formats.speed(manifest))),
    ]


def _metric_change(data: Mapping[str, Any]) -> Callable[[float, float], str]:
    """In points for a share, as --max-drop counts it, else in percent of what it was."""

    def change(before: float, after: float) -> str:
        if before == after:
            return "the same"
        if data.get("higher_is_better") and 0 <= before <= 1 and 0 <= after <= 1:
            return f"{formats.signed(100 * (after - before), 2)} points"
        return f"{formats.signed(100 * (after - before) / abs(before), 1)}%" if before else ""

    return change


def _cells(rungs: Sequence[Rung], columns: Sequence[Column]) -> list[list[Cell | None]]:
    """A row a rung, a cell a column; None where the figure isn't known."""

    def cell(index: int, column: Column) -> Cell | None:
        value = rungs[index].values.get(column.name)
        if value is None:
            return None
        others = [rungs[i].values.get(column.name) for i in (index - 1, 0)] if index else [None, None]
        step, total = ("" if other is None else column.change(other, value) for other in others)
        return Cell(value, column.written(value), step, total)

    return [[cell(index, column) for column in columns] for index in range(len(rungs))]


def _origins(manifest: Mapping[str, Any], rungs: Sequence[Rung]) -> list[tuple[str, str, str]]:
    """(columns, label, how they were found)."""
    found = [("File, packed, MACs", "measured", "counted from each step's .tflite (what is no .tflite was converted)")]
    samples = _baseline(manifest).get("validation_samples")
    if samples is not None and any("validation" in rung.values for rung in rungs):
        text = f"{samples:,} validation samples held back from the training data; the test set judges the bundle alone"
        found.append((_columns(manifest)[0].title, "measured", text))
    measurement = manifest["measurement"]
    if measurement is not None and any(LATENCY in rung.values for rung in rungs):
        threads = measurement["results"][manifest["winner"]["id"]]["threads"]
        runs = sorted({result["runs"] for result in measurement["results"].values()})
        parts = [
            measurement["device"],
            f"{threads} thread{'s' * (threads != 1)}",
            " to ".join(f"{count:,}" for count in dict.fromkeys((runs[0], runs[-1]))) + " runs each, interleaved",
            formats.date(measurement["date"]),
        ]
        found.append(("Latency p50", "measured", " · ".join(parts)))
    return found


def _sentences(rungs: Sequence[Rung], form: str) -> list[str]:
    """What sparsity and weight sharing bought: packed bytes, and latency or none."""
    return [
        _bought(*_PACKING[rung.stages[-1]], before, rung, form)
        for before, rung in itertools.pairwise(rungs)
        if rung.stages[-1] in _PACKING
    ]


def _bought(subject: str, reason: str, before: Rung, after: Rung, form: str) -> str:
    old, new = before.values, after.values
    packed = formats.ratio(old[form], new[form], *_SMALLER)
    bought = "packed bytes" if packed.endswith("smaller") else "no packed bytes"
    size = formats.ratio(old["bytes"], new["bytes"], *_SMALLER)
    text = f"the .tflite went from {format_size(old['bytes'])} to {format_size(new['bytes'])}"
    if size == "the same":
        text = f"the .tflite stays at {format_size(new['bytes'])}"
    text += f", and packed with {form} it is {packed}"
    if LATENCY not in old or LATENCY not in new:
        return f"{subject} bought {bought}: {text}. Its latency was not measured."
    times = old[LATENCY] / new[LATENCY] if new[LATENCY] else 1.0
    figures = f"{format_ms(old[LATENCY])} before and {format_ms(new[LATENCY])} after"
    if times > _NOISE:
        return f"{subject} bought {bought} and latency: {text}; p50 is {figures}."
    cost = f"It cost latency: p50 is {figures}." if times < 1 / _NOISE else f"Its p50 is {figures}, since {reason}."
    return f"{subject} bought {bought} and no latency: {text}. {cost}"


def _slimming(manifest: Mapping[str, Any], rungs: Sequence[Rung]) -> dict[str, Any] | None:
    """Its share by part and in a sentence, apart from what compression did; None where no slimming was done."""
    record = next((r for r in reversed(manifest["history"]) if r["stage"] == SLIM), None)
    if record is None:
        return None
    metrics = record["metrics"]
    before, after = metrics["bytes_before"], metrics["bytes_after"]
    source = rungs[0].values.get("bytes")
    compressed = any(stage != SLIM for rung in rungs for stage in rung.stages)
    text = ""
    if compressed and source:
        change = formats.ratio(source, before, *_SMALLER)
        text = f"Compression made {format_size(before)} of {format_size(source)} ({change}). "
    if after < before:
        share = formats.share((before - after) / before)
        text += f"Slimming left out {before - after:,} B ({share}) that bought nothing: {format_size(after)} remain"
    else:
        text += "Slimming found nothing to leave out"
    checked = metrics["checked"]
    text += (
        f". It changes no operator: outputs are equal to the bit, checked on {checked:,} sample{'s' * (checked != 1)}."
    )
    rows = [
        {"label": part, "value": max(0, size), "text": f"{size:,} B".replace("-", formats.MINUS)}
        for part, size in metrics["saved"].items()
    ]
    shared = sum(rung.stages[-1:] != (SLIM,) for rung in rungs) > 1 and any(LATENCY in rung.values for rung in rungs)
    return {
        "text": text,
        "rows": rows if after < before else [],
        "most": max((row["value"] for row in rows), default=0),
        "shared": shared and rungs[-1].stages == (SLIM,),
    }


def search(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The trials of a search in the order tried, the chosen one marked; None for a recipe that lists its steps."""
    found = manifest.get("search")
    if found is None:
        return None
    rows = [
        {**trial, "settings": _settings(trial["settings"]), "chosen": trial["settings"] == found["chosen"]}
        for trial in found["trials"]
    ]
    return {**{name: found[name] for name in ("metric", "budget", "first", "prefers", "untrained")}, "rows": rows}


def chosen(manifest: Mapping[str, Any]) -> str:
    """The settings that a search took, in words; "" for a recipe that lists its steps."""
    found = manifest.get("search")
    return _settings(found["chosen"]) if found else ""


def _settings(settings: Mapping[str, Any]) -> str:
    """ "channels 0.32, int8": shares that are kept; what is kept whole isn't named."""
    words = [
        f"{name.replace('_', ' ')} {formats.plain(value)}" if isinstance(value, int | float) else formats.plain(value)
        for name, value in settings.items()
        if value != 1.0
    ]
    return ", ".join(words) or "all kept"
