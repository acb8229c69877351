#!/usr/bin/env python3
"""Builds random graphs by default, `int8`, `qat` and `prune-qat`: which end, and what stays in float. Rows resume.

    .venv/bin/python scripts/bench_graphs.py [--count 40] [--first 0] [--out DIR]

Graphs come from the grammar of tests/graphs.py, every other one of Keras 3; labels are the float model's own answers,
so that there is an accuracy to lose. Writes docs/benchmarks/graphs.json and docs/graphs.md. Exit code 1 where a build
ended as none may: by a broken promise of compression, a refusing converter, or a fault of edgecompile's own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from compression_rows.common import ROOT, facts

RESULT, PAGE = ROOT / "docs" / "benchmarks" / "graphs.json", ROOT / "docs" / "graphs.md"
sys.path.insert(0, str(ROOT / "tests"))
RECIPES = ("default", "int8", "qat", "prune-qat")
# Its own fault, whatever the graph: a broken promise of compression, a refusing converter, a fault of edgecompile's.
NEVER = (24, 30, 31, 70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="the first graph's number")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "graphs")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    models = make(out, given.first + given.count)
    rows = [row(number, models[number], out) for number in range(given.first, given.first + given.count)]
    result = {"row": "graphs", **facts(), "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(result))
    wrong = [(r["number"], recipe) for r in rows for recipe, b in r["builds"].items() if b["code"] in NEVER]
    print(f"{len(rows)} graphs, {len(rows) * len(RECIPES)} builds; ended as none may: {wrong or 'none'}")
    sys.exit(bool(wrong))


def make(out: Path, count: int) -> list[Path]:
    """The graphs' files; equal numbers give equal graphs."""
    paths = [out / f"{number}.{'keras' if number % 2 else 'h5'}" for number in range(count)]
    if all(path.is_file() for path in paths):
        return paths
    import graphs
    import keras
    import numpy as np
    import tf_keras
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    def graph(number: int) -> Any:
        """The last of three: hypothesis begins with the simplest."""
        made: list[Any] = []

        @seed(number)
        @settings(max_examples=3, database=None, phases=[Phase.generate], deadline=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(st.data())
        def collect(data: st.DataObject) -> None:
            made.append(graphs.random_graph(data.draw, keras if number % 2 else tf_keras))

        collect()
        return made[-1]

    for number, path in enumerate(paths):
        model = graph(number)
        model.save(path)
        x = graphs.samples(model, 550)
        answers = np.asarray(model.predict(x, verbose=0)).argmax(-1)
        # Enough to validate with for trials that train; the trainings themselves are short.
        parts = {"train": slice(200), "val": slice(200, 350), "test": slice(350, None)}
        arrays = {f"{axis}_{name}": a[rows] for name, rows in parts.items() for axis, a in (("x", x), ("y", answers))}
        np.savez(path.with_suffix(".npz"), **arrays)
    return paths


def row(number: int, model: Path, out: Path) -> dict[str, Any]:
    from edgecompile.cache import Cache
    from edgecompile.cli.display import make_display
    from edgecompile.session import Session

    path = out / f"{number}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    builds = {}
    with make_display() as display, Session(display, Cache(out / "cache")) as session:  # TensorFlow starts once
        for recipe in RECIPES:
            session.number = 0
            builds[recipe] = build(model, recipe, out / "bundles" / f"{number}-{recipe}", session)
    found = {"number": number, "format": model.suffix, "layers": layers_of(model), "builds": builds}
    path.write_text(json.dumps(found))
    print(number, {recipe: made["code"] for recipe, made in builds.items()}, flush=True)
    return found


def build(model: Path, recipe: str, out: Path, session: Any) -> dict[str, Any]:
    from edgecompile.errors import EdgecompileError
    from edgecompile.pipeline import build as build_bundle
    from edgecompile.request import BuildRequest

    request = BuildRequest(
        str(model),
        "host",
        data=str(model.with_suffix(".npz")),
        recipe=None if recipe == "default" else recipe,
        out=out,
        max_drop=100.0,
        budget_minutes=0.2,
        backends=("litert",),
    )
    began = time.monotonic()
    code, message, accuracy = 0, "", None
    notes: list[str] = []
    try:
        manifest = build_bundle(request, session).manifest
        notes = [f"{r['stage']}: {note}" for r in manifest["history"] for note in r["notes"]]
        accuracy = next(r["metrics"] for r in manifest["history"] if r["stage"] == "test")["value"]
    except EdgecompileError as problem:
        code, message = problem.exit_code, problem.message
    seconds = round(time.monotonic() - began, 1)
    return {"code": code, "message": message, "notes": notes, "accuracy": accuracy, "seconds": seconds}


def layers_of(model: Path) -> dict[str, int]:
    from edgecompile import loaders
    from edgecompile.loaders.base import LoadOptions

    return dict(Counter(type(layer).__name__ for layer in loaders.load(model, LoadOptions()).model.layers))


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Random graphs",
        "",
        "Written by `scripts/bench_graphs.py`: graphs from a grammar of layers (tests/graphs.py) with random weights,",
        "each built by default and by three recipes with little time to train (0.2 minutes). A number is an exit code",
        "(0: a bundle; 21: with these weights no engine's rounding is near enough to the reference's; 13, 25: refused",
        "before training), in brackets the share of 200 test samples with the float model's answer:",
        "weights are random, which says little of trained ones.",
        "",
        f"{result['cpu']}, {result['cores']} cores, {result['date'][:10]}.",
        "",
        "| # | layers | " + " | ".join(RECIPES) + " | qat: what stayed in float |",
        "|---|---|" + "---|" * (len(RECIPES) + 1),
    ]
    for each in result["rows"]:
        kinds = ", ".join(f"{n} {k}" if n > 1 else k for k, n in each["layers"].items() if k != "InputLayer")
        cells = [_cell(each["builds"][recipe]) for recipe in RECIPES]
        floats = [n.partition(": ")[2] for n in each["builds"]["qat"]["notes"] if "float" in n]
        lines.append(f"| {each['number']} | {kinds} | {' | '.join(cells)} | {'; '.join(floats) or 'nothing'} |")
    return "\n".join(lines) + "\n"


def _cell(build: dict[str, Any]) -> str:
    return str(build["code"]) if build["accuracy"] is None else f"0 ({build['accuracy']:.2f})"


if __name__ == "__main__":
    main()
