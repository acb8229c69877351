"""edgecompile diff"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import click

from edgecompile.cli.options import COUNT, SHAPE, SHARE
from edgecompile.cli.tables import make_console, print_fitting

if TYPE_CHECKING:
    from edgecompile.layerwise.report import Alone, Comparison, Row
    from edgecompile.layerwise.subjects import Difference

_SHOWN = 12
_NUMBERS = ("SNR dB", "fall dB", "cosine", "max error", "of range", "LSB")
_HEADINGS = ("#", "operator", "tensor", "shape", "type", "scale", *_NUMBERS)


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--data", metavar="D", help="Take training samples from there. [default: a bundle's golden inputs]")
@click.option("--samples", type=COUNT, default=16, show_default=True, help="How many inputs, at most.")
@click.option("--tolerance", type=SHARE, metavar="X",
              help="Largest error, as a share of a tensor's range. [default: 1e-4, or an SNR of 10 dB]")  # fmt: skip
@click.option("--input-shape", type=SHAPE, multiple=True, help="Full shape of an input whose size is free.")
@click.option("--custom", multiple=True, metavar="MODULE:NAME", help="A custom layer or function that a model needs.")
@click.option("--allow-unsafe", is_flag=True, help="Accept models that carry code: Lambda layers, pickles.")
@click.option("--all", "everything", is_flag=True, help=f"Show every tensor, not the {_SHOWN} worst.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries print.")
def command(
    a: str,
    b: str,
    data: str | None,
    samples: int,
    tolerance: float | None,
    input_shape: tuple[tuple[str, tuple[int, ...]], ...],
    custom: tuple[str, ...],
    allow_unsafe: bool,
    everything: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Find the first layer where two models part, and how far each of their tensors is apart.

    A and B are .tflite files, bundles, or models as build takes them, which are converted to float .tflite first.
    Both run with LiteRT's reference kernels on the same inputs. The exit code is 0 where they agree and 21 where they
    part: where a tensor's error is over the limit, or B lacks an output of A.

    \b
    Examples:
      edgecompile diff float.tflite build/digits-host --data digits
      edgecompile diff before.tflite after.tflite --tolerance 1e-5 --all
    """
    from edgecompile.cache import usable
    from edgecompile.cli.display import make_display
    from edgecompile.errors import ParityGateError
    from edgecompile.layerwise.subjects import Options, diff
    from edgecompile.loaders.base import LoadOptions
    from edgecompile.session import Session

    options = Options(data, samples, tolerance, LoadOptions(custom, allow_unsafe, input_shape))
    with make_display() as display, usable(display.line), Session(display, verbose=verbose) as session:
        found = diff(a, b, options, session)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        _print(found, everything)
    if found.found.parted:
        raise ParityGateError(f"the models part {_where(found.found)}", hint=_hint(found))


def _where(found: Comparison) -> str:
    first = found.first
    if first is None:
        return f"in their outputs: B has no counterpart of {', '.join(map(repr, found.outputs_alone))}"
    return f"at {_place(first)}: {_error(first)}, past {found.limit.text}"


def _hint(found: Difference) -> str | None:
    return None if found.real else "give real inputs with --data: these are random, and real ones may agree"


def _place(row: Row) -> str:
    return (
        f"{row.op} #{row.position} {_short(row.tensor)!r}" if row.position >= 0 else f"{row.op} {_short(row.tensor)!r}"
    )


def _error(row: Row) -> str:
    if row.nonfinite:
        return f"{row.nonfinite} values are NaN or infinite in one model only"
    return f"SNR {_db(row.snr_db)} dB, largest error {row.relative:.3g} of the range"


def _short(tensor: str) -> str:
    """Names that converters joined fill a screen; JSON has them whole."""
    from edgecompile.layerwise.match import layer_name

    return layer_name(tensor) or tensor


def _print(found: Difference, everything: bool) -> None:
    comparison = found.found
    rows = comparison.rows
    if not everything:
        worst = sorted(rows, key=lambda row: (row.snr_db, -row.relative))[:_SHOWN]
        kept = {id(row) for row in (*worst, comparison.first, comparison.steepest) if row is not None}
        rows = tuple(row for row in rows if id(row) in kept)
    _table(rows, comparison)
    if len(rows) < len(comparison.rows):
        click.echo(f"the worst {len(rows)} of {len(comparison.rows)} tensors (--all shows every one)")
    real = "" if found.real else " (not real data: give --data)"
    click.echo(f"inputs: {comparison.samples}, {found.inputs}{real}")
    _structure("A", comparison.only_a, everything)
    _structure("B", comparison.only_b, everything)
    if comparison.steepest is not None:
        fall = comparison.steepest.fall_db
        click.echo(f"most lost in one operator: {fall:.1f} dB at {_place(comparison.steepest)}")
    if not comparison.parted:
        apart = len(comparison.only_a) + len(comparison.only_b)
        but = f", but for {apart} operators that only one of them has" if apart else ""
        click.echo(f"the same, within {comparison.limit.text}{but}")


def _structure(side: str, alone: tuple[Alone, ...], everything: bool) -> None:
    """The operators that one model alone has: at the first, the structures part."""
    if not alone:
        return
    shown = alone if everything else alone[:_SHOWN]
    click.echo(f"operators that only {side} has: {len(alone)}, from {alone[0].op} #{alone[0].position} on")
    for each in shown:
        click.echo(f"  {each.op} #{each.position} {_short(each.tensor)!r} {list(each.shape)}: {each.reason}")
    if len(shown) < len(alone):
        click.echo(f"  and {len(alone) - len(shown)} more (--all)")


def _table(rows: tuple[Row, ...], found: Comparison) -> None:
    """The first tensor over the limit in red, others over it in yellow."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading in ("#", *_NUMBERS) else "left", overflow="fold")
    for row in rows:
        style = "bold red" if row is found.first else "yellow" if row.over else ""
        table.add_row(*(Text(cell) for cell in _cells(row)), style=style)
    print_fitting(table, make_console())


def _cells(row: Row) -> tuple[str, ...]:
    return (
        str(row.position) if row.position >= 0 else "",
        _both(row.op, row.op_b),
        _short(row.tensor),
        "x".join(map(str, row.shape)),
        _both(row.dtype, row.dtype_b),
        _both(_scale(row.scale), _scale(row.scale_b)),
        _db(row.snr_db),
        "" if row.fall_db is None else f"{row.fall_db:.1f}",
        f"{row.cosine:.5f}",
        f"{row.max_abs:.3g}",
        f"{row.relative:.2e}",
        "" if row.lsb is None else f"{row.lsb:.1f}",
    )


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a or '-'} | {b or '-'}"


def _scale(scale: float | None) -> str:
    return "" if scale is None else f"{scale:.4g}"


def _db(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "equal" if value > 0 else "none"
