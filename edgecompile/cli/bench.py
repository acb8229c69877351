"""edgecompile bench"""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecompile.cli.options import COUNT, CPUS, DURATION
from edgecompile.cli.tables import print_table
from edgecompile.units import MOST_THREADS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from edgecompile.bench import Group, Report
    from edgecompile.devices.board import Board
    from edgecompile.devices.farm import OnBoard

_HEADINGS = ("model", "p50", "p90", "p99", "mean", "std", "init", "peak RSS", "runs", "threads")


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE|FILE.tflite...")
@click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), help="Threads an inference may use. [default: a bundle's own; 1]"
)
@click.option("--kernels", type=click.Choice(["xnnpack", "builtin", "both"]),
              help="LiteRT's kernels. [default: a bundle's winner; xnnpack]")  # fmt: skip
@click.option("--cpus", type=CPUS, metavar="CPUS",
              help="Keep to these: 4-7, or any. [default: the last ones, as many as threads]")  # fmt: skip
@click.option("--runs", type=COUNT, default=200, show_default=True,
              help="Timed runs, at least; they go on until half a second is over.")  # fmt: skip
@click.option(
    "--warmup", type=click.IntRange(0, 1_000_000), default=20, show_default=True, help="Runs before timing starts."
)
@click.option("--data", metavar="D", help="Take inputs from there. [default: a bundle's golden inputs; else random]")
@click.option("--sustain", type=DURATION, metavar="TIME",
              help="Go on for so long (10m), or until heat and latency settle: what is fastest then?")  # fmt: skip
@click.option("--report", "page", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.html",
              help="With --sustain: the curves, as a page.")  # fmt: skip
@click.option("--on", metavar="DEVICE",
              help="A board, ssh://[user@]host[:port], adb://SERIAL or its name, or a group of them.")  # fmt: skip
@click.option("--runtime", type=click.Choice(["provisioned", "system"]), default="provisioned", show_default=True,
              help="On a board: bring a runtime along, or take its own.")  # fmt: skip
@click.option(
    "--set-clocks", is_flag=True, help="On a Jetson: hold its clocks at their highest meanwhile (needs sudo)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[Path, ...],
    threads: int | None,
    kernels: str | None,
    cpus: tuple[int, ...] | None,
    runs: int,
    warmup: int,
    data: str | None,
    sustain: float | None,
    page: Path | None,
    on: str | None,
    runtime: str,
    set_clocks: bool,
    as_json: bool,
) -> None:
    """Measure latency and memory of bundles or .tflite files, on this machine or on a board.

    All run in a fresh process, pinned to as many CPUs as there are threads. Models with the same input shapes are
    run interleaved, so that drift of the machine meets all alike.

    \b
    Examples:
      edgecompile bench build/digits-host
      edgecompile bench build/digits-host build/digits-host/model.tflite --kernels both
      edgecompile bench build/digits-rpi4 --on ssh://pi@raspberrypi.local
    """
    from edgecompile.bench import Options, bench, prepare
    from edgecompile.cache import usable
    from edgecompile.cli.contradictions import excludes, needs
    from edgecompile.cli.display import make_display
    from edgecompile.devices.farm import on_all
    from edgecompile.devices.inventory import Inventory
    from edgecompile.devices.jetson import held_clocks
    from edgecompile.session import Session

    needs(ctx, "runtime", "on", "is for a board")
    excludes(ctx, "sustain", "runs", "a sustained run goes on for its time")
    if set_clocks and not on:
        raise click.UsageError("--set-clocks is for a Jetson: name it with --on")
    if page is not None and sustain is None:
        raise click.UsageError("--report shows curves over time: give --sustain, too")
    if page is not None and not os.access(page.parent, os.W_OK):
        raise click.UsageError(f"--report {page}: {page.parent} can't be written")
    options = Options(threads, kernels, runs, warmup, data, sustain or 0.0, cpus)
    boards = Inventory.load().resolve(on) if on else []

    def on_one(board: Board, report: Report) -> list[Group]:
        with held_clocks(board) if set_clocks else nullcontext():
            return bench(work, options, report=report, device=board)

    with make_display() as display, usable(display.line), Session(display) as session:
        work = prepare(models, options, session.worker, report=display.progress)
        if on:
            found = on_all(
                boards,
                on_one,
                runtime=runtime,
                report=display.progress,
            )
            groups = [group for each in found for group in each.result or []]
        else:
            found = []
            groups = bench(work, options, report=display.progress)
    failed = [each for each in found if each.problem is not None]
    if as_json:
        problems = [{"device": each.entry.name, "error": str(each.problem)} for each in failed]
        click.echo(json.dumps([*(group.to_json() for group in groups), *problems], indent=1))
    else:
        for group in groups:
            _print(group)
        if len(found) > 1:
            _print_boards(found)
    if page is not None and groups:
        from edgecompile.report import render_sustained

        page.write_text(render_sustained([group.measurement for group in groups]), encoding="utf-8")
    for each in failed[:-1]:
        assert each.problem is not None
        each.problem.show()
    if failed and failed[-1].problem:
        raise failed[-1].problem


