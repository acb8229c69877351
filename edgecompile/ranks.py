"""Which rank each layer of a low-rank factorisation gets: numbers only, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgecompile.costs import Cost
from edgecompile.errors import CompressionGateError

MACS, PARAMETERS = "macs", "parameters"
BUDGETS = (MACS, PARAMETERS)

_ROUNDING = 1e-12  # of the energy: the last bits of a sum


@dataclass(frozen=True)
class Option:
    """One way to factorise a layer. `singular`: its singular values (or the strength of its responses' components),
    descending, not all zero; `unit`: what a rank of 1 costs."""

    scheme: str
    singular: npt.NDArray[np.float64]
    unit: Cost

    @property
    def full_rank(self) -> int:
        return len(self.singular)

    def cost(self, rank: int) -> Cost:
        return Cost(rank * self.unit.macs, rank * self.unit.parameters)

    def kept(self) -> npt.NDArray[np.float64]:
        """[full rank]: the share of the energy (the squared singular values) that the first 1, 2, ... hold."""
        energy = np.cumsum(self.singular**2)
        share: npt.NDArray[np.float64] = energy / energy[-1]
        return share


@dataclass(frozen=True)
class Candidate:
    """A layer that can be factorised. `before`: what its kernel costs; its bias stays and is left out."""

    name: str
    before: Cost
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Choice:
    """A layer, and how it is to be factorised. `energy`: the share of its kernel's energy that the rank keeps;
    `before` and `after`: what its kernel, or the two, cost."""

    name: str
    scheme: str
    rank: int
    full_rank: int
    energy: float
    before: Cost
    after: Cost


def by_energy(candidates: Sequence[Candidate], energy: float, round_to: int) -> tuple[list[Choice], dict[str, str]]:
    """(choices, why each other candidate stays): the smallest rank that keeps the share `energy` of each kernel, up to
    a multiple of `round_to`; of a layer's options the one with the fewest MACs.

    Errors: CompressionGateError where no layer becomes cheaper by it, with the energy at which one would.
    """
    choices: list[Choice] = []
    left: dict[str, str] = {}
    for candidate in candidates:
        options = []
        for option in candidate.options:
            rank = int(np.searchsorted(option.kept(), energy - _ROUNDING)) + 1
            rank = -(-rank // round_to) * round_to
            if rank in _cheaper(candidate, option, MACS, round_to):
                options.append(_choice(candidate, option, rank))
        if options:
            choices.append(min(options, key=lambda c: (c.after.macs, c.after.parameters)))
        else:
            left[candidate.name] = f"no cheaper at energy {energy:g}"
    if not choices:
        raise _nothing(candidates, f"at energy {energy:g}", round_to)
    return choices, left


def by_budget(
    candidates: Sequence[Candidate], total: Cost, measure: str, keep: float, round_to: int
) -> tuple[list[Choice], dict[str, str]]:
    """(choices, why each other candidate stays): ranks with which the model's MACs or parameters (`measure`) are at
    most the share `keep` of `total`, losing as little energy as can be, in shares of each layer's own, summed.

    A multiple-choice knapsack: each layer is one of its ranks or stays whole. Greedy over the convex hulls of the
    layers' options, energy lost by cost saved (Sinha and Zoltners, "The Multiple-Choice Knapsack Problem", 1979,
    section 2), which is one threshold for all layers; what the last step saved too much buys ranks back.

    Errors: CompressionGateError where no layer can become cheaper, or the budget can't be reached, with the share
    that can.
    """
    points = [_points(candidate, measure, round_to) for candidate in candidates]
    if all(len(p) == 1 for p in points):
        raise _nothing(candidates, "at any rank", round_to)
    whole = _of(total, measure)
    target = keep * whole
    hulls = [_hull(p) for p in points]
    steps = sorted(
        (_slope(hull[step - 1], hull[step]), index, step)
        for index, hull in enumerate(hulls)
        for step in range(1, len(hull))
    )
    current = [hull[0] for hull in hulls]
    spent = whole
    for _, index, step in steps:
        if spent <= target:
            break
        spent += hulls[index][step].cost - current[index].cost
        current[index] = hulls[index][step]
    if spent > target:
        raise CompressionGateError(
            f"{keep:.1%} of the model's {measure} can't be reached by factorisation: with every layer at its smallest "
            f"rank {spent / whole:.1%} are left",
            hint='raise keep in the recipe, lower round_to, or take first_last = "factorize"',
        )
    _buy_back(points, current, target - spent)
    chosen = [_choice(c, p.option, p.rank) for c, p in zip(candidates, current, strict=True) if p.option]
    left = {c.name: "whole within the budget" for c, p in zip(candidates, current, strict=True) if not p.option}
    return chosen, left


@dataclass(frozen=True)
class _Point:
    """What a layer costs in the budget's measure and loses of its energy, whole (no option) or at a rank."""

    cost: int
    loss: float
    option: Option | None = None
    rank: int = 0


