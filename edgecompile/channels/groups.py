"""Dependency groups: sets of channels of one model that can only be removed together, and where they occur.

The notion is that of Fang et al., "DepGraph: Towards Any Structural Pruning" (2023), section 3; here it comes from a
union-find over channels (coupling.py) and so holds for offsets of concatenations and for flattened channels too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.channels.coupling import Coupling, Ids, Shape, Use, calls
from edgecompile.channels.rules import INPUT, OUTPUT, Rule, Slice, rule_of


@dataclass(frozen=True)
class Group:
    """Channels that are interchangeable: all occur in the same tensors, equally often.

    name: of the first layer that makes them. sets: one number a channel, in the order of that layer's channels:
    what is coupled with it, here and elsewhere, has the same number.
    """

    name: str
    sets: Ids


@dataclass(frozen=True)
class Sliced:
    """Weight `position` of a layer's `weights` along `axis`: `sets` has the number of the set at each index."""

    position: int
    axis: int
    sets: Ids
    rule: Slice


@dataclass(frozen=True)
class Channels:
    """All that is known of a model's channels.

    count: numbers of sets are below it. tensors: by id() of a Keras tensor, the set at each index of its last axis.
    slices: by layer name. widths: by name of each layer that makes channels (convolutions, dense layers), how many.
    stay: by layer name, why its channels, or some of them, can't be removed. unknown: layers without a rule.
    """

    model: Any
    groups: tuple[Group, ...]
    count: int
    tensors: Mapping[int, Ids]
    slices: Mapping[str, tuple[Sliced, ...]]
    stay: Mapping[str, str]
    unknown: tuple[str, ...]

    def keep(self, kept: Mapping[str, Sequence[int]]) -> npt.NDArray[np.bool_]:
        """[count] bool, which sets stay, for the indices kept of each group; all of a group that isn't named.

        ValueError for an unknown group, a channel it doesn't have, or a group without any channel left.
        """
        mask = np.ones(self.count, bool)
        groups = {group.name: group for group in self.groups}
        for name, indices in kept.items():
            if name not in groups:
                raise ValueError(f"no group is called {name!r}, known: {', '.join(groups)}")
            sets = groups[name].sets
            chosen = np.asarray(indices, np.int64)
            if not chosen.size or chosen.min() < 0 or chosen.max() >= len(sets):
                raise ValueError(f"group {name!r} has {len(sets)} channels, received {list(indices)}")
            mask[sets] = False
            mask[sets[chosen]] = True
        return mask

    def widths(self, keep: npt.NDArray[np.bool_] | None = None) -> dict[str, int]:
        """Output channels by layer, of the layers that make channels; `keep` as `keep()` gives it, else all stay."""
        found = {}
        for name, slices in self.slices.items():
            made = next((s for s in slices if s.rule.kernel and s.rule.of == OUTPUT), None)
            if made is not None:
                found[name] = len(made.sets) if keep is None else int(keep[made.sets].sum())
        return found


def dependency_groups(model: Any) -> Channels:
    """Analyse a flat functional tf-keras model. The channels of its inputs and outputs, and those that reach a layer
    without a rule, are in no group."""
    coupling = Coupling()
    walk = _Walk(coupling)
    walk.opaque((), model.inputs, "input of the model")
    for call in calls(model):
        walk.call(call.layer, call.inputs, call.outputs, call.simple)
    for tensor in model.outputs:
        coupling.pin(walk.ids[id(tensor)], "output of the model")
    return _channels(model, coupling, walk)


