"""What is built where no recipe is named (docs/default-build.md)."""

from __future__ import annotations

from edgecompile.recipe import DEFAULT, Recipe, load_recipe
from edgecompile.search_space import DYNAMIC, FLOAT, INT8
from edgecompile.target import Target
from edgecompile.task import AUTOENCODER
from edgecompile.tasks import TaskFacts


def first_recipe(target: Target, quantized: bool, facts: TaskFacts | None) -> str:
    """The recipe that needs no training: the target's own, where there are samples to calibrate it with.

    quantized: whether the source is a .tflite with integers, which are what they are. facts: None without data.
    """
    if quantized:
        return FLOAT
    calibrated = facts is not None and facts.train > 0
    return DYNAMIC if target.first == INT8 and not calibrated else target.first


def default_recipe(
    target: Target, first: str, facts: TaskFacts | None, max_drop: float | str | None
) -> tuple[Recipe, str]:
    """(what is built where no recipe is named, why). first: as `first_recipe` has it. max_drop: as BuildRequest's."""
    if first == FLOAT != target.first:
        return load_recipe(first), "a quantized .tflite stays as it is"
    if why := unjudged(facts, max_drop):
        chosen = f"{target.id}'s first choice" if first == target.first else f"what can be made for {target.id}"
        return load_recipe(first), f"{chosen}, and nothing to choose another by: {why}"
    return load_recipe(DEFAULT), f"{first} first, then what is better in {', then '.join(target.prefers)}"


def unjudged(facts: TaskFacts | None, max_drop: float | str | None) -> str:
    """Why no two models can be told apart by the validation metric; "" where they can."""
    if facts is None:
        return "there is no data"
    if facts.metric is None or not facts.trainable:
        return "it takes labelled training and test samples"
    if facts.kind == AUTOENCODER:
        return "an autoencoder's metric is not known on validation samples"
    return "--max-drop is off" if max_drop is None else ""
