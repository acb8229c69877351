"""Which weights become zero: pure functions of how much each weight matters.

A kernel comes as [outputs, positions, inputs] (see kernels.py). What is zeroed together is a unit:

element: one weight.
1x16: 16 neighbouring inputs of one output, at one position: what one vector instruction on int8 multiplies.
4x4: 4 neighbouring outputs by 4 neighbouring inputs, at one position.
2:4: the two weights that matter least of 4 neighbouring inputs, at one position: Mishra et al., "Accelerating Sparse
    Deep Neural Networks" (2021), section 3. With all its units gone a kernel is half zeros, two in every group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ELEMENT, TWO_OF_FOUR = "element", "2:4"
# By structure: outputs and inputs that a group spans. Groups don't overlap and hold a unit each.
_GROUPS = {ELEMENT: (1, 1), "1x16": (1, 16), "4x4": (4, 4), TWO_OF_FOUR: (1, 4)}
STRUCTURES = tuple(_GROUPS)
LAYER, GLOBAL = "layer", "global"
SCOPES = (LAYER, GLOBAL)

_ROUNDING = 1e-9  # 0.07 * 100 is a little above 7

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def fits(shape: Sequence[int], structure: str) -> bool:
    """Whether whole groups cover a kernel of that shape, [outputs, positions, inputs]."""
    outputs, inputs = _GROUPS[structure]
    return shape[0] % outputs == 0 and shape[2] % inputs == 0


def keep_masks(
    saliencies: Sequence[Array], structure: str, sparsity: float, scope: str, least: float = 0.0
) -> list[Mask]:
    """True where a weight stays, one mask for each kernel's saliency [outputs, positions, inputs], float, any sign.

    sparsity: share of zeros, from 0 to 1: in each kernel for scope LAYER, over all of them for GLOBAL, where units
        of all kernels are compared by their mean saliency. Rounded up to whole units; equal units go in their order.
    least: GLOBAL leaves this share of each kernel's units, and at least one, those that matter most, whatever the
        threshold: a layer without any weight would cut the network in two. LAYER leaves one unit.
    For one set of saliencies, what is zero at some sparsity is zero at every higher one.
    """
    scores = [_unit_scores(saliency, structure) for saliency in saliencies]
    counts = promised_units([len(s) for s in scores], structure, sparsity, scope, least)
    if scope == LAYER:
        dropped = [_lowest(s, count) for s, count in zip(scores, counts, strict=True)]
    else:
        dropped = _lowest_of_all(scores, counts[0], least)
    return [_mask(saliency, structure, unit_goes) for saliency, unit_goes in zip(saliencies, dropped, strict=True)]


def promised_units(units: Sequence[int], structure: str, sparsity: float, scope: str, least: float = 0.0) -> list[int]:
    """How many units are zero at that sparsity: one number for each kernel for LAYER, one in all for GLOBAL."""
    kept = [_kept(n, structure, least) for n in units]
    if scope == GLOBAL:
        return [min(_up(_share(structure, sparsity) * sum(units)), sum(units) - sum(kept))]
    most = [n if structure == TWO_OF_FOUR else n - 1 for n in units]
    return [min(_up(_share(structure, sparsity) * n), limit) for n, limit in zip(units, most, strict=True)]


def zero_units(weights: Array, structure: str) -> tuple[int, int]:
    """(units that are zero, units) of a kernel [outputs, positions, inputs]. For 2:4: groups with two zeros or more."""
    zeros = np.sum(_groups(weights, structure) == 0, axis=1)
    enough = 2 if structure == TWO_OF_FOUR else math.prod(_GROUPS[structure])
    return int(np.sum(zeros >= enough)), len(zeros)


def _share(structure: str, sparsity: float) -> float:
    """The share of units that make this share of zeros: a unit of 2:4 is half of its group."""
    return 2 * sparsity if structure == TWO_OF_FOUR else sparsity


def _kept(units: int, structure: str, least: float) -> int:
    return 0 if structure == TWO_OF_FOUR else max(1, _up(least * units))


def _up(number: float) -> int:
    return math.ceil(number - _ROUNDING)


def _groups(kernel: Array, structure: str) -> Array:
    """[outputs, positions, inputs] -> [units, weights of a group]."""
    high, wide = _GROUPS[structure]
    outputs, positions, inputs = kernel.shape
    tiled = kernel.reshape(outputs // high, high, positions, inputs // wide, wide)
    groups: Array = tiled.transpose(0, 2, 3, 1, 4).reshape(-1, high * wide)
    return groups


def _ungroup(groups: Array, shape: Sequence[int], structure: str) -> Array:
    """The inverse of `_groups`."""
    high, wide = _GROUPS[structure]
    outputs, positions, inputs = shape
    tiled = groups.reshape(outputs // high, positions, inputs // wide, high, wide)
    kernel: Array = tiled.transpose(0, 3, 1, 2, 4).reshape(outputs, positions, inputs)
    return kernel


def _unit_scores(saliency: Array, structure: str) -> Array:
    groups = _groups(np.asarray(saliency, np.float64), structure)
    if structure == TWO_OF_FOUR:
        groups = np.sort(groups, axis=1)[:, :2]
    scores: Array = groups.mean(axis=1)
    return scores


def _lowest(scores: Array, count: int) -> Mask:
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(scores, kind="stable")[:count]] = True
    return chosen


def _lowest_of_all(scores: Sequence[Array], count: int, least: float) -> list[Mask]:
    """The `count` lowest units of all kernels, those that each kernel keeps left out."""
    ends = np.cumsum([len(s) for s in scores])[:-1]
    protected = [~_lowest(s, len(s) - _kept(len(s), ELEMENT, least)) for s in scores]
    ranked = np.where(np.concatenate(protected), np.inf, np.concatenate(list(scores)))
    return np.split(_lowest(ranked, count), ends)


def _mask(saliency: Array, structure: str, dropped: Mask) -> Mask:
    """dropped: [units]."""
    groups = _groups(saliency, structure)
    zero = np.repeat(dropped[:, None], groups.shape[1], axis=1)
    if structure == TWO_OF_FOUR:
        rank = np.argsort(np.argsort(groups, axis=1, kind="stable"), axis=1, kind="stable")
        zero &= rank < 2
    return ~_ungroup(zero, saliency.shape, structure)
