"""The results as Markdown tables, assembled from the rows' JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def markdown(folder: Path) -> str:
    """One table a kind of row; rows that were not run are missing."""
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    tiny = [_tiny(row) for name, row in rows.items() if name.startswith("tiny-")]
    columns = ("row", "metric", "float", "model", "bytes", "of reference", "MACs", "of reference", "goal")
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *tiny])


def _tiny(row: dict[str, Any]) -> str:
    goal = ", ".join(f"{name} {'reached' if ok else 'NOT reached'}" for name, ok in row["goal"].items())
    return (
        f"| {row['row']} | {row['metric']} | {row['test']['source']:.4f} | {row['test']['model']:.4f} "
        f"| {row['file_bytes']['model']:,} | {row['share_of_reference']['bytes']:.1%} "
        f"| {row['macs']['model']:,} | {row['share_of_reference']['macs']:.1%} | {goal} |"
    )
