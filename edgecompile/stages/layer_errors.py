"""How far each tensor of the compressed model is from the float model's, on golden inputs: it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgecompile import golden
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.layerwise import compare
from edgecompile.layerwise.report import SNR_LIMIT
from edgecompile.stages.base import NOTHING, Context, Outcome
from edgecompile.tflite_file import read

_SAMPLES = 8
_MACS = 1e9  # in all: the reference kernels that keep every tensor take seconds for so many


@dataclass(frozen=True)
class LayerErrors:
    """path: the float model as a .tflite. golden: golden.npz, whose inputs are used."""

    name: ClassVar[str] = "layer-errors"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset()

    path: str
    golden: str

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        samples = max(2, min(_SAMPLES, int(_MACS / max(1, read(artifact.model).macs))))
        stored = golden.read(self.golden, golden.INPUTS)[golden.INPUTS]
        inputs = {name: array[:samples] for name, array in stored.items()}
        found = compare(Path(self.path), artifact.model, inputs, snr_db=SNR_LIMIT, report=ctx.report)
        metrics: dict[str, Any] = {"samples": len(next(iter(inputs.values()))), **found.to_json()}
        return Outcome(TFLITE, dict(artifact.files), artifact.signature, metrics)
