"""`[[steps.overrides]]` of a recipe: another scheme, or none, for some operators of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgecompile.errors import RecipeError, perhaps
from edgecompile.quantization.operators import Place, applies, possible
from edgecompile.quantization.schemes import FLOAT, SCHEMES

_OPERATOR = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Override:
    """ops: an operator's name ("CONV_2D"), else a regular expression that is searched in the names of the tensors
    that operators of the float .tflite make ("scores/MatMul"; `edgecompile inspect` lists them).
    scheme: "float", or a scheme as for the whole model. RecipeError for anything else.
    """

    ops: str
    scheme: str

    def __post_init__(self) -> None:
        known = (FLOAT, *SCHEMES)
        if self.scheme not in known:
            raise RecipeError(f"overrides: unknown scheme {self.scheme!r}", hint=perhaps(self.scheme, known))
        if not self.ops:
            raise RecipeError(
                "overrides: ops is empty, expected an operator's name or a regular expression",
                hint="for all operators, give the step's own scheme",
            )
        try:
            re.compile(self.ops)
        except re.error as problem:
            raise RecipeError(
                f"overrides: ops {self.ops!r} is no regular expression: {problem}",
                hint="put a backslash before characters that stand for themselves",
            ) from None

    @property
    def by_operator(self) -> bool:
        return _OPERATOR.fullmatch(self.ops) is not None

    def matches(self, place: Place) -> bool:
        return place.name == self.ops if self.by_operator else re.search(self.ops, place.scope) is not None


def assign(overrides: Iterable[Override], model: Sequence[Place]) -> tuple[dict[Place, str], list[tuple[Place, str]]]:
    """({operator: scheme}, what can't be done as (operator, scheme)); of two overrides for an operator the later wins.

    Operators without weights are passed over by schemes that quantize nothing else. RecipeError for an override that
    matches no operator, or none that can have its scheme.
    """
    chosen: dict[Place, str] = {}
    refused: dict[Place, str] = {}
    for override in overrides:
        matched = [place for place in model if override.matches(place)]
        if not matched:
            names = {place.name for place in model}
            raise RecipeError(
                f"overrides: no operator matches {override.ops!r}",
                hint=perhaps(override.ops, names)
                if override.by_operator
                else "`edgecompile inspect` of a build with recipe float lists the tensors' names",
            )
        fit = [place for place in matched if possible(place, override.scheme)]
        if not fit:
            kinds = ", ".join(sorted({place.name for place in matched}))
            raise RecipeError(
                f"overrides: {override.scheme} was asked for {override.ops!r}, and the quantizer can't give it to "
                f"{kinds}",
                hint="another scheme for these operators, or float",
            )
        for place in matched:
            if place in fit:
                chosen[place] = override.scheme
                refused.pop(place, None)
            elif applies(place, override.scheme):
                refused[place] = override.scheme
    return chosen, list(refused.items())
