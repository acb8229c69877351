"""Recipes: named chains of compression stages, one TOML file each in edgecompile/recipes/."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.errors import RecipeError, perhaps
from edgecompile.search_space import Search
from edgecompile.stages.base import REPRESENTATIVE, TRAINING, Stage
from edgecompile.stages.registry import RECIPE_STAGES
from edgecompile.toml import build, check_keys, read_toml

FOLDER = Path(__file__).parent / "recipes"
DEFAULT = "default"  # what a build does without --recipe, where there is something to judge by


@dataclass(frozen=True)
class Recipe:
    """`steps`: the stages between the loaded model and the final .tflite, in order; none where `search` finds them."""

    name: str
    summary: str
    steps: tuple[Stage, ...]
    search: Search | None = None
    file: Path | None = None  # of the user's own

    @property
    def called(self) -> str:
        """In messages: a built-in one by its name, the user's by its file."""
        return f"recipe {self.file}" if self.file else f"recipe {self.name!r}"

    @property
    def asks_for(self) -> str:
        """The data that it can't do without: as `needs`, and labels to judge by for a search that has no model to
        begin with."""
        return TRAINING if self.search is not None and not self.search.first else self.needs

    @property
    def needs(self) -> str:
        """The most demanding need of its steps: 'training' data, 'representative' data or 'nothing'.

        A search makes do with what there is, and calibrates at least.
        """
        if self.search is not None:
            return REPRESENTATIVE
        needs = {step.needs for step in self.steps}
        return next((n for n in (TRAINING, REPRESENTATIVE) if n in needs), "nothing")


def recipe_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of that name, or of a .toml file of the user's own."""
    if name.endswith(".toml"):
        return dataclasses.replace(read_recipe(Path(name)), file=Path(name))
    if name not in recipe_names():
        raise RecipeError(f"unknown recipe {name!r}", hint=perhaps(name, recipe_names()))
    return read_recipe(FOLDER / f"{name}.toml")


def read_recipe(path: Path) -> Recipe:
    data = read_toml(path, RecipeError)
    check_keys(data, ("summary", "steps", "search"), str(path), RecipeError)
    steps, search = data.get("steps", []), data.get("search")
    summary = str(data.get("summary", ""))
    if search is not None:
        if steps or not isinstance(search, dict):
            raise RecipeError(f"{path}: expected [[steps]] or one [search] table, not both")
        return Recipe(path.stem, summary, (), build(Search, search, f"{path}: search", RecipeError))
    if not isinstance(steps, list) or not steps or not all(isinstance(s, dict) for s in steps):
        raise RecipeError(f"{path}: expected one or more [[steps]] tables, or a [search] table")
    return Recipe(
        name=path.stem,
        summary=summary,
        steps=tuple(_step(step, f"{path}: step {n}") for n, step in enumerate(steps, 1)),
    )


def _step(data: Mapping[str, Any], where: str) -> Stage:
    name = str(data.get("stage", ""))
    if name not in RECIPE_STAGES:
        raise RecipeError(f"{where}: unknown stage {name!r}", hint=perhaps(name, RECIPE_STAGES))
    config = {key: value for key, value in data.items() if key != "stage"}
    stages: dict[str, type[Any]] = RECIPE_STAGES
    step: Stage = build(stages[name], config, f"{where} ({name})", RecipeError)
    return step
