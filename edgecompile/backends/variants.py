"""Variants: the code for each of several sets of instructions in one library. A CPU takes its best, and each that a
machine at hand runs is checked."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompile.backends import BACKENDS
from edgecompile.backends.base import VARIANTS, Candidate
from edgecompile.devices.base import Device
from edgecompile.ondevice import runner


@dataclass(frozen=True)
class Variants:
    """By a candidate's id, then by the variant's name. checked: candidates of their own that run it. unchecked: why
    no machine at hand does. Candidates without variants are in neither."""

    checked: Mapping[str, Mapping[str, Candidate]] = field(default_factory=dict)
    unchecked: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not any(self.unchecked.values())

    @property
    def candidates(self) -> list[Candidate]:
        return [each for of in self.checked.values() for each in of.values()]

    def told(self) -> dict[str, str]:
        """{candidate: what was checked of it, and what not}"""
        found = {}
        for name, checked in self.checked.items():
            parts = [f"checked {', '.join(checked)}"] if checked else []
            parts += [f"not checked: {variant} ({why})" for variant, why in self.unchecked[name].items()]
            found[name] = ", ".join(parts)
        return found

    def verdicts(self, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """{candidate: {variant: its verdicts}}, of {id of a candidate, or of a variant's: verdicts}."""
        return {
            name: {variant: found[each.id] for variant, each in checked.items() if each.id in found}
            for name, checked in self.checked.items()
        }


def variants(candidates: Sequence[Candidate], board: Device | None) -> Variants:
    """board: None where there is none."""
    checked: dict[str, dict[str, Candidate]] = {}
    unchecked: dict[str, dict[str, str]] = {}
    for candidate in candidates:
        if VARIANTS not in candidate.config:
            continue
        checked[candidate.id], unchecked[candidate.id] = {}, {}
        for name, needs in candidate.config[VARIANTS].items():
            config = {key: value for key, value in candidate.config.items() if key != VARIANTS}
            config |= {"variant": name, "needs": needs}
            one = dataclasses.replace(candidate, id=f"{candidate.id} {name}", config=config)
            reasons = _reasons(one, board)
            if all(reasons):
                unchecked[candidate.id][name] = ", ".join(reasons)
            else:
                checked[candidate.id][name] = one
    return Variants(checked, unchecked)


def _reasons(one: Candidate, board: Device | None) -> list[str]:
    """By machine why it doesn't run it; empty for one that does."""
    found = [""]
    if not BACKENDS[one.backend].runs_here(one):
        found = [_lacks("this machine", platform.machine(), runner.cpu_flags(Path("/proc")), one, one.config["needs"])]
    if board is not None:
        facts = board.facts()
        # A board tells of these alone; where one of the others is missing, the library says so.
        needs = [name for name in one.config["needs"] if name in runner.FEATURES]
        found.append(_lacks(facts.name, facts.details["machine"], facts.details["features"], one, needs))
    return found


def _lacks(where: str, machine: str, features: Collection[str], one: Candidate, needs: Sequence[str]) -> str:
    if machine != one.config["arch"]:
        return f"{where} is {machine}"
    missing = [name for name in needs if name not in features]
    return f"{where} lacks {', '.join(missing)}" if missing else ""
