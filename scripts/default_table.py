"""The table of docs/default-build.md, from the rows of scripts/bench_default.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- rows -->\n", "<!-- end of rows -->\n"


def write(page: Path, results: Path) -> None:
    """Put the rows there are between the page's marks."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    page.write_text(before + BEGIN + "\n".join(lines(sorted(results.glob("default-*.json")))) + "\n" + END
                    + rest.split(END)[1])  # fmt: skip


def lines(files: Iterable[Path]) -> list[str]:
    found = [
        "| model | recipe | what was taken | metric | drop | size | size, gzip | latency p50 | engine | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    machines: dict[str, None] = {}
    for file in files:
        result = json.loads(file.read_text())
        found += [_line(result["model"], recipe, row) for recipe, row in result["builds"].items()]
        machines[f"{result['cpu']}, {result['cores']} cores, {result['date'][:10]}"] = None
    return [*found, "", f"Measured on {'; '.join(machines)}; 1 thread; test sets are whole."]


def _line(model: str, recipe: str, row: dict[str, Any]) -> str:
    drop = f"{row['drop']:+.2f}{row['drop_unit']}"
    numbers = (f"{row['file_bytes']:,}", f"{row['gzip_bytes']:,}", f"{row['latency_p50_ms'] * 1000:.1f} µs")
    cells = (model, recipe, row["taken"], f"{row['test']:.4f}", drop, *numbers, row["engine"], str(row["minutes"]))
    return f"| {' | '.join(cells)} |"