class _Walk:
    """Tensor by tensor through the graph."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.ids: dict[int, Ids] = {}
        self.made_by: dict[int, str] = {}  # tensor -> layer, in the order of the graph
        self.first: dict[str, tuple[Ids, Ids]] = {}  # a layer's channels at its first use: (input, output)
        self.layers: dict[str, tuple[Any, Rule]] = {}
        self.unknown: dict[str, str] = {}
        self.whole: set[str] = set()  # layers with a use that nothing is known of: their weights stay as they are

    def call(self, layer: Any, inputs: Sequence[Any], outputs: Sequence[Any], simple: bool) -> None:
        rule = rule_of(layer)
        shapes = [_shape(t) for t in (*inputs, *outputs)]
        related = None
        if rule is not None and simple and inputs and all(len(s) > 1 and s[-1] is not None for s in shapes):
            use = Use(layer, tuple(self.ids[id(t)] for t in inputs), tuple(shapes[:-1]), shapes[-1], simple)
            related = rule.relate(self.coupling, use)
        if rule is None or related is None:
            kind = getattr(layer, "symbol", type(layer).__name__)
            self.unknown.setdefault(layer.name, f"{layer.name} ({kind})")
            reason = f"layer {layer.name!r} ({kind}) can't be pruned around"
            self.opaque(inputs, outputs, reason)
            self.whole.add(layer.name)
            for ids in self.first.get(layer.name, ()):
                self.coupling.pin(ids, reason)
            return
        taken = self.ids[id(inputs[0])]
        if layer.weights or rule.config is not None:
            self._share(layer, taken, related)
        self.layers[layer.name] = (layer, rule)
        self._give(outputs[0], layer.name, related)

    def _share(self, layer: Any, taken: Ids, made: Ids) -> None:
        """A layer that is used again has the same weights: the channels of its uses go together."""
        if layer.name in self.whole:
            for ids in (taken, made):
                self.coupling.pin(ids, f"another use of layer {layer.name!r} can't be pruned around")
        if layer.name not in self.first:
            self.first[layer.name] = (taken, made)
            return
        for before, now in zip(self.first[layer.name], (taken, made), strict=True):
            if len(before) == len(now):
                self.coupling.couple(before, now)
            else:  # only a layer that fits several widths: its settings must not change
                for ids in (before, now):
                    self.coupling.pin(ids, f"layer {layer.name!r} is used with several widths")

    def opaque(self, inputs: Sequence[Any], outputs: Sequence[Any], reason: str) -> None:
        for tensor in inputs:
            self.coupling.pin(self.ids[id(tensor)], reason)
        for tensor in outputs:
            shape = _shape(tensor)
            ids = self.coupling.fresh(shape[-1] or 0 if len(shape) > 1 else 0)
            self.coupling.pin(ids, reason)
            self._give(tensor, "", ids)

    def _give(self, tensor: Any, layer: str, ids: Ids) -> None:
        self.ids[id(tensor)] = ids
        self.made_by[id(tensor)] = layer


def _shape(tensor: Any) -> Shape:
    return tuple(tensor.shape)


def _channels(model: Any, coupling: Coupling, walk: _Walk) -> Channels:
    """Number the sets that the walk left, and gather those that occur in the same places."""
    compact: dict[int, int] = {}
    tensors = {}
    for tensor, ids in walk.ids.items():
        roots = coupling.roots(ids).tolist()
        tensors[tensor] = np.array([compact.setdefault(root, len(compact)) for root in roots], np.int64)
    numbers = np.array([compact[r] for r in coupling.roots(np.arange(coupling.size)).tolist()], np.int64)
    reasons: dict[int, str] = {}
    for ids, reason in coupling.pinned:
        for number in numbers[ids].tolist():
            reasons.setdefault(number, reason)
    slices = {
        name: tuple(_sliced(layer, part, numbers[walk.first[name][0 if part.of == INPUT else 1]])
                    for part in rule.slices(layer))
        for name, (layer, rule) in walk.layers.items() if layer.weights
    }  # fmt: skip
    places: dict[int, list[tuple[int, int]]] = {}
    names: dict[int, str] = {}
    for place, (tensor, sets) in enumerate(tensors.items()):
        for number, times in zip(*np.unique(sets, return_counts=True), strict=True):
            places.setdefault(int(number), []).append((place, int(times)))
            names.setdefault(int(number), walk.made_by[tensor])
    gathered: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for number in sorted(places):
        if number not in reasons:
            gathered.setdefault(tuple(places[number]), []).append(number)
    stay = {
        name: next(reasons[n] for n in part.sets.tolist() if n in reasons)
        for name, parts in slices.items()
        for part in parts
        if part.rule.kernel and part.rule.of == OUTPUT and any(n in reasons for n in part.sets.tolist())
    }
    groups = _named([(names[sets[0]], np.array(sets, np.int64)) for sets in gathered.values()])
    return Channels(model, groups, len(compact), tensors, slices, stay, tuple(walk.unknown.values()))


def _sliced(layer: Any, part: Slice, sets: Ids) -> Sliced:
    wanted = getattr(layer, part.weight)
    position = next(i for i, weight in enumerate(layer.weights) if weight is wanted)
    return Sliced(position, part.axis, np.repeat(sets, part.repeat), part)


def _named(found: Sequence[tuple[str, Ids]]) -> tuple[Group, ...]:
    """A layer may make channels of several groups (one part is added to this, another to that): they're numbered."""
    seen: dict[str, int] = {}
    groups = []
    for name, sets in found:
        seen[name] = seen.get(name, 0) + 1
        groups.append(Group(name if seen[name] == 1 else f"{name}:{seen[name]}", sets))
    return tuple(groups)
