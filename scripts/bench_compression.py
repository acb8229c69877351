#!/usr/bin/env python3
"""What compression buys on real models: one resumable row a command.

    .venv/bin/python scripts/bench_compression.py --list
    .venv/bin/python scripts/bench_compression.py tiny-ic [--out DIR]

A row runs `edgecompile build` with a recipe of scripts/compression_rows/recipes and the data in EDGECOMPILE_DATA, and
writes docs/benchmarks/ROW.json and, in the folder --out names, model.tflite. Whatever a row has finished
is in edgecompile's cache: the same command goes on after a kill. `--page` writes docs/compression.md, the tables of all
rows there are.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from compression_rows import collaborative, costs, mobilenet, precision, searching, structured, table, tiny
from compression_rows.common import ROOT, Row, data_folder, facts

ROWS: dict[str, Row] = {
    **tiny.ROWS,
    **mobilenet.ROWS,
    **collaborative.ROWS,
    **structured.ROWS,
    **searching.ROWS,
    **precision.ROWS,
    **costs.ROWS,
}
RESULTS = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "compression.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=sorted(ROWS), metavar="ROW")
    parser.add_argument("--out", type=Path, help="folder of the row's bundle [default: build/bench/ROW]")
    parser.add_argument("--list", action="store_true", help="name all rows")
    parser.add_argument("--page", action="store_true", help="write docs/compression.md from the results there are")
    given = parser.parse_args()
    if given.list:
        width = max(map(len, ROWS))
        print("\n".join(f"{name:<{width}}  {row.summary}" for name, row in ROWS.items()))
    elif given.page:
        PAGE.write_text(table.page(RESULTS))
    elif given.row is None:
        parser.error("name a row, or give --list")
    else:
        run(given.row, (given.out or ROOT / "build" / "bench" / given.row).resolve())


def run(name: str, out: Path) -> None:
    data_folder()  # for the processes that a row starts, too
    result: dict[str, Any] = {"row": name, "summary": ROWS[name].summary, **facts(), **ROWS[name].run(out)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(table.page(RESULTS))
    print(f"{name}: {out / 'model.tflite'}\n{path.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
