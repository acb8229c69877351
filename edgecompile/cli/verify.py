"""edgecompile verify"""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", metavar="D", help="The data of the build, where it isn't where the manifest says.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries print.")
def command(bundle: Path, data: str | None, as_json: bool, verbose: bool) -> None:
    """Recompute a bundle's accuracy and parity, and compare with its manifest.

    Checked are the sha256 of every file, the model's structure, the golden outputs (LiteRT's reference kernels),
    the parity of the winning engine, and the metric on the test set. What can't be checked here is said to be so.

    \b
    Example:
      edgecompile verify build/digits-host
    """
    from edgecompile.cli.display import make_display
    from edgecompile.session import Session
    from edgecompile.verify import verify

    with make_display() as display, Session(display, verbose=verbose) as session:
        found = verify(bundle, session.worker, data_spec=data, report=display.progress)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        for check in found.checks:
            mark = {True: "ok", False: "FAILED", None: "-"}[check.passed]
            click.echo(f"{mark:<7}{check.name}: {check.text}")
    found.enforce()
