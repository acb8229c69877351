"""Post-training quantization of a float .tflite, through ai-edge-quantizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.errors import CompressionGateError
from edgecompile.quantization import SCHEMES, Deviation, FloatModel, Override, Place, assign, deviations
from edgecompile.quantization.calibration import MIN_MAX, RANGES, draw
from edgecompile.quantization.engine import check_weights
from edgecompile.quantization.operators import applies
from edgecompile.quantization.schemes import FLOAT, is_static
from edgecompile.stages.base import NOTHING, REPRESENTATIVE, Context, Outcome, require


@dataclass(frozen=True)
class Quantize:
    """scheme: one of SCHEMES, a recipe of ai-edge-quantizer by its name (`static_wi8_ai8`: int8 weights and
    activations, `dynamic_wi8_afp32`: int8 weights, activations quantized while running, `weight_only_wi8_afp32`:
    int8 weights, float arithmetic, ...) or `float16`.

    samples: how many training samples calibrate the activations' ranges, drawn with the build's seed.
    ranges: "min_max" takes the widest range over all samples, "moving_average" smooths over them and so clips
    what is rare (keyword spotting lost 1.5 points more by it).
    float_ops: "allow" names operators that stayed in float, or for which an override's scheme doesn't exist;
    "refuse" makes them an error.
    overrides: another scheme for some operators, the last that matches wins.
    """

    name: ClassVar[str] = "quantize"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = True
    tensorflow: ClassVar[bool] = False

    scheme: str
    samples: int = 500
    ranges: str = MIN_MAX
    float_ops: str = "allow"
    overrides: tuple[Override, ...] = ()

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
        """Whether the model as a whole is an integer model, and so may have integer inputs and outputs."""
        return is_static(self.scheme)

    @property
    def _calibrated(self) -> bool:
        return any(is_static(scheme) for scheme in (self.scheme, *(o.scheme for o in self.overrides)))

    @property
    def needs(self) -> str:
        return REPRESENTATIVE if self._calibrated else NOTHING

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"task", "io"}) if self._calibrated else frozenset({"io"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        model = FloatModel(artifact.model)
        others, impossible = assign(self.overrides, model.places)
        if self._calibrated:
            model.calibrate(draw(ctx, artifact.signature, self.samples), self.ranges, ctx)
        path = ctx.out / "model.tflite"
        result = model.quantize(self.scheme, ctx.io, others, path)
        check_weights(result, self.scheme)
        looped = model.in_loops(self.scheme, others)
        asked = {place: self.scheme for place in model.places if applies(place, self.scheme)} | others | looped
        wrong = deviations(model.file, result, asked)
        left = [deviation.label for deviation in wrong if deviation.float_left]
        notes = (*self._judged(wrong, impossible), *_looped(looped))
        metrics: dict[str, Any] = {"bytes": path.stat().st_size, "ops_left_float": left}
        if others:
            metrics["overridden"] = {place.label: scheme for place, scheme in others.items()}
        return Outcome(TFLITE, {"model": path}, result.signature, metrics, notes)

    def _judged(self, wrong: Sequence[Deviation], impossible: Sequence[tuple[Place, str]]) -> tuple[str, ...]:
        """Notes on what isn't as asked; CompressionGateError where that is more than the recipe allows."""
        broken = [d for d in wrong if not d.float_left]
        if broken:
            what = ", ".join(f"{d.label}: {d.asked} was asked, received {d.found}" for d in broken)
            raise CompressionGateError(
                f"the quantizer gave operators another type than was asked for: {what}",
                hint="an override with scheme float, or another scheme, for these operators",
            )
        left = ", ".join(d.label for d in wrong)
        refused = ", ".join(f"{place.label} ({scheme})" for place, scheme in impossible)
        if self.float_ops == "refuse":
            if left:
                raise CompressionGateError(f"operators left in float, and the recipe refuses them: {left}")
            if refused:
                raise CompressionGateError(
                    f"the quantizer can't give these operators their override's scheme: {refused}",
                    hint="an override that matches others only, or float_ops = 'allow'",
                )
        notes = [f"operators left in float: {left}"] if left else []
        return (*notes, *([f"overrides that can't be had: {refused}"] if refused else []))


def _looped(places: Mapping[Place, str]) -> tuple[str, ...]:
    """A note on operators in loops and branches, which no static scheme reaches."""
    weights = [place.label for place, scheme in places.items() if scheme != FLOAT]
    if not places:
        return ()
    held = f"int8 weights in {', '.join(weights)}" if weights else "no operator with weights"
    return (f"in loops and branches, whose ranges can't be calibrated, activations stay float: {held}",)