def _print(group: Group) -> None:
    from edgecompile.units import format_mebibytes, format_ms

    found = group.measurement
    rows = []
    for name, r in found.results.items():
        times = [format_ms(r[key]) for key in ("p50", "p90", "p99", "mean", "std", "init_ms")]
        threads = str(found.figures(name, name)[0].threads)
        rows.append((name, *times, format_mebibytes(r["peak_rss_mb"]), str(r["runs"]), threads))
    print_table(_HEADINGS, rows, right=_HEADINGS[1:])
    if found.windows:
        _print_ranking(found.windows)
    _print_energy(found.results)
    for name, reason in found.skipped.items():
        click.echo(f"{name}: not measured: {reason}; --kernels builtin measures it", err=True)
    for clause in found.throttled:
        click.echo(f"WARNING: the device was slowed down: {clause}", err=True)
    if found.busy:
        click.echo(f"WARNING: the device was busy: {found.busy}; measure again when it is quiet", err=True)
    before = found.environment["before"]
    governor = before["governor"] or "not known"
    runtime = f"{before['runtime']} {before['runtime_version']}"
    click.echo(f"{found.label} on {found.device}, governor {governor}, {runtime}, {found.date}")
    click.echo(f"inputs: {group.inputs}")


def _print_boards(found: Sequence[OnBoard[list[Group]]]) -> None:
    """The boards beside each other."""
    from edgecompile.units import format_ms

    headings = ("board", "model", "p50", "p90", "what it is")
    rows = []
    for each in found:
        if each.problem is not None:
            rows.append((each.entry.name, "", "", "", "failed, see below"))
        for group in each.result or []:
            for name, r in group.measurement.results.items():
                rows.append((each.entry.name, name, format_ms(r["p50"]), format_ms(r["p90"]), group.measurement.label))
    print_table(headings, rows, right=("p50", "p90"))


def _print_ranking(windows: Sequence[Mapping[str, Any]]) -> None:
    from edgecompile.devices.sustained import first_seconds, ranking
    from edgecompile.units import format_ms, format_seconds

    headings = ("sustained", f"at {format_seconds(first_seconds(windows))}", "place", "end", "place", "change")
    rows = [
        (r.id, format_ms(r.first), str(r.first_place), format_ms(r.last), str(r.last_place), f"{r.change:+.1%}")
        for r in ranking(windows)
    ]
    print_table(headings, rows, right=headings[1:])
    last = windows[-1]
    how = "latency and temperature had settled" if last["settled"] else "not settled yet: the time was over"
    click.echo(f"after {format_seconds(last['at'])}: {how}")


def _print_energy(results: Mapping[str, Mapping[str, Any]]) -> None:
    for name, result in results.items():
        energy = result["energy"]
        if energy:
            idle = "" if energy["idle_watts"] is None else f" (idle {energy['idle_watts']:.2f} W)"
            click.echo(
                f"{name}: {energy['mj']:.3g} mJ an inference, {energy['watts']:.2f} W{idle}, "
                f"{energy['sensor']}, {energy['inferences']} inferences, all of the device's power included"
            )
