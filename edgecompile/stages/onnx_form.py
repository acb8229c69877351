"""The compressed model as ONNX, for engines that are built on boards: in float, and in symmetric int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from edgecompile import compare
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.litert import XNNPACK, LiteRtRunner, reference_kernels
from edgecompile.backends.onnx.graph import OLD_OPSET, export
from edgecompile.backends.onnx.runner import OnnxRunner
from edgecompile.backends.tensorrt.integers import quantize
from edgecompile.errors import ConversionError, MissingDependencyError
from edgecompile.ondevice.runner import load_inputs, save_arrays
from edgecompile.quantization.calibration import draw
from edgecompile.stages.base import NOTHING, REPRESENTATIVE, Context, Outcome
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.tflite_file import read

_TOOLS = ("tf2onnx", "onnx", "onnxruntime")
GRAPH = "onnx"  # the role of the file with the graph
EXPECTED = "expected"  # of that with the outputs that an engine of it shall give for the golden inputs


def tools() -> tuple[str, ...]:
    """The packages that are installed: they belong to the keys of these stages, and to those of no other."""
    try:
        return tuple(f"{name} {version(name)}" for name in _TOOLS)
    except PackageNotFoundError as missing:
        raise MissingDependencyError(
            f"{missing.name} is not installed as a package of that name", hint="pip install 'edgecompile[onnx]'"
        ) from None


@dataclass(frozen=True)
class OnnxForm:
    """The float graph. `expected` are LiteRT's own outputs; ConversionError where ONNX Runtime gives others."""

    name: ClassVar[str] = "onnx"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = True  # tf2onnx loads it
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"task"})

    tools: tuple[str, ...]

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        path, expected = ctx.out / "model.onnx", ctx.out / "expected.npz"
        export(artifact.model, path, opset=OLD_OPSET, symmetric=True)
        inputs = golden_inputs(ctx.task, artifact.signature, ctx.seed)
        reference = LiteRtRunner(artifact.model, reference_kernels(read(artifact.model))).run(inputs)
        xnnpack = LiteRtRunner(artifact.model, XNNPACK).run(inputs)
        given = OnnxRunner(path).run(inputs)
        verdicts = {
            name: compare.parity(given[name], array, xnnpack[name], None, floats=True)
            for name, array in reference.items()
        }
        for name, verdict in verdicts.items():
            if not verdict.passed:
                raise ConversionError(
                    f"the ONNX graph's output {name!r} is {verdict.relative:.2g} of its range from LiteRT's, allowed "
                    f"{verdict.tolerance / verdict.range:.2g}",
                    hint="report it with the model; --backends litert leaves ONNX out",
                )
        save_arrays(expected, reference)
        metrics = _metrics(path, verdicts)
        note = f"ONNX Runtime's outputs differ from LiteRT's by at most {metrics['max_abs']:.2g}"
        return Outcome(TFLITE, {GRAPH: path, EXPECTED: expected}, artifact.signature, metrics, (note,))


@dataclass(frozen=True)
class OnnxInt8:
    """The float graph of `OnnxForm` in symmetric int8, its ranges from training samples.

    `expected` are its own outputs by ONNX Runtime: how good these are, the accuracy gate says.
    """

    name: ClassVar[str] = "onnx-int8"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = REPRESENTATIVE
    uses: ClassVar[frozenset[str]] = frozenset({"task"})

    tools: tuple[str, ...]
    samples: int = 500

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        path, expected = ctx.out / "model.onnx", ctx.out / "expected.npz"
        quantize(artifact.files[GRAPH], draw(ctx, artifact.signature, self.samples), path)
        given = OnnxRunner(path).run(golden_inputs(ctx.task, artifact.signature, ctx.seed))
        save_arrays(expected, given)
        floats = load_inputs(artifact.files[EXPECTED])
        verdicts = {name: compare.half_parity(given[name], array) for name, array in floats.items()}
        metrics, alike = _metrics(path, verdicts), min(verdict.cosine for verdict in verdicts.values())
        worst = metrics["max_abs"]
        note = f"its outputs differ from the float graph's by at most {worst:.2g} (cosine similarity {alike:.4f})"
        return Outcome(TFLITE, {GRAPH: path, EXPECTED: expected}, artifact.signature, metrics, (note,))


def _metrics(graph: Path, verdicts: Mapping[str, compare.Parity]) -> dict[str, Any]:
    return {
        "bytes": graph.stat().st_size,
        "max_abs": max(verdict.max_abs for verdict in verdicts.values()),
        "parity": {name: asdict(verdict) for name, verdict in verdicts.items()},
    }
