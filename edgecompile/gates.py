"""The gates: each looks at one promise. A build whose gate fails ends with that gate's error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile import compare
from edgecompile.artifact import Signature
from edgecompile.compare import Parity
from edgecompile.errors import (
    AccuracyGateError,
    ConversionError,
    EdgecompileError,
    LatencyGateError,
    ParityGateError,
    SizeGateError,
)
from edgecompile.manifest import MEASURED
from edgecompile.units import format_metric, format_ms, format_size


@dataclass(frozen=True)
class Check:
    """passed None: there was no limit to check, or nothing to check it on (the text says which)."""

    name: str
    passed: bool | None
    text: str
    error: type[EdgecompileError]
    hint: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "passed": self.passed, "text": self.text}


def enforce(checks: Sequence[Check]) -> None:
    """The error of the first check that failed, with what all that failed have to say."""
    failed = [check for check in checks if check.passed is False]
    if failed:
        told = "; ".join(f"gate {check.name}: {check.text}" for check in failed)
        raise failed[0].error(f"{told}; the bundle was not written", hint=failed[0].hint)


def check_io(signature: Signature, io: str) -> None:
    """ConversionError where inputs or outputs are not of the type that was asked for.

    "int8" stands for all quantized integers (uint8 and int16 too). Integers without a scale are no quantized numbers
    but indices and the like: they stay what they are.
    """
    hints = {
        "int8": "take --io float, or a recipe that makes all of the model int8 (int8, qat, prune-qat)",
        "float": "take --io int8, or give the model with float inputs and outputs",
    }
    for tensor in (*signature.inputs, *signature.outputs):
        quantized, floating = tensor.scale is not None, "float" in tensor.dtype
        if floating if io == "int8" else quantized:
            raise ConversionError(
                f"--io {io} was asked for, and {tensor.name!r} of the result is {tensor.dtype}", hint=hints[io]
            )


Verdicts = Mapping[str, Mapping[str, Any]]


def parity(
    verdicts: Mapping[str, Verdicts],
    variants: Mapping[str, Mapping[str, Verdicts]],
    kernels: str = "LiteRT's reference kernels",
) -> Check:
    """At least one candidate computes what the reference kernels do; one that doesn't is left out and named, with its
    variant where another one than the best doesn't. kernels: that all were compared with."""
    failed = {}
    for name, outputs in verdicts.items():
        others = {f"{name}'s variant {variant}": found for variant, found in variants.get(name, {}).items()}
        wrong = [(of, v) for of, found in {name: outputs, **others}.items() for v in found.values() if not v["passed"]]
        if wrong:
            failed[name] = f"{wrong[0][0]} {compare.told(Parity(**wrong[0][1]))}"
    agree = f"{len(verdicts) - len(failed)} of {len(verdicts)} candidates agree with {kernels}"
    text = "; left out: ".join([agree, *failed.values()])
    return Check("parity", len(failed) < len(verdicts), text, ParityGateError, _PARITY_HINT)


def passed(name: str, verdicts: Mapping[str, Verdicts], variants: Mapping[str, Mapping[str, Verdicts]]) -> bool | None:
    """Whether a candidate agrees, with all of its variants that were checked; None for what ran nowhere."""
    if name not in verdicts:
        return None
    return all(v["passed"] for of in (verdicts[name], *variants.get(name, {}).values()) for v in of.values())


def variants(told: Mapping[str, str], *, complete: bool) -> Check | None:
    """told: {candidate: which of its variants were checked, and which not}. complete: all were, and agree."""
    by_text: dict[str, list[str]] = {}
    for name, text in told.items():
        by_text.setdefault(text, []).append(name)
    if not by_text:
        return None
    text = "; ".join(f"{', '.join(names)}: {text}" for text, names in by_text.items())
    return Check("variants", True if complete else None, text, ParityGateError, "")


def backends(left_out: Mapping[str, str]) -> Check | None:
    """{backend: why it is no candidate}; None where all of them are."""
    if not left_out:
        return None
    return Check("backends", None, "; ".join(f"{k} left out: {v}" for k, v in left_out.items()), ConversionError, "")