def _points(candidate: Candidate, measure: str, round_to: int) -> list[_Point]:
    points = [_Point(_of(candidate.before, measure), 0.0)]
    for option in candidate.options:
        lost = 1 - option.kept()
        points += [
            _Point(_of(option.cost(rank), measure), max(0.0, float(lost[rank - 1])), option, rank)
            for rank in _cheaper(candidate, option, measure, round_to)
        ]
    return points


def _hull(points: Sequence[_Point]) -> list[_Point]:
    """The points, from the whole layer to the cheapest, of which none is above the line between two others."""
    hull: list[_Point] = []
    for point in sorted(points, key=lambda p: (-p.cost, p.loss)):
        if hull and point.cost == hull[-1].cost:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(before: _Point, after: _Point) -> float:
    """Energy lost by cost saved."""
    return (after.loss - before.loss) / (before.cost - after.cost)


def _buy_back(points: Sequence[Sequence[_Point]], current: list[_Point], slack: float) -> None:
    """Spend `slack` on what regains the most energy by cost, in place."""
    while True:
        offers = [
            (-_slope(point, now), index, point)
            for index, now in enumerate(current)
            for point in points[index]
            if now.cost < point.cost <= now.cost + slack and point.loss < now.loss
        ]
        if not offers:
            return
        _, index, point = min(offers, key=lambda offer: offer[:2])
        slack -= point.cost - current[index].cost
        current[index] = point


def _cheaper(candidate: Candidate, option: Option, measure: str, round_to: int) -> range:
    """The multiples of `round_to` at which the option costs less than the layer in `measure`, and not more in the
    other: where a stride follows the first half, fewer parameters can be more MACs."""
    other = PARAMETERS if measure == MACS else MACS
    largest = min(
        option.full_rank,
        (_of(candidate.before, measure) - 1) // _of(option.unit, measure),
        _of(candidate.before, other) // _of(option.unit, other),
    )
    return range(round_to, largest + 1, round_to)


def _choice(candidate: Candidate, option: Option, rank: int) -> Choice:
    energy = float(option.kept()[rank - 1])
    return Choice(candidate.name, option.scheme, rank, option.full_rank, energy, candidate.before, option.cost(rank))


def _of(cost: Cost, measure: str) -> int:
    return cost.macs if measure == MACS else cost.parameters


def _nothing(candidates: Sequence[Candidate], where: str, round_to: int) -> CompressionGateError:
    """The error, with the energy that the layer with the least to lose keeps where it is just cheaper."""
    reachable = [
        (float(option.kept()[ranks[-1] - 1]), candidate.name)
        for candidate in candidates
        for option in candidate.options
        if (ranks := _cheaper(candidate, option, MACS, round_to))
    ]
    if not reachable:
        return CompressionGateError(
            f"there is no layer that low rank makes cheaper: {len(candidates)} could be factorised, none saves at "
            f"rank {round_to}",
            hint='lower round_to, take first_last = "factorize", or a recipe without factorisation',
        )
    energy, name = max(reachable)
    return CompressionGateError(
        f"low rank makes no layer cheaper {where}; layer {name!r} becomes so where it keeps {energy:.4f}",
        hint=f"set energy to {energy - 5e-5:.4f} or less in the recipe, or give a budget",
    )
