"""The final .tflite as OpenVINO takes it: every tensor named, which one that `slim` had to leave alone may lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.stages.base import NOTHING, Context, Outcome
from edgecompile.tflite_file import read, spelt_out

SPELT_OUT = "spelt-out"  # the role of the file


@dataclass(frozen=True)
class SpellOut:
    """version: OpenVINO's. ConversionError where it refuses the model."""

    name: ClassVar[str] = "spell-out"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset()

    version: str

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        from edgecompile.backends.openvino import opened
        from edgecompile.backends.sessions import described

        path = spelt_out(read(artifact.model), ctx.out / "model.tflite")
        opened(path, 1, described(read(path)))
        return Outcome(TFLITE, {SPELT_OUT: path}, artifact.signature, {"bytes": path.stat().st_size})
