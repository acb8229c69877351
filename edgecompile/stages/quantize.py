"""Post-training quantization of a float .tflite, through ai-edge-quantizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.errors import CompressionGateError, ConversionError, RecipeError
from edgecompile.stages.base import NOTHING, REPRESENTATIVE, Context, Outcome, Progress, require
from edgecompile.task import align
from edgecompile.tflite_file import TfliteModel, read

FLOAT16 = "float16"
RANGES = ("min_max", "moving_average")
SCHEMES = (
    FLOAT16,
    "dynamic_wi8_afp32",
    "dynamic_wi4_afp32",
    "weight_only_wi8_afp32",
    "weight_only_wi4_afp32",
    "static_wi8_ai8",
    "static_wi8_ai16",
)
_FLOAT16_CONFIG = {
    "weight_tensor_config": {"num_bits": 16, "symmetric": True, "granularity": "TENSORWISE", "dtype": "FLOAT"},
    "compute_precision": "FLOAT",
    "explicit_dequantize": True,
    "skip_checks": False,
    "min_weight_elements": 0,
}


@dataclass(frozen=True)
class Quantize:
    """scheme: one of SCHEMES, a recipe of ai-edge-quantizer by its name (`static_wi8_ai8`: int8 weights and
    activations, `dynamic_wi8_afp32`: int8 weights, ...) or `float16`.

    samples: how many training samples calibrate the activations' ranges, drawn with the build's seed.
    ranges: "min_max" takes the widest range over all samples, "moving_average" smooths over them and so clips
    what is rare (keyword spotting lost 1.5 points more by it).
    float_ops: "allow" names operators that stayed in float; "refuse" makes them an error.
    """

    name: ClassVar[str] = "quantize"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = True
    tensorflow: ClassVar[bool] = False

    scheme: str
    samples: int = 500
    ranges: str = "min_max"
    float_ops: str = "allow"

    def __post_init__(self) -> None:
        known = ("allow", "refuse")
        require(
            self.name,
            scheme=(self.scheme, self.scheme in SCHEMES, f"one of {', '.join(SCHEMES)}"),
            samples=(self.samples, self.samples >= 1, "1 or more"),
            ranges=(self.ranges, self.ranges in RANGES, " or ".join(map(repr, RANGES))),
            float_ops=(self.float_ops, self.float_ops in known, "'allow' or 'refuse'"),
        )

    @property
    def static(self) -> bool:
        return self.scheme.startswith("static")

    @property
    def needs(self) -> str:
        return REPRESENTATIVE if self.static else NOTHING

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"task", "io"}) if self.static else frozenset({"io"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        from ai_edge_quantizer import quantizer

        source = read(artifact.model)
        _refuse_quantized(source)
        engine = quantizer.Quantizer(str(artifact.model))
        path = ctx.out / "model.tflite"
        try:
            engine.load_quantization_recipe(_entries(self.scheme, ctx.io))
            calibration = None
            if engine.need_calibration:
                key = source.signatures[0].key
                calibration = self._calibrate(
                    engine, artifact.model, {key: _Samples(self._samples(artifact, ctx), ctx)}
                )
            engine.quantize(calibration).export_model(str(path), overwrite=True)
        except (ValueError, RuntimeError, KeyError, NotImplementedError) as problem:
            raise ConversionError(
                f"ai-edge-quantizer refused the model: {str(problem).strip().splitlines()[0][:400]}",
                hint="another recipe (dynamic, float16), or another scheme in a recipe of your own",
            ) from problem
        result = read(path)
        left = self._check(result)
        metrics = {"bytes": path.stat().st_size, "ops_left_float": left}
        notes = (f"operators left in float: {', '.join(left)}",) if left else ()
        return Outcome(TFLITE, {"model": path}, result.signature, metrics, notes)

    def _calibrate(self, engine: Any, model: Path, samples: dict[str, _Samples]) -> Any:
        from ai_edge_quantizer import calibrator
        from ai_edge_quantizer.utils import qsv_utils

        updates = dict(zip(RANGES, (qsv_utils.min_max_update, qsv_utils.moving_average_update), strict=True))
        # Quantizer.calibrate() does the same, but leaves no choice of how ranges of samples are joined.
        calibration = calibrator.Calibrator(model.read_bytes(), num_threads=1, qsv_update_func=updates[self.ranges])
        calibration.calibrate(samples, engine._recipe_manager)
        return calibration.get_model_qsvs()

    def _samples(self, artifact: Artifact, ctx: Context) -> list[dict[str, Any]]:
        fit, _ = ctx.require_task().split(ctx.seed)
        chosen = np.random.default_rng(ctx.seed).permutation(len(fit))[: self.samples]
        x = align(fit.take(chosen).x, artifact.signature.inputs)
        dtypes = {spec.name: spec.dtype for spec in artifact.signature.inputs}
        return [{k: a[i : i + 1].astype(dtypes[k]) for k, a in x.items()} for i in range(len(chosen))]

    def _check(self, result: TfliteModel) -> list[str]:
        """The quantizer skips what its policy doesn't cover and says nothing: look at the result itself."""
        tensors = [t for graph in result.subgraphs for t in graph.tensors]
        if not any(t.is_constant and t.dtype not in ("float32", "int32", "int64", "bool") for t in tensors):
            raise CompressionGateError(
                f"{self.scheme} left every weight of the model in float", hint="take another recipe"
            )
        if not self.static:
            return []
        left = [
            f"{op.name} #{op.index}"
            for graph in result.subgraphs
            for op in graph.operators
            if op.name not in ("QUANTIZE", "DEQUANTIZE")
            and any(graph.tensors[i].dtype == "float32" for i in op.outputs)
        ]
        if left and self.float_ops == "refuse":
            raise CompressionGateError(f"operators left in float, and the recipe refuses them: {', '.join(left)}")
        return left


class _Samples:
    """Calibration samples that report how far the quantizer is."""

    def __init__(self, samples: list[dict[str, Any]], ctx: Context) -> None:
        self._samples = samples
        self._ctx = ctx

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for i, sample in enumerate(self._samples, 1):
            self._ctx.report(Progress("calibration", i, len(self._samples)))
            yield sample


def _entries(scheme: str, io: str) -> list[dict[str, Any]]:
    """The scheme in ai-edge-quantizer's own recipe format."""
    from ai_edge_quantizer import recipe

    if scheme == FLOAT16:
        return [_entry("*", "float_casting", _FLOAT16_CONFIG)]
    entries: list[dict[str, Any]] = json.loads(json.dumps(getattr(recipe, scheme)(), default=str))
    if io == "float" and scheme.startswith("static"):
        entries += [_entry("INPUT", "no_quantize"), _entry("OUTPUT", "no_quantize")]
    return entries


def _entry(operation: str, algorithm: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"regex": ".*", "operation": operation, "algorithm_key": algorithm, "op_config": config or {}}


def _refuse_quantized(model: TfliteModel) -> None:
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.is_constant and tensor.quantization is not None and tensor.dtype in ("int8", "uint8", "int4"):
                raise RecipeError(
                    f"{model.path} is quantized already (tensor {tensor.name!r} is {tensor.dtype})",
                    hint="give the float model, or take recipe float, which changes nothing",
                )
