#!/usr/bin/env python3
"""A build without --recipe beside `--recipe int8` and `--recipe prune-qat`: one resumable row a command.

    .venv/bin/python scripts/bench_default.py --list
    .venv/bin/python scripts/bench_default.py digits [--out DIR]

A row builds one model three times in a cache of its own, and writes docs/benchmarks/default-ROW.json and the table of
docs/default-build.md. What a row has finished is in that cache: the same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import default_table
from compression_rows.common import ROOT, Build, build, data_folder, facts

from edgecompile.search_space import Settings

RESULTS, PAGE = ROOT / "docs" / "benchmarks", ROOT / "docs" / "default-build.md"
RECIPES = ("default", "int8", "prune-qat")


def digits(_: Path) -> tuple[str, tuple[str, ...]]:
    return "digits", ()


def resnet8(_: Path) -> tuple[str, tuple[str, ...]]:
    return str(data_folder() / "models/mlperf_tiny/ic/pretrainedResnet.h5"), ("--data", "resnet8")


def ds_cnn(_: Path) -> tuple[str, tuple[str, ...]]:
    return str(data_folder() / "models/mlperf_tiny/kws/kws_ref_model"), ("--data", "ds_cnn")


def sst2(folder: Path) -> tuple[str, tuple[str, ...]]:
    """A small transformer encoder on sentences of 32 words."""
    path = folder / "sst2.npz"
    with np.load(data_folder() / "text" / "sst2_tokens.npz") as saved:
        arrays = {
            f"{axis}_{split}": saved[f"{axis}_{stored}"].astype(np.int32)
            for axis in "xy"
            for split, stored in (("train", "train20k"), ("test", "dev872"))
        }
    np.savez_compressed(path, **arrays)
    return str(data_folder() / "models/text/sst2_transformer.h5"), ("--data", str(path))


ROWS: dict[str, Callable[[Path], tuple[str, tuple[str, ...]]]] = {
    "digits": digits,
    "ds-cnn": ds_cnn,
    "resnet8": resnet8,
    "sst2": sst2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=sorted(ROWS), metavar="ROW")
    parser.add_argument("--out", type=Path, help="folder of the row's bundles and cache [default: build/bench/ROW]")
    parser.add_argument("--list", action="store_true", help="name all rows")
    parser.add_argument("--page", action="store_true", help="write the table from the results there are")
    given = parser.parse_args()
    if given.list:
        print("\n".join(ROWS))
    elif given.page:
        default_table.write(PAGE, RESULTS)
    elif given.row is None:
        parser.error("name a row, or give --list")
    else:
        run(given.row, (given.out or ROOT / "build" / "bench" / f"default-{given.row}").resolve())


def run(name: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model, options = ROWS[name](out)
    builds = {}
    for recipe in RECIPES:
        made = build(model, recipe, out / recipe, *options, "--max-drop", "2%", cache=out / "cache")
        builds["none" if recipe == "default" else recipe] = _row(made)
    result = {"row": f"default-{name}", "model": name, **facts(), "builds": builds}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"default-{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    default_table.write(PAGE, RESULTS)


def _row(made: Build) -> dict[str, Any]:
    tested, search = made.stage("test"), made.manifest["search"]
    return {
        "command": " ".join(made.command),
        "taken": Settings(**search["chosen"]).words() if search else made.manifest["recipe"]["name"],
        "trials": search["trials"] if search else [],
        "test": made.figure(made.manifest["data"]["metric"]),
        "drop": tested["drop"],
        "drop_unit": tested["drop_unit"],
        "file_bytes": int(made.figure("file_size")),
        "gzip_bytes": int(made.figure("file_size_gzip")),
        "latency_p50_ms": made.figure("latency_p50"),
        "engine": made.manifest["winner"]["id"],
        "minutes": made.minutes,
    }


if __name__ == "__main__":
    main()
