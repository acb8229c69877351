"""edgecompile doctor"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgecompile.doctor import Diagnosis


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(as_json: bool) -> None:
    """Say what is installed, what is missing, and how to get it.

    The exit code is 0 where `edgecompile build` can run.

    \b
    Example:
      edgecompile doctor
    """
    from edgecompile.doctor import diagnose

    found = diagnose()
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    found.enforce()


def _print(found: Diagnosis) -> None:
    # Plain lines: the package that draws tables may be what is missing.
    from edgecompile.units import format_size

    system = found.system
    click.echo(f"edgecompile {system['edgecompile']}, Python {system['python']} ({system['executable']})")
    features = " ".join(system["features"]) or "features not known"
    click.echo(f"{system['os']}, {system['cpu']} x{system['cores']}, {features}")
    click.echo("\npackages")
    for package in found.packages:
        if package.fits:
            state = "ok"
        elif package.extra:
            state = f"missing: pip install 'edgecompile[{package.extra}]'"
        else:
            state = f"missing: pip install '{package.name}{package.required}'"
        what = f"{package.name} {package.installed or '-'}"
        extra = f" [{package.extra}]" if package.extra else ""
        click.echo(f"  {what:<42}{package.required or 'any'}{extra}  {state}")
    for problem in found.problems:
        click.echo(f"  PROBLEM: {problem}")
    click.echo(f"\ndata: {found.data['variable']} {found.data['folder'] or 'is not set'}")
    for model, missing in found.data["models"].items():
        click.echo(f"  {model:<21}{missing or 'ok'}")
    cache = found.cache
    writable = "" if cache["writable"] else ", NOT WRITABLE"
    size, free = format_size(cache["bytes"]), f"{format_size(cache['free_bytes'])} free"
    click.echo(f"\ncache: {cache['folder']}, {size}, {free}{writable}")
    click.echo("\ntargets")
    for target, missing in found.targets.items():
        click.echo(f"  {target:<21}{missing or 'ok'}")
