"""edgecompile models"""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgecompile.cli.options import COUNT, MINUTES
from edgecompile.cli.tables import print_fields, print_table


@click.group("models")
def command() -> None:
    """The built-in models and their training.

    \b
    Example:
      edgecompile models list
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def list_(as_json: bool) -> None:
    """List the built-in models: which have their data here, and which are trained.

    \b
    Example:
      edgecompile models list
    """
    from edgecompile import catalog
    from edgecompile.builtin import describe
    from edgecompile.cache import Cache

    models = [describe(model, Cache()) for model in catalog.ids()]
    if as_json:
        click.echo(json.dumps([model.to_json() for model in models], indent=1))
        return
    rows = [(m.id, "here" if m.data is None else "missing", m.weights, m.summary) for m in models]
    print_table(("id", "data", "trained weights", "what it is"), rows)


@command.command("show")
@click.argument("model", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def show(model: str, as_json: bool) -> None:
    """Show one built-in model: its reference, training, data and weights.

    \b
    Example:
      edgecompile models show digits
    """
    from edgecompile.builtin import describe
    from edgecompile.cache import Cache

    found = describe(model, Cache())
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    training = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found.training.items())
    print_fields(
        [
            ("id", found.id),
            ("what it is", found.summary),
            ("reference", found.reference),
            ("training", training),
            ("data", found.data or "here"),
            ("trained weights", found.weights),
        ]
    )


@command.command("train")
@click.argument("model", metavar="ID")
@click.option("--epochs", type=COUNT, help="Passes over the training data. [default: the model's own]")
@click.option("--budget-minutes", type=MINUTES, help="Bound on training. [default: none]")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.keras", help="Copy the trained model there.")
@click.option("--tensorboard", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write training logs there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries print.")
def train(
    model: str,
    epochs: int | None,
    budget_minutes: float | None,
    out: Path | None,
    tensorboard: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Train a built-in model from nothing and print its test metric.

    With the model's own number of epochs and a budget that cuts none, `edgecompile build ID` then takes these weights.
    A training that was killed goes on from its last epoch.

    \b
    Example:
      edgecompile models train digits
    """
    from edgecompile import builtin
    from edgecompile.cache import require_writable
    from edgecompile.cli.display import make_display
    from edgecompile.session import Session

    require_writable()
    with make_display() as display, Session(display, verbose=verbose) as session:
        found = builtin.train(
            model, session, epochs=epochs, budget_minutes=budget_minutes, out=out, tensorboard=tensorboard
        )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    if found.value is not None:
        click.echo(f"{found.metric} {found.value:.4f} on {found.samples} test samples")
    file = out or found.artifact.model
    click.echo(f"weights: {file}")
    if found.found_by_build:
        click.echo(f"next: edgecompile build {model}")
    else:
        click.echo(f"next: edgecompile build {file} --data {model}")
