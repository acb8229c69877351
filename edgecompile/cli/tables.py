"""Tables on stdout, as wide as their content where that is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_PIPE_WIDTH = 240
_CUT = "…"  # where rich cuts a word off


def make_console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """`right`: the headings of columns that hold numbers."""
    from rich.table import Table
    from rich.text import Text

    console, rows = make_console(), list(rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a bracket in a name is no markup
    print_fitting(table, console)


def print_fitting(table: Table, console: Console) -> None:
    """Print the table, or, where the terminal is too narrow for its words, each row as lines of "heading value":
    nothing is cut off."""
    for column in table.columns:
        column.overflow = "ellipsis"
    with console.capture() as drawn:
        console.print(table)
    written = [_text(cell).plain for column in table.columns for cell in (column.header, *column.cells)]
    if drawn.get().count(_CUT) <= sum(cell.count(_CUT) for cell in written):
        console.print(table)
        return
    if table.title:
        console.print(table.title, style="italic")
    first, *others = ([_text(cell) for cell in column.cells] for column in table.columns)
    headings = [_text(column.header) for column in table.columns[1:]]
    for number, title in enumerate(first):
        console.print(title or " ", style="bold", overflow="fold")
        for heading, cells in zip(headings, others, strict=True):
            if cells[number]:
                console.print("  ", heading, " " if heading else "", cells[number], sep="", overflow="fold")


def _text(cell: object) -> Text:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text.from_markup(str(cell))


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """One "name  value" a line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in fields:
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    make_console().print(table)