# Engines round differently, which a MobileNetV2 with rescaled channels made 0.1 of its outputs' cosine similarity of.
_PARITY_HINT = (
    "in int8, take recipe mixed-precision, qat or dynamic: where channels differ much in range, a rounding step "
    "becomes a large error; in float, report it: the engine computes wrongly"
)


def tolerance(distance: Mapping[str, Mapping[str, float]], allowed: float) -> Check:
    """The task's own limit on the distance to the float model, as a share of the output's range."""
    worst = max(d["relative"] for d in distance.values())
    text = f"outputs are {worst:.3g} of their range from the float model's, the task allows {allowed:.3g}"
    return Check("tolerance", worst <= allowed, text, ParityGateError, "take a milder recipe (float16, float)")


def size(actual: int, limit: int | None) -> Check:
    hint = "take a stronger recipe (prune-qat, int8), or a smaller model"
    if limit is None:
        return Check("size", None, f"{format_size(actual)}, no limit given", SizeGateError, hint)
    text = f"{format_size(actual)} ({actual} B), allowed {format_size(limit)} ({limit} B)"
    return Check("size", actual <= limit, text, SizeGateError, hint)


def latency(p50: float | None, limit: float | None, label: str | None) -> Check:
    """label: of the figure. A limit can't be kept by numbers of instructions, or by a simulation."""
    hint = "take a recipe with int8 arithmetic, more --threads, or a smaller model"
    if p50 is None:
        return Check("latency", None, "not measured: there is no device", LatencyGateError, hint)
    said = f"p50 {format_ms(p50)}" + ("" if label == MEASURED else f" ({label})")
    if limit is None:
        return Check("latency", None, f"{said}, no limit given", LatencyGateError, hint)
    if label != MEASURED:
        text = f"{said}: --max-latency {format_ms(limit)} can't be judged by that"
        return Check("latency", False, text, LatencyGateError, "name a board that measures with --on")
    return Check("latency", p50 <= limit, f"p50 {format_ms(p50)}, allowed {format_ms(limit)}", LatencyGateError, hint)


def accuracies(after: Mapping[str, Any] | None, max_drop: float | None, of: str = "") -> list[Check]:
    """The gate of all outputs together, and that of each where there are several."""
    whole = accuracy(after, max_drop, of)
    if after is None:
        return [whole]
    engine = {"engine": after["engine"]}
    return [whole, *(accuracy({**found, **engine}, max_drop, of, name) for name, found in after["outputs"].items())]


def accuracy(after: Mapping[str, Any] | None, max_drop: float | None, of: str = "", output: str = "") -> Check:
    """The drop against the float model on the test set. `after`: what the test stage found, None without labels.

    of: whose it is, where it isn't the winner's. output: of which, where it isn't of all.
    """
    name = f"accuracy/{output}" if output else "accuracy"
    hint = "a milder recipe, more --budget-minutes for a trained one, or a larger --max-drop"
    if after is None:
        return Check("accuracy", None, "not measured: the data has no labelled test set", AccuracyGateError, hint)
    drop, unit = math.inf if after["drop"] is None else after["drop"], after["drop_unit"]
    scale = max(abs(after["value"]), abs(after["before"]))
    value, before = (format_metric(after[key], scale) for key in ("value", "before"))
    low, high = (format_metric(bound, scale, sign=True) for bound in after["interval"])
    text = (
        f"{after['metric']} {value} by {after['engine']} against {before} of the float model "
        f"on {after['samples']} test samples: {'drop' if drop >= 0 else 'gain'} {abs(drop):.2f}{unit} "
        f"(95% interval of the difference {low} to {high})"
    )
    if of:
        text = f"{of}: {text}"
    if max_drop is None:
        return Check(name, None, f"{text}, no limit", AccuracyGateError, hint)
    return Check(name, drop <= max_drop, f"{text}, allowed {max_drop:g}{unit}", AccuracyGateError, hint)
