"""docs/engines.md, of the rows' JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from engine_rows.measuring import TVM, least_peer

XNNPACK = "litert-xnnpack"
HEAD = (
    "network", "precision", "threads", "TVM, ms", "without AMX", "/ XNNPACK", "/ XNNPACK without AMX", "/ ONNX Runtime",
    "/ OpenVINO", "winner", "peer / winner", "TVM builds in, s", "metric of TVM", "of XNNPACK",
)  # fmt: skip
INTRODUCTION = """# Engines, side by side

Written by `scripts/bench_backends.py --page` from the JSON files in docs/benchmarks, one a row, which also hold the
command, the commit, the versions, every engine's bytes, memory and parity. The time of edgecompile's TVM code, untuned,
and as a share of each other engine's: below 1 it is the faster one. Median of nine fresh processes, in each of which
all engines ran interleaved; latencies are measured, p50. The winner was chosen by the build; "peer / winner" is the
fastest other engine's time over the winner's in those later processes. "TVM builds in" is what its compiler takes for
the one library; the metrics are on the whole test set, of TVM's code and of XNNPACK on the `.tflite`. Rows measured on
different CPUs can't be compared: each CPU has a table. A cell is empty where the row doesn't tell, and a row that isn't
here hasn't been run.

Rows with `built_on` in their JSON were built on another machine than they were measured on: their winner is the fastest
of a process before those nine, their outputs are compared with those of the other machine's code (`differing`), which
is the one whose accuracy is in its table; `beside` says how many other rows ran meanwhile, on cores of their own.
"""


def page(results: Path, rows: Iterable[tuple[str, str, int]]) -> str:
    """All rows there are, those of one CPU in one table. rows: (model, precision, threads)."""
    tables: dict[str, list[tuple[str, ...]]] = {}
    for model, precision, threads in rows:
        for path in sorted(results.glob(f"backends-{model}-{precision}-{threads}-*.json")):
            found = json.loads(path.read_text())
            cpu = f"{found['cpu']} ({found['cores']} cores: {', '.join(found['features'])})"
            tables.setdefault(cpu, []).append((model, precision, str(threads), *_cells(found)))
    parts = [f"## {cpu}\n\n{_table([HEAD, ('---',) * len(HEAD), *rows])}\n" for cpu, rows in sorted(tables.items())]
    return "\n".join((INTRODUCTION, *parts))


def _table(lines: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a row; empty for what rows of an earlier form of this script don't have."""
    over, without = found["tvm_over"], found["tvm_over_without_amx"] or {}
    tvm, xnnpack = (found["candidates"].get(each, {}) for each in (TVM, XNNPACK))
    seconds = found.get("tvm_build", {}).get(TVM, {}).get("seconds")
    cell: Callable[..., str] = lambda value, digits=2: "" if value is None else f"{value:.{digits}f}"  # noqa: E731
    return (
        cell(tvm["p50_ms"], 3), cell(tvm.get("p50_ms_without_amx"), 3), cell(over.get(XNNPACK)),
        cell(without.get(XNNPACK)), cell(over.get("onnx")), cell(over.get("openvino")), found["winner"],
        cell(least_peer(found)), cell(seconds, 1), cell(tvm.get("accuracy"), 4), cell(xnnpack.get("accuracy"), 4),
    )  # fmt: skip
