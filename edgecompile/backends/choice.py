"""Which backends a build tries: those that were asked for, or the target's, and which of these it can do without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecompile.backends import BACKENDS
from edgecompile.errors import MissingDependencyError, TargetError, perhaps
from edgecompile.target import Target


@dataclass(frozen=True)
class Chosen:
    """Backends: those to try, which of them the target would only like to have, and {backend: why} of the latter that
    can't be used."""

    names: tuple[str, ...]
    optional: frozenset[str]
    left_out: Mapping[str, str]


def choose(target: Target, asked: Sequence[str], without: Sequence[str], *, board: bool) -> Chosen:
    """asked: by --backends, empty for the target's own, less `without`. board: whether one is named.

    MissingDependencyError for one that has to be there and isn't, TargetError where none is left.
    """
    for name in (*asked, *without):
        if name not in BACKENDS:
            raise MissingDependencyError(f"unknown backend {name!r}", hint=perhaps(name, BACKENDS))
    own = [name for name in (*target.backends, *target.if_installed) if name not in without]
    chosen, left_out = [], {}
    for name in asked or own:
        if name not in BACKENDS:
            raise TargetError(f"target {target.id}: unknown backend {name!r}", hint=perhaps(name, BACKENDS))
        reason = BACKENDS[name].unavailable_reason(target)
        if reason is None and board and BACKENDS[name].here_alone:
            reason = f"{name} is measured on this machine alone so far: leave it out of --backends, or --on"
        if reason is None:
            chosen.append(name)
        elif asked or name in target.backends:
            raise MissingDependencyError(f"backend {name!r} can't be used: {reason}")
        else:
            left_out[name] = reason
    if not chosen:
        raise TargetError(
            f"no backend of target {target.id} is left", hint="see `edgecompile doctor`, or take fewer with --without"
        )
    if not board and all(BACKENDS[name].on_board for name in chosen):
        raise TargetError(
            f"{', '.join(chosen)}: its engine is built on the board, and none is named",
            hint="--on ssh://USER@BOARD, or --backends litert beside it: the graph is made and checked here",
        )
    optional = frozenset() if asked else frozenset(target.if_installed)
    return Chosen(tuple(chosen), optional, left_out)
