"""Parity: is each output of an engine what the reference kernels make of the same inputs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgecompile import compare, detections
from edgecompile.compare import Allowance, Parity
from edgecompile.detections import Lists
from edgecompile.loaders.interpreter import own_signature
from edgecompile.task import Arrays
from edgecompile.tflite_file import TfliteModel


@dataclass(frozen=True)
class Outputs:
    """What there is to know of a model's outputs to judge them.

    scales, zero_points: by output, None for floats and plain integers. steps: {output: what one step of the last
    quantized tensor is in its real unit}. floats: whether all of the model's arithmetic is. lists: of detections.
    """

    scales: Mapping[str, float | None]
    zero_points: Mapping[str, int | None]
    steps: Mapping[str, float]
    floats: bool
    lists: Lists | None


def outputs_of(model: TfliteModel) -> Outputs:
    specs = own_signature(model).outputs
    return Outputs(
        scales={spec.name: spec.scale for spec in specs},
        zero_points={spec.name: spec.zero_point for spec in specs},
        steps={spec.name: spec.scale for spec in specs if spec.scale is not None} | dequantized(model),
        floats=not model.is_quantized,
        lists=detections.lists_of(model),
    )


def dequantized(model: TfliteModel) -> dict[str, float]:
    """{float output: the scale of the integers that it is made from}, of an integer model with float outputs."""
    made = {index: operator for operator in model.main.operators for index in operator.outputs}
    found = {}
    for spec, index in zip(own_signature(model).outputs, model.main.outputs, strict=True):
        operator = made.get(index)
        if operator is not None and operator.name == "DEQUANTIZE":
            quantization = model.main.tensors[operator.inputs[0]].quantization
            if quantization is not None and not quantization.per_channel:
                found[spec.name] = quantization.scales[0]
    return found


def verdicts(
    given: Arrays, reference: Arrays, known: Arrays, of: Outputs, *, builtin: Arrays | None = None, exact: bool = False
) -> dict[str, Parity]:
    """`compare.parity` of each output; of lists of detections, what `detections.judged` says.

    known, builtin: the outputs of XNNPACK and of LiteRT's own kernels, which say how far an engine may be off. exact:
    of an engine that is to give the reference's numbers: rounding is no excuse, and lists are judged place by place.
    """
    found = {
        name: compare.parity(
            given[name],
            array,
            array if exact else known[name],
            of.scales.get(name),
            of.zero_points.get(name),
            floats=of.floats,
            step=0.0 if exact else of.steps.get(name, 0.0),
            builtin=None if exact or builtin is None else builtin[name],
        )
        for name, array in reference.items()
    }
    if of.lists is None or exact:
        return found
    return {**found, **detections.judged(found, given, reference, known, of.lists, floats=of.floats)}


def failures(
    given: Arrays, reference: Arrays, found: Mapping[str, Parity], of: Outputs, allowed: Mapping[str, Allowance]
) -> dict[str, str]:
    """{output: why} of those that are farther off than what was allowed before. found: the verdicts by what would be
    allowed now, which say whether lists have the same objects."""
    wrong = {}
    for name, verdict in found.items():
        limit = allowed.get(name, Allowance(0.0))
        if of.lists is not None and name in of.lists.names:
            fails = verdict.max_abs > limit.tolerance or not verdict.passed
        else:
            verdict = compare.judged(given[name], reference[name], limit, of.scales.get(name), of.zero_points.get(name))
            fails = not verdict.passed
        if fails:
            wrong[name] = f"{name!r} {compare.told(verdict)}"
    return wrong
