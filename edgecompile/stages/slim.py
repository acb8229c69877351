"""Lossless slimming of a .tflite, checked by running it: bytes that buy nothing go, outputs stay to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.litert import XNNPACK, LiteRtRunner, reference_kernels
from edgecompile.errors import CompressionGateError, ModelError
from edgecompile.stages.base import NOTHING, Context, Outcome
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.task import Arrays
from edgecompile.tflite_file import read, slim


@dataclass(frozen=True)
class Slim:
    """Shortens names, leaves out ranges and metadata that inference doesn't read, and stores equal parts once
    (tflite_file/slimming.py says which). It comes last: inner tensors have other names after it.

    metrics: bytes (of the new file), bytes_before, bytes_after, saved (bytes by part: names, quantization, buffers,
    metadata, layout) and checked (samples compared). CompressionGateError where an output differs from the
    file's before, with XNNPACK or with the reference kernels.
    """

    name: ClassVar[str] = "slim"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"task"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        path = ctx.out / "model.tflite"
        done = slim(read(artifact.model), path)
        inputs = golden_inputs(ctx.task, artifact.signature, ctx.seed)
        check_equal(artifact.model, path, inputs)
        metrics: dict[str, Any] = {
            "bytes": done.bytes_after,
            "bytes_before": done.bytes_before,
            "bytes_after": done.bytes_after,
            "saved": done.saved,
            "checked": len(next(iter(inputs.values()))),
        }
        notes = (f"the file was left as it is: {done.left}",) if done.left else ()
        return Outcome(TFLITE, {"model": path}, artifact.signature, metrics, notes, dict(artifact.meta))


def check_equal(before: Path, after: Path, inputs: Arrays) -> None:
    """CompressionGateError unless both files give the same outputs, to the bit, with XNNPACK and the reference kernels.

    inputs: {name: [n, ...]} by the files' own names.
    """
    for kernels in (XNNPACK, reference_kernels(read(before))):
        expected = LiteRtRunner(before, kernels).run(inputs)
        try:
            received = LiteRtRunner(after, kernels).run(inputs)
        except ModelError as problem:
            raise CompressionGateError(
                f"LiteRT runs the model and refuses it slimmed ({kernels} kernels): {problem.message}", hint=_HINT
            ) from problem
        for name, array in expected.items():
            if array.dtype != received[name].dtype or array.tobytes() != received[name].tobytes():
                differing = int((array != received[name]).sum()) if array.shape == received[name].shape else array.size
                raise CompressionGateError(
                    f"the slimmed file's output {name!r} differs in {differing} of {array.size} values from the "
                    f"file's before ({kernels} kernels); none was expected to",
                    hint=_HINT,
                )


_HINT = "report it with the model; leaving the slim stage out of the recipe keeps the file as it was"
