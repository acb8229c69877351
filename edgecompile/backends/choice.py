"""Which backends a build tries: those that were asked for, or the target's, and which of these it can do without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecompile.backends import BACKENDS
from edgecompile.devices.base import Device
from edgecompile.errors import MissingDependencyError, ProvisioningError, TargetError, perhaps
from edgecompile.ondevice.runner import PACKAGES
from edgecompile.target import Target


@dataclass(frozen=True)
class Chosen:
    """Backends: those to try, which of them the target would only like to have, and {backend: why} of the latter that
    can't be used."""

    names: tuple[str, ...]
    optional: frozenset[str]
    left_out: Mapping[str, str]


def choose(target: Target, asked: Sequence[str], without: Sequence[str], board: Device | None) -> Chosen:
    """asked: by --backends, empty for the target's own, less `without`. board: None where none is named.

    For one that has to be there and isn't, MissingDependencyError, or ProvisioningError where the board has none and
    can't be brought one; TargetError where none is left.
    """
    for name in (*asked, *without):
        if name not in BACKENDS:
            raise MissingDependencyError(f"unknown backend {name!r}", hint=perhaps(name, BACKENDS))
    own = [name for name in (*target.backends, *target.if_installed) if name not in without]
    chosen, left_out = [], {}
    for name in asked or own:
        if name not in BACKENDS:
            raise TargetError(f"target {target.id}: unknown backend {name!r}", hint=perhaps(name, BACKENDS))
        needed = bool(asked) or name in target.backends
        reason = _reason(name, target, board, needed=needed)
        if reason is None:
            chosen.append(name)
        elif needed:
            raise MissingDependencyError(f"backend {name!r} can't be used: {reason}")
        else:
            left_out[name] = reason
    if not chosen:
        raise TargetError(
            f"no backend of target {target.id} is left", hint="see `edgecompile doctor`, or take fewer with --without"
        )
    if board is None and all(BACKENDS[name].on_board for name in chosen):
        raise TargetError(
            f"{', '.join(chosen)}: its engine is built on the board, and none is named",
            hint="--on ssh://USER@BOARD, or --backends litert beside it: the graph is made and checked here",
        )
    optional = frozenset() if asked else frozenset(target.if_installed)
    return Chosen(tuple(chosen), optional, left_out)


def _reason(name: str, target: Target, board: Device | None, *, needed: bool) -> str | None:
    """Why a backend can't be used, here or on the board; None where it can. ProvisioningError where it is `needed`."""
    if name in PACKAGES and board is None and not target.local:
        return "it is measured on a board (--on), or on this machine (--target host)"
    reason = BACKENDS[name].unavailable_reason(target)
    if reason is None and name in PACKAGES and board is not None:
        try:
            board.engine(name)
        except ProvisioningError as problem:
            if needed:
                raise
            return problem.message
    return reason
