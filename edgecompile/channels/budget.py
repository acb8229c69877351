"""Which channels stay, so that a model's cost comes down to a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.channels.groups import Channels
from edgecompile.channels.importance import Scores
from edgecompile.costs import Cost, layer_costs
from edgecompile.errors import CompressionGateError

MACS, PARAMETERS = "macs", "parameters"
COSTS = (MACS, PARAMETERS)
PLAIN, PER_COST, PER_LATENCY = "importance", "importance-per-cost", "importance-per-latency"
RANKINGS = (PLAIN, PER_COST, PER_LATENCY)

Kept = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Limits:
    """round_to: a group that loses channels keeps a multiple of this. min_channels: least number a group keeps.
    max_share: largest share a group may lose. least: by group, more to keep than these say."""

    round_to: int = 1
    min_channels: int = 1
    max_share: float = 1.0
    least: Mapping[str, int] = field(default_factory=dict)

    def floor(self, group: str, channels: int) -> int:
        """The least number of `channels` that the group keeps."""
        wanted = max(self.min_channels, self.least.get(group, 1), int(np.ceil(channels * (1 - self.max_share) - 1e-9)))
        return min(channels, -(-wanted // self.round_to) * self.round_to)

    def fewer(self, now: int) -> int:
        """The next number below `now` that suits."""
        return (now - 1) // self.round_to * self.round_to


class CostModel:
    """MACs or parameters of a model as a function of its groups' widths, without building it.

    The size of a weight is a product of what isn't sliced and of its sliced axes, each of which is a fixed number
    plus a multiple of each group's width. A kernel meets as many positions as the layer's MACs say.
    """

    def __init__(self, channels: Channels, of: str) -> None:
        index = {int(s): g for g, group in enumerate(channels.groups) for s in group.sets}
        self.widths: npt.NDArray[np.int64] = np.array([len(g.sets) for g in channels.groups], np.int64)
        rows: list[tuple[int, list[int]]] = []  # (factor, axes)
        axes: list[npt.NDArray[np.int64]] = [np.eye(1, len(channels.groups) + 1, dtype=np.int64)[0]]  # the size 1
        costs = layer_costs(channels.model)
        for name, parts in channels.slices.items():
            layer = channels.model.get_layer(name)
            kernels = {p.position for p in parts if p.rule.kernel}
            inside = sum(int(np.prod(layer.weights[i].shape)) for i in kernels)
            positions = costs[name].macs // inside if inside else 0
            for position in kernels if of == MACS else range(len(layer.weights)):
                sliced = [p for p in parts if p.position == position]
                shape = [int(d) for d in layer.weights[position].shape]
                factor = positions if of == MACS else 1
                factor *= int(np.prod([d for axis, d in enumerate(shape) if axis not in {p.axis for p in sliced}]))
                numbers = []
                for part in sliced:
                    sizes = np.zeros(len(channels.groups) + 1, np.int64)
                    for number in part.sets.tolist():
                        sizes[index[number] + 1 if number in index else 0] += 1
                    # of a group's channels each occurs equally often
                    sizes[1:] //= np.maximum(self.widths, 1)
                    numbers.append(len(axes))
                    axes.append(sizes)
                rows.append((factor, numbers))
        known = sum((costs[name] for name in channels.slices), Cost(0, 0))
        total = sum(costs.values(), Cost(0, 0))
        self._fixed = total.macs - known.macs if of == MACS else total.parameters - known.parameters
        self._factors = np.array([factor for factor, _ in rows], np.int64)
        self._axes = np.array(axes)
        self._first, self._second = (np.array([(*n, 0, 0)[i] for _, n in rows], np.int64) for i in (0, 1))

    def __call__(self, widths: npt.NDArray[np.int64]) -> int:
        """The cost with these widths, in the order of the groups."""
        sizes = self._axes[:, 0] + self._axes[:, 1:] @ widths
        return self._fixed + int(np.sum(self._factors * sizes[self._first] * sizes[self._second]))


def plan(
    channels: Channels,
    importance: Scores,
    target: int,
    *,
    of: str = MACS,
    limits: Limits,
    ranking: str = PLAIN,
    latency: Mapping[str, float] | None = None,
) -> Kept:
    """By group, the indices of the channels that stay, so that the model costs `target` or less.

    Greedy: the least important channels of some group go (as many as `round_to` asks), until the budget is met.
    Groups compete by the mean importance of what would go, or, by `ranking`, by its sum divided by what it saves: of
    the cost, or of the time, which `latency` gives for a channel of each group (channels/latency.py). Groups with
    scores that are NaN stay whole. Pure: same arguments, same result.

    Errors: CompressionGateError where the limits, or the channels that must stay, don't let it be met.
    """
    cost = CostModel(channels, of)
    names = [group.name for group in channels.groups]
    # Least important first; of equal ones the later goes first.
    order = [_order(importance[group.sets]) for group in channels.groups]
    sums = [
        np.concatenate([[0.0], np.cumsum(importance[g.sets][o])]) for g, o in zip(channels.groups, order, strict=True)
    ]
    full = cost.widths
    floors = [limits.floor(name, int(n)) for name, n in zip(names, full, strict=True)]
    widths = full.copy()
    now = cost(widths)
    while now > target:
        best: tuple[float, int, int, int] | None = None
        for g in range(len(names)):
            fewer = limits.fewer(int(widths[g]))
            if fewer < floors[g] or np.isnan(sums[g][-1]):
                continue
            trial = widths.copy()
            trial[g] = fewer
            costs = cost(trial)
            lost = float(sums[g][full[g] - fewer] - sums[g][full[g] - widths[g]])
            share = (now - costs) / now
            if share <= 0:
                continue
            gone = float(widths[g] - fewer)
            if ranking == PER_LATENCY:
                assert latency is not None, "channels ranked by latency need it measured"
                gone *= latency[names[g]]
            score = lost / share if ranking == PER_COST else lost / gone
            if best is None or score < best[0]:
                best = (score, g, fewer, costs)
        if best is None:
            raise _unmet(channels, importance, cost(full), now, target, of, limits)
        _, g, fewer, now = best
        widths[g] = fewer
    return {
        name: tuple(sorted(o[n - width :].tolist()))
        for name, o, n, width in zip(names, order, full.tolist(), widths.tolist(), strict=True)
    }


def keep_widths(channels: Channels, importance: Scores, widths: Mapping[str, int]) -> Kept:
    """By group, the indices of the `widths[group]` most important channels."""
    kept = {}
    for group in channels.groups:
        order = _order(importance[group.sets])
        kept[group.name] = tuple(sorted(order[len(order) - widths[group.name] :].tolist()))
    return kept


def cost_of(model: Any, of: str) -> int:
    """MACs for one sample, or parameters, of a flat tf-keras model."""
    total = sum(layer_costs(model).values(), Cost(0, 0))
    return total.macs if of == MACS else total.parameters


def _order(importance: Scores) -> npt.NDArray[np.int64]:
    n = len(importance)
    return np.lexsort((-np.arange(n), importance))


def _unmet(
    channels: Channels, importance: Scores, full: int, least: int, target: int, of: str, limits: Limits
) -> CompressionGateError:
    reasons = [f"{name}: {reason}" for name, reason in channels.stay.items()]
    silent = [group.name for group in channels.groups if np.isnan(importance[group.sets]).any()]
    if silent:
        reasons.append(f"no importance by this criterion: {', '.join(silent)}")
    what = "MACs" if of == MACS else "parameters"
    pinned = f"; channels that must stay: {'; '.join(reasons)}" if reasons else ""
    return CompressionGateError(
        f"pruning channels promised {target:,} of {full:,} {what} ({target / full:.0%}); the least it can reach is "
        f"{least:,} ({least / full:.0%}){pinned}",
        hint=f"raise keep, or loosen round_to (now {limits.round_to}), min_channels (now {limits.min_channels}) or "
        f"max_share (now {limits.max_share:g}) in the recipe",
    )
