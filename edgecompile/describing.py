"""What only describes a bundle (layer errors, what each step bought, its page) is tried, and never loses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from edgecompile.errors import EdgecompileError

T = TypeVar("T")


@dataclass(frozen=True)
class Describing:
    """left_out: {what: why}, of the descriptions that could not be made. say: how they are told at once."""

    say: Callable[[str], None]
    left_out: dict[str, str] = field(default_factory=dict)

    def attempt(self, what: str, make: Callable[[], T], instead: T) -> T:
        """What `make` gives, or `instead` where it fails, for whichever reason: the bundle is as good without."""
        try:
            return make()
        except EdgecompileError as problem:
            reason = problem.message
        except Exception as problem:  # a fault of our own, too, is no reason to lose hours of training
            reason = f"{type(problem).__name__}: {problem}"
        self.left_out[what] = reason
        self.say(f"{what} left out of the report: {reason}")
        return instead
