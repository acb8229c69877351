"""What each technique of a recipe bought: bytes, packed bytes, MACs and latency after each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile import packing
from edgecompile.artifact import KERAS, TFLITE, Artifact
from edgecompile.measure import Measurement
from edgecompile.tflite_file import read


@dataclass(frozen=True)
class Rung:
    """The model after `stages`, those since the rung before, as the .tflite it is or converts to.

    id: its name in a benchmark; None where the bundle's own figures are its latency: slimming changes no operator.
    """

    stages: tuple[str, ...]
    artifact: Artifact
    id: str | None


def rungs(steps: Sequence[Artifact], convert: Callable[[Artifact], Artifact]) -> list[Rung]:
    """One for each of `steps` that shrank the model, in order. `convert` gives the .tflite of a Keras model.

    A step that only converts what came before is part of the next rung, or of none where nothing came before.
    """
    found: list[Rung] = []
    waiting: list[str] = []
    for made in steps:
        stage = made.history[-1].stage
        if stage == "bridge" or (stage == "convert" and not waiting):
            continue
        waiting.append(stage)
        if made.kind not in (KERAS, TFLITE):
            continue  # a quantization-aware model is what its conversion makes of it
        shown = made if made.kind == TFLITE else convert(made)
        again = sum(rung.stages[-1] == stage for rung in found)  # a recipe may have a stage twice
        found.append(Rung(tuple(waiting), shown, f"after-{stage}{f'-{again + 1}' if again else ''}"))
        waiting = []
    if found and found[-1].stages[-1] == "slim":
        found[-2:] = [Rung(r.stages, r.artifact, None) for r in found[-2:]]
    return found


def table(
    ladder: Sequence[Rung], measurement: Measurement | None, winner: str, metric: str | None
) -> list[dict[str, Any]]:
    """A row a rung, JSON only: stages, bytes, packed (bytes by form), macs, latency_p50 in ms and validation."""
    rows = []
    for rung in ladder:
        results = measurement.results if measurement else {}
        measured = results.get(rung.id or winner)
        record = rung.artifact.history[-1]
        before = [r.metrics["validation"] for r in rung.artifact.history if "validation" in r.metrics]
        rows.append(
            {
                "stages": list(rung.stages),
                "bytes": rung.artifact.model.stat().st_size,
                "packed": {form: packing.packed_size(rung.artifact.model, form) for form in ("gzip", "xz")},
                "macs": read(rung.artifact.model).macs,
                "latency_p50": measured["p50"] if measured else None,
                "validation": record.metrics.get("validation", before[-1] if before else None) if metric else None,
            }
        )
    return rows
