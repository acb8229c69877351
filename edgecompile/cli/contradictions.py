"""Options of the command line that can't both be meant: said at once, where one would be passed over in silence.

Only what was typed counts: a project file, or the environment, may say what holds for other commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource


def typed(ctx: click.Context, name: str) -> bool:
    """Whether the option was given on the command line."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and ctx.params.get(name) not in (None, (), "")


def needs(ctx: click.Context, name: str, other: str, why: str) -> None:
    """UsageError where `name` was typed and there is no `other`."""
    if typed(ctx, name) and not ctx.params.get(other):
        raise click.UsageError(f"--{_spelt(name)} {why}: give --{_spelt(other)}, or leave it out", ctx)


def excludes(ctx: click.Context, name: str, other: str, why: str) -> None:
    """UsageError where both were typed."""
    if typed(ctx, name) and typed(ctx, other):
        raise click.UsageError(f"--{_spelt(name)} and --{_spelt(other)} contradict each other: {why}", ctx)


def _spelt(name: str) -> str:
    return name.replace("_", "-")


def check_build(ctx: click.Context) -> None:
    """UsageError for options of `build` that contradict each other."""
    given = ctx.params
    needs(ctx, "runtime", "on", "is for a board")
    _check_backends(ctx, given)
    names = [name for name, _ in given["input_shape"]]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(f"--input-shape: {twice or 'the input'} is given twice", ctx)
    if typed(ctx, "remeasure") and not _measures(given):
        raise click.UsageError(
            f"--remeasure: nothing is measured for {given['target']} without a board: name it with --on", ctx
        )
    if typed(ctx, "recipe") and typed(ctx, "tensorboard"):
        _check_training(ctx, given)


def _check_backends(ctx: click.Context, given: Mapping[str, Any]) -> None:
    asked, without = given["backends"] or (), given["without"] or ()
    both = [name for name in asked if name in without]
    if both and typed(ctx, "backends") and typed(ctx, "without"):
        raise click.UsageError(f"--backends and --without both name {both[0]}", ctx)
    if asked and set(asked) <= {"tensorrt"} and typed(ctx, "threads"):
        raise click.UsageError("--threads: tensorrt runs on a GPU, which takes no number of threads", ctx)


def _measures(given: Mapping[str, Any]) -> bool:
    """Whether there is a device; a target that isn't known is said by others."""
    from edgecompile.errors import EdgecompileError
    from edgecompile.target import family, load_target

    if given["on"] or not given["target"]:
        return True
    try:
        return not family(given["target"]) and load_target(given["target"]).local
    except EdgecompileError:
        return True


def _check_training(ctx: click.Context, given: Mapping[str, Any]) -> None:
    """Logs of a training, beside a recipe without one. A built-in model may have to be trained first.

    --budget-minutes is a bound: what trains nothing keeps it.
    """
    from edgecompile import catalog
    from edgecompile.recipe import load_recipe

    recipe = load_recipe(given["recipe"])
    trains = recipe.search is not None or any("budget" in step.uses for step in recipe.steps)
    if trains or (given["model"] in catalog.ids() and not Path(given["model"]).is_file()):
        return
    raise click.UsageError(f"--tensorboard is for training, and {recipe.called} trains nothing", ctx)
