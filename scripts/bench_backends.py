#!/usr/bin/env python3
"""Every engine on one network, side by side on this machine: one resumable row a command.

    .venv/bin/python scripts/bench_backends.py --list
    .venv/bin/python scripts/bench_backends.py resnet8 int8 1
    .venv/bin/python scripts/bench_backends.py --page          # docs/engines.md, of all rows there are

A row builds the network once with all engines, as a user does (parity, accuracy on the whole test set, winner). Then,
in fresh processes of the on-device runner, all engines that passed are run again, interleaved in random order; each
process gives a ratio for each pair of engines, and the medians over the processes are the row's figures. Where the CPU
has AMX, a second process beside each first one of an int8 row is denied it by the kernel, so that the figures say where
a gain comes from. Writes docs/benchmarks/backends-MODEL-PRECISION-THREADS-CPU-CORES.json. Needs EDGECOMPILE_DATA and
the extras tvm, onnx and openvino. mobilenet-v1-224 has random weights, and no accuracy.

A machine without a compiler, data or network measures what was built elsewhere, in two steps. It needs Python, NumPy
and the engines; the fastest in a process before the others is the winner there, there is no accuracy, and the outputs
of TVM's code are compared with those of the code for the machine that built it:

    .venv/bin/python scripts/bench_backends.py resnet8 int8 1 --for avx512-amx --folder build/there/resnet8-int8-1
    python3 scripts/bench_backends.py --built build/there/resnet8-int8-1     # on that machine
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where edgecompile isn't installed
sys.path.insert(0, str(Path(__file__).parent))

from compression_rows.common import ROOT, cpu
from engine_rows.measuring import Prepared, figures
from engine_rows.networks import MODELS, PRECISIONS
from engine_rows.page import page

RESULTS = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "engines.md"
REPEATS, SECONDS = 9, 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=list(MODELS), metavar="MODEL")
    parser.add_argument("precision", nargs="?", choices=list(PRECISIONS), metavar="PRECISION")
    parser.add_argument("threads", nargs="?", type=int, choices=[1, 2], metavar="THREADS")
    parser.add_argument("--for", dest="instructions", metavar="INSTRUCTIONS", help="of the machine that will measure")
    parser.add_argument("--folder", type=Path, help="with --for: all that it needs")
    parser.add_argument("--built", type=Path, metavar="FOLDER", help="measure what --for put there")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    parser.add_argument(
        "--repeats", type=int, choices=range(1, 100), default=REPEATS, metavar="N", help="processes (9)"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each engine, in each of them (1.5)")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="with --built: rows run meanwhile (0)")
    parser.add_argument("--list", action="store_true", help="name all rows")
    parser.add_argument("--page", action="store_true", help="write docs/engines.md from the results there are")
    given = parser.parse_args()
    rows = [(model, precision, threads) for model in MODELS for precision in PRECISIONS for threads in (1, 2)]
    if given.list:
        print("\n".join(" ".join(map(str, row)) for row in rows))
    elif given.page:
        PAGE.write_text(page(given.results, rows))
    elif given.built:
        row = Prepared.load(given.built)
        tell({**figures(row, given.repeats, given.seconds), **machine(), "beside": given.beside}, given.results)
    elif given.threads is None or (given.instructions is None) != (given.folder is None):
        parser.error("give MODEL, PRECISION and THREADS, with --for a --folder, or --built, --list or --page")
    else:
        from engine_rows.building import prepared

        name = f"backends-{given.model}-{given.precision}-{given.threads}"
        out = ROOT / "build" / "bench" / name
        row = prepared(given.model, given.precision, given.threads, out, given.instructions)
        if given.folder:
            row.save(given.folder)
        else:
            tell(figures(row, given.repeats, given.seconds), given.results)


def tell(result: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"backends-{result['row']}-{slug(result['cpu'])}-{result['cores']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("row", "tvm_over", "tvm_over_without_amx", "winner")}, indent=1))


def slug(cpu: str) -> str:
    """The CPU in a file's name: rows of another one stay beside its own."""
    return "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\(\w+\)|processor", "", cpu.lower())))


def machine() -> dict[str, Any]:
    """The facts of this one."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"date": now.isoformat(timespec="seconds"), "python": platform.python_version(), **cpu()}


if __name__ == "__main__":
    main()
