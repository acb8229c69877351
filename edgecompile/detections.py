"""Parity of lists of detections: they are ordered by score and cut at a length, so that close scores change places and
the last ones may be others. Engines are compared on the objects that they find, not place by place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgecompile import compare
from edgecompile.compare import Parity
from edgecompile.loaders.interpreter import own_signature
from edgecompile.task import Array, Arrays
from edgecompile.tflite_file import TfliteModel

OPERATOR = "TFLite_Detection_PostProcess"
_OVERLAP = 0.5  # intersection over union from which on boxes of one class are the same object, as in PASCAL VOC


@dataclass(frozen=True)
class Lists:
    """Names of outputs: boxes [n, most, 4] (top, left, bottom, right), classes and scores [n, most], count [n]."""

    boxes: str
    classes: str
    scores: str
    count: str

    @property
    def names(self) -> tuple[str, ...]:
        return self.boxes, self.classes, self.scores, self.count


def lists_of(model: TfliteModel) -> Lists | None:
    """None where the model's outputs are no detections."""
    names = dict(zip(model.main.outputs, (spec.name for spec in own_signature(model).outputs), strict=True))
    for operator in model.main.operators:
        if operator.name == OPERATOR and len(operator.outputs) == 4 and all(i in names for i in operator.outputs):
            return Lists(*(names[index] for index in operator.outputs))
    return None


def judged(
    places: Mapping[str, Parity], given: Arrays, reference: Arrays, known: Arrays, lists: Lists, *, floats: bool
) -> dict[str, Parity]:
    """Boxes, classes and scores of the objects that both lists have: of one class, and overlapping by half.

    Of all objects in either list three quarters have to be in both, and an engine may miss three times as many as
    XNNPACK does; what both have may differ as floats may. places: the verdicts place by place, whose differences stand
    where the objects are others.
    """
    if all(places[name].exact for name in lists.names):  # also boxes without an area, which overlap with none
        return {}
    ours, theirs = _pairs(given, reference, lists), _pairs(known, reference, lists)
    enough = ours.missed <= (1 - compare.AGREEMENT_FLOOR) * ours.objects
    if not enough or ours.missed > compare.XNNPACK_FACTOR * theirs.missed:
        return {name: dataclasses.replace(places[name], passed=False) for name in lists.names}
    apart = places[lists.count].max_abs
    found = {lists.count: dataclasses.replace(places[lists.count], tolerance=apart, beyond=0, passed=True)}
    for name in (lists.boxes, lists.classes, lists.scores):
        full = _range(reference, name, lists)
        a, b = ours.values(given, reference, name)
        usual = float(np.abs(np.subtract(*theirs.values(known, reference, name))).max(initial=0))
        tolerance = max(compare.FLOAT_TOLERANCE * full, compare.XNNPACK_FACTOR * usual)
        tolerance = min(tolerance, (compare.FLOAT_CEILING if floats else compare.JUMP) * full)
        apart = float(np.abs(a - b).max(initial=0))
        close = not b.size or compare.alike(a, b, compare.FLOAT_TOLERANCE * full)  # there may be no objects
        found[name] = dataclasses.replace(
            places[name],
            max_abs=apart,
            range=full,
            relative=apart / full,
            cosine=compare.cosine(a, b),
            tolerance=tolerance,
            beyond=int(np.count_nonzero(np.abs(a - b) > tolerance)),
            passed=apart <= tolerance and close,
            size=b.size,
        )
    return found


def _range(of: Arrays, name: str, lists: Lists) -> float:
    """Of an output's values, and zero; what lies behind the count is none of them."""
    counted = [values[:n] for values, n in zip(of[name], _counts(of, lists), strict=True)]
    values = np.concatenate([each.astype(np.float64).ravel() for each in counted])
    return float(values.max(initial=0) - values.min(initial=0)) or 1.0


@dataclass(frozen=True)
class _Pairs:
    """found, of: (sample, place) of each object that both have, in the one list and in the other. objects: how many
    both lists have together. missed: those of them that are in one alone."""

    found: Array
    of: Array
    objects: int
    missed: int

    def values(self, found: Arrays, of: Arrays, name: str) -> tuple[Array, Array]:
        """Of an output, of these objects: float64 [objects] or [objects, 4]."""
        a, b = (np.asarray(arrays[name], np.float64) for arrays in (found, of))
        return a[tuple(self.found.T)], b[tuple(self.of.T)]


def _pairs(found: Arrays, of: Arrays, lists: Lists) -> _Pairs:
    counts = _counts(found, lists), _counts(of, lists)
    pairs: list[tuple[int, int, int]] = []
    for sample, (n, m) in enumerate(zip(*counts, strict=True)):
        same = found[lists.classes][sample, :n, None] == of[lists.classes][sample, None, :m]
        overlap = np.where(same, _overlap(found[lists.boxes][sample, :n], of[lists.boxes][sample, :m]), 0)
        for place in range(m):  # the best scores first
            best = int(overlap[:, place].argmax()) if n else 0
            if n and overlap[best, place] >= _OVERLAP:
                pairs.append((sample, best, place))
                overlap[best] = 0
    table = np.array(pairs, int).reshape(-1, 3)
    objects = int(counts[0].sum() + counts[1].sum())
    return _Pairs(table[:, [0, 1]], table[:, [0, 2]], objects, objects - 2 * len(pairs))


def _counts(arrays: Arrays, lists: Lists) -> Array:
    found: Array = np.rint(arrays[lists.count]).astype(int).ravel()
    return found


def _overlap(a: Array, b: Array) -> Array:
    """Intersection over union: [n, 4] and [m, 4] -> [n, m]."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = sides.clip(min=0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).clip(min=0).prod(axis=-1) for box in (a, b)]
    union = areas[0] + areas[1] - both
    found: Array = np.divide(both, union, out=np.zeros_like(union), where=union > 0)
    return found
