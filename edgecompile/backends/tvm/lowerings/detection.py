"""TFLite_Detection_PostProcess, as a function in C."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompile.backends.tvm.plan import Source, Step, Value
from edgecompile.detections import OPERATOR
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

_FUNCTION = Source("detections", "detection.c")
_EACH_CLASS = 100  # detections of one class, where the options don't say it


def detections(planner: Planner, operator: Operator) -> None:
    """What LiteRT leaves as it was, where there are fewer detections than the most, is 0."""
    options = _Options(planner, operator)
    most, each, classes = (
        options.whole(name) for name in ("max_detections", "max_classes_per_detection", "num_classes")
    )
    regular = bool(options.whole("use_regular_nms", 0))
    of_a_class = options.whole("detections_per_class", _EACH_CLASS)
    overlap = options.real("nms_iou_threshold")
    encoded, scores = (planner.tensor(index).shape for index in operator.inputs[:2])
    sizes = f"boxes {list(encoded)}, scores {list(scores)} and {classes} classes"
    if len(encoded) != 3 or len(scores) != 3 or encoded[:2] != scores[:2] or encoded[0] != 1 or encoded[2] < 4:
        raise planner.unsupported(operator, f"of {sizes}")
    if scores[2] - classes not in (0, 1) or min(most, each, classes, of_a_class) < 1 or not 0 < overlap <= 1:
        raise planner.unsupported(operator, f"of {sizes}, {most} detections and an overlap of {overlap}")
    for index in operator.inputs:
        if planner.tensor(index).dtype not in ("float32", "uint8"):
            raise planner.unsupported(operator, f"of {planner.tensor(index).dtype}")
    boxes, width, columns = encoded[1], encoded[2], scores[2]
    names = ("nms_score_threshold", "nms_iou_threshold", "y_scale", "x_scale", "h_scale", "w_scale")
    numbers = [options.real(name) for name in names]
    for index in operator.inputs:
        of = planner.range(index)
        numbers += [0.0, 1.0] if of is None else [of.zero, of.scale]
    counts = [boxes, width, columns, classes, most, min(of_a_class, most), each, regular]
    scratch = [
        _scratch("float32", 4 * boxes),
        _scratch("float32", boxes),
        _scratch("float32", max(classes, most)),
        _scratch("uint8", boxes),
        _scratch("int32", boxes),
        _scratch("int32", most),
        _scratch("int32", classes),
    ]
    rows = most * each
    shapes = ((1, rows, 4), (1, rows), (1, rows), (1,))
    made = [planner.sized(index, shape) for index, shape in zip(operator.outputs, shapes, strict=True)]
    given = [planner.operand(index) for index in operator.inputs]
    constants = np.array(numbers, np.float32), np.array(counts, np.int32)
    written = (*scratch, *made)
    kind = "each class by itself" if regular else "classes together"
    planner.emit(Step(_FUNCTION, (*given, *constants, *written), written, (operator.index,), f"in C, {kind}"))


def _scratch(dtype: str, count: int) -> Value:
    return Value((count,), (count,), dtype)


class _Options:
    """Of a custom operator, whose options are a FlexBuffers map. UnsupportedLayerError for what it lacks."""

    def __init__(self, planner: Planner, operator: Operator) -> None:
        self._planner, self._operator = planner, operator

    def whole(self, name: str, absent: int | None = None) -> int:
        return int(self._found(name, absent))

    def real(self, name: str) -> float:
        found = float(self._found(name, None))
        if not math.isfinite(found):
            raise self._planner.unsupported(self._operator, f"its option {name} is {found}")
        return found

    def _found(self, name: str, absent: int | None) -> Any:
        from flatbuffers import flexbuffers

        try:
            found = flexbuffers.GetRoot(self._operator.custom_options).AsMap[name]
            if found.IsNumeric or found.IsBool:
                return found.AsFloat if found.IsFloat else found.AsInt
        except KeyError:
            if absent is not None:
                return absent
        except (ValueError, TypeError, IndexError, struct.error, AttributeError) as problem:
            raise self._planner.unsupported(self._operator, f"its options are damaged: {problem}") from problem
        raise self._planner.unsupported(self._operator, f"its options have no number {name}")


CUSTOM = {OPERATOR: detections}
