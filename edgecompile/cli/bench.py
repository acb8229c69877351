"""edgecompile bench"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecompile.cli.tables import print_table

if TYPE_CHECKING:
    from edgecompile.bench import Group

_HEADINGS = ("model", "p50", "p90", "p99", "mean", "std", "init", "peak RSS", "runs", "threads")


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE|FILE.tflite...")
@click.option("--threads", type=click.IntRange(1), help="Threads an inference may use. [default: a bundle's own; 1]")
@click.option("--kernels", type=click.Choice(["xnnpack", "builtin", "both"]),
              help="LiteRT's kernels. [default: a bundle's winner; xnnpack]")  # fmt: skip
@click.option("--runs", type=click.IntRange(1), default=200, show_default=True,
              help="Timed runs, at least; they go on until half a second is over.")  # fmt: skip
@click.option("--warmup", type=click.IntRange(0), default=20, show_default=True, help="Runs before timing starts.")
@click.option("--data", metavar="D", help="Take inputs from there. [default: a bundle's golden inputs; else random]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(
    models: tuple[Path, ...],
    threads: int | None,
    kernels: str | None,
    runs: int,
    warmup: int,
    data: str | None,
    as_json: bool,
) -> None:
    """Measure latency and memory of bundles or .tflite files on this machine.

    All run in a fresh process, pinned to as many CPUs as there are threads. Models with the same input shapes are
    run interleaved, so that drift of the machine meets all alike.

    \b
    Examples:
      edgecompile bench build/digits-host
      edgecompile bench build/digits-host build/digits-host/model.tflite --kernels both
    """
    from edgecompile.bench import Options, bench
    from edgecompile.cli.display import make_display
    from edgecompile.session import Session

    options = Options(threads, kernels, runs, warmup, data)
    with make_display() as display, Session(display) as session:
        groups = bench(models, options, session.worker, report=display.progress)
    if as_json:
        click.echo(json.dumps([group.to_json() for group in groups], indent=1))
        return
    for group in groups:
        _print(group)


def _print(group: Group) -> None:
    from edgecompile.units import format_ms

    found = group.measurement
    rows = []
    for name, r in found.results.items():
        times = [format_ms(r[key]) for key in ("p50", "p90", "p99", "mean", "std", "init_ms")]
        threads = str(found.figures(name, name)[0].threads)
        rows.append((name, *times, f"{r['peak_rss_mb']:.1f} MB", str(r["runs"]), threads))
    print_table(_HEADINGS, rows, right=_HEADINGS[1:])
    before = found.environment["before"]
    governor = before["governor"] or "not known"
    runtime = f"{before['runtime']} {before['runtime_version']}"
    click.echo(f"measured on {found.device}, governor {governor}, {runtime}, {found.date}")
    click.echo(f"inputs: {group.inputs}")
