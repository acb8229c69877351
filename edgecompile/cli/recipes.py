"""edgecompile recipes"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from edgecompile.cli.tables import print_fields, print_table

if TYPE_CHECKING:
    from edgecompile.recipe import Recipe


@click.group("recipes")
def command() -> None:
    """The ways to compress a model.

    \b
    Example:
      edgecompile recipes list
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def list_(as_json: bool) -> None:
    """List the recipes, and the data that each needs.

    \b
    Example:
      edgecompile recipes list
    """
    from edgecompile.recipe import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    if as_json:
        click.echo(json.dumps([_plain(recipe) for recipe in recipes], indent=1))
        return
    rows = [(r.name, r.asks_for, " -> ".join(step.name for step in r.steps), r.summary) for r in recipes]
    print_table(("name", "data", "stages", "what it does"), rows)


@command.command("show")
@click.argument("recipe", metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def show(recipe: str, as_json: bool) -> None:
    """Show one recipe: its stages and their settings.

    NAME is a built-in recipe, or a .toml file of your own.

    \b
    Example:
      edgecompile recipes show prune-qat
    """
    from edgecompile.recipe import load_recipe

    found = _plain(load_recipe(recipe))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    steps = []
    for number, step in enumerate(found["steps"], 1):
        settings = [f"{key} {value}" for key, value in step.items() if key != "stage"]
        steps.append((f"stage {number}", ", ".join([step["stage"], *settings])))
    print_fields([("name", found["name"]), ("summary", found["summary"]), ("needs", f"{found['needs']} data"), *steps])


def _plain(recipe: Recipe) -> dict[str, Any]:
    steps = [{"stage": step.name, **dataclasses.asdict(step)} for step in recipe.steps]  # type: ignore[call-overload]
    return {"name": recipe.name, "summary": recipe.summary, "needs": recipe.asks_for, "steps": steps}
