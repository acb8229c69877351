"""The results as a page of Markdown tables, assembled from the rows' JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAMES = 8  # of operators in a cell; the JSON has all
Json = dict[str, Any]
Line = list[str]


_HEAD = """# What compression bought

Written by `scripts/bench_compression.py --page` from the JSON files in docs/benchmarks, one a row, which also hold the
command, the commit, the machine and the versions of all packages. Metrics are of the whole test set, which nothing was
chosen by; bytes are those of the deployed `.tflite`, not packed; latencies are measured, p50, LiteRT with XNNPACK, one
thread; all seeds are 0. A row that isn't here hasn't been run.
"""


def page(folder: Path) -> str:
    return f"{_HEAD}\n{markdown(folder)}\n"


def markdown(folder: Path) -> str:
    """A table a kind of row, and what has to be said with it; rows that were not run are missing."""
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    tables = []
    for table in _TABLES:
        its = [row for name, row in rows.items() if name.startswith(table.prefixes)]
        found = [line for row in its for line in table.lines(row)]
        if found:
            head = [f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
            body = [*head, *(f"| {' | '.join(line)} |" for line in found)]
            said = [
                *([table.said] if table.said else []),
                *(f"- {row['row']}: {row['data']}." for row in its if "data" in row),
            ]
            tables.append("\n".join([f"## {table.title}", "", *body, *([""] if said else []), *said]))
    return "\n\n".join(tables)


def _tiny(row: Json) -> list[Line]:
    points = [_point(row, point) for point in row.get("frontier", ())]
    if "goal" not in row:
        return points
    goal = ", ".join(f"{name} {'reached' if ok else 'NOT reached'}" for name, ok in row["goal"].items())
    sizes, macs, share = row["file_bytes"], row["macs"], row["share_of_reference"]
    first = [row["row"], row["metric"], f"{row['test']['source']:.4f}", f"{row['test']['model']:.4f}"]
    first += [f"{sizes['model']:,}", f"{share['bytes']:.1%}", f"{macs['model']:,}", f"{share['macs']:.1%}", goal]
    return [first, *points]


def _point(row: Json, point: Json) -> Line:
    reference = row["reference"]
    line = [f"{row['row']}, keep {point['keep']}", row["metric"], "", f"{point['test']:.4f}"]
    line += [f"{point['bytes']:,}", f"{point['bytes'] / reference['bytes']:.1%}"]
    line += [f"{point['macs']:,}", f"{point['macs'] / reference['macs']:.1%}", "a point of the frontier"]
    return line


def _collaborative(row: Json) -> list[Line]:
    kept = row["kept"]
    zeros, values = (f"{kept['least_zeros']:.1%}", str(kept["most_values"])) if kept else ("", "")
    test = row["test"]
    sizes = [f"{row['file_bytes']['model']:,}", f"{row['gzip_bytes']['model']:,}", f"{row['xz_bytes']:,}"]
    return [[row["row"], f"{test['source']:.4f}", f"{test['model']:.4f}", zeros, values, *sizes]]


def _structured(row: Json) -> list[Line]:
    def line(name: str, ratio: float) -> Line:
        made = row["variants"][name]
        accuracy = [f"{made['test']['model']:.4f}", f"{made['drop']:.2f}"]
        return [f"{row['row']}, {name}", *accuracy, f"{row['share_of_macs'][name]:.1%}", f"{ratio:.2f}"]

    return [line(name, ratio) for name, ratio in row["ratio_of_latency"].items()]


def _auto(row: Json) -> list[Line]:
    sizes, test = row["bytes_against_qat"], row["test"]
    line = [row["row"], f"{test['source']:.4f}", f"{test['model']:.4f}", f"{sizes['auto']:,}", f"{sizes['qat']:,}"]
    return [[*line, f"{row['qat']['test']['model']:.4f}", str(row["evaluations"]), f"{row['minutes']:.1f}"]]


def _mixed(row: Json) -> list[Line]:
    names = [f"{each['operator']} #{each['index']}" for each in row["kept"]]
    shown = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
    kept = f"{len(names)} of {row['operators']}: {shown}"
    tests = [f"{row['test']['source']:.4f}", f"{row['int8']['test']:.4f}", f"{row['mixed']['test']:.4f}"]
    return [[row["row"], *tests, kept, str(row["evaluations"]), f"{row['file_bytes']['model']:,}"]]


def _cost(row: Json) -> list[Line]:
    spent = [f"{row['minutes']:.1f}", f"{row['peak_rss_mb']:,.0f}"]
    return [
        [row["row"].removeprefix("cost-"), *spent, f"{row['test']['model']:.4f}", f"{row['file_bytes']['model']:,}"]
    ]


@dataclass(frozen=True)
class _Table:
    """prefixes: of the rows' names. lines: those of the table that a row gives. said: below the table."""

    title: str
    prefixes: tuple[str, ...]
    columns: tuple[str, ...]
    lines: Callable[[Json], list[Line]]
    said: str = ""


_TABLES = (
    _Table(
        "Against MLPerf Tiny's int8 reference models, at their quality targets",
        ("tiny-",),
        ("row", "metric", "float", "model", "file bytes", "of reference", "MACs", "of reference", "a third of both"),
        _tiny,
    ),
    _Table(
        "Zeros and clusters kept in int8 weights",
        ("qat-", "cqat-", "pqat-", "pcqat-"),
        ("row", "float", "model", "fewest zeros", "most values", "file bytes", "gzip", "xz"),
        _collaborative,
        "Fewest zeros: of the tensor that has fewest; most values: of the output channel that has most. Both are "
        "counted in the `.tflite`'s own int8 weights.",
    ),
    _Table(
        "Half of the MACs, or 60% of the latency, by channels; half of the weights zero",
        ("structured-",),
        ("variant", "accuracy", "drop, points", "MACs left", "times as fast as its dense form"),
        _structured,
        "Half of the MACs are asked for, or 60% of the float model's latency; in int8 the same channels go as in "
        "float. Scattered zeros make the file smaller once it is packed, and nothing faster: LiteRT's dense kernels "
        "multiply by a zero as by any other number.",
    ),
    _Table(
        "Recipe auto with --max-drop 1%, beside plain quantization-aware training",
        ("auto-",),
        ("row", "float", "auto", "file bytes", "QAT's", "QAT's accuracy", "evaluations", "minutes"),
        _auto,
    ),
    _Table(
        "Mixed precision where plain int8 loses",
        ("mixed-",),
        ("row", "float", "int8", "mixed", "operators in float", "evaluations", "file bytes"),
        _mixed,
    ),
    _Table(
        "What each recipe takes on ResNet8, 2 cores",
        ("cost-",),
        ("recipe", "minutes", "peak RSS, MiB", "accuracy", "file bytes"),
        _cost,
    ),
)
