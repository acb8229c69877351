"""edgecompile verify"""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgecompile.cli.options import COUNT


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", metavar="D", help="The data of the build, where it isn't where the manifest says.")
@click.option("--on", metavar="DEVICE",
              help="Run the model on this board: ssh://[user@]host[:port], adb://SERIAL, or its name.")  # fmt: skip
@click.option("--samples", type=COUNT, help="With --on: so many of the test set. [default: all]")
@click.option("--runtime", type=click.Choice(["provisioned", "system"]), default="provisioned", show_default=True,
              help="On a board: bring a runtime along, or take its own.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries print.")
@click.pass_context
def command(
    ctx: click.Context,
    bundle: Path,
    data: str | None,
    on: str | None,
    samples: int | None,
    runtime: str,
    as_json: bool,
    verbose: bool,
) -> None:
    """Recompute a bundle's accuracy and parity, and compare with its manifest.

    Checked are the sha256 of every file, the model's structure, the golden outputs (LiteRT's reference kernels),
    the parity of the winning engine, and the metric on the test set. What can't be checked here is said to be so.
    With --on the model runs on that board, and its outputs are compared with those of this machine.

    \b
    Example:
      edgecompile verify build/digits-host
      edgecompile verify build/digits-rpi4 --on ssh://pi@raspberrypi.local
    """
    from edgecompile.cache import usable
    from edgecompile.cli.contradictions import needs
    from edgecompile.cli.display import make_display
    from edgecompile.devices.opening import one, open_board
    from edgecompile.session import Session
    from edgecompile.verify import verify
    from edgecompile.verify_on import verify_on

    needs(ctx, "runtime", "on", "is for a board")
    needs(ctx, "samples", "on", "is for a board")
    with make_display() as display, usable(display.line), Session(display, verbose=verbose) as session:
        if on:
            with open_board(one(on), runtime) as board:
                found = verify_on(
                    bundle, board, session.worker, data_spec=data, samples=samples, report=display.progress
                )
        else:
            found = verify(bundle, session.worker, data_spec=data, report=display.progress)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        for check in found.checks:
            mark = {True: "ok", False: "FAILED", None: "-"}[check.passed]
            click.echo(f"{mark:<7}{check.name}: {check.text}")
    found.enforce()
