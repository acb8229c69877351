"""Reference pages made from the code itself: docs/cli.md from the commands, docs/exit-codes.md from the errors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from edgecompile.errors import INTERRUPTED, all_errors

_MADE = "<!-- Written by scripts/docs; edit the code, not this file. -->"
_CLICKS_OWN = ((0, "success"), (1, "output was cut off (a closed pipe)"), (2, "wrong usage of the command line"))


def write(folder: Path) -> list[Path]:
    """Write all pages into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def pages() -> dict[str, str]:
    """{file name: Markdown}"""
    return {"cli.md": cli_page(), "exit-codes.md": exit_codes_page()}


def commands() -> Iterator[tuple[str, click.Command]]:
    """("edgecompile targets list", its command) of every command, groups before what is in them."""
    from edgecompile.cli import group

    return _walk("edgecompile", group)


def _walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, name  # listed, so there
            yield from _walk(f"{path} {name}", inner)


def cli_page() -> str:
    intro = "What `edgecompile COMMAND --help` says, in one page. Exit codes: [exit-codes.md](exit-codes.md)."
    parts = [_MADE, "# Commands", intro]
    for path, command in commands():
        parts += _section(path, command)
    return "\n\n".join(parts) + "\n"


def exit_codes_page() -> str:
    rows = [*_CLICKS_OWN, *((kind.exit_code, kind.summary) for kind in all_errors())]
    rows.append((INTERRUPTED, "interrupted with Ctrl-C, or ended with SIGTERM"))
    table = "\n".join(["| code | meaning |", "| ---: | --- |", *(f"| {code} | {_cell(text)} |" for code, text in rows)])
    return "\n\n".join([_MADE, "# Exit codes", "They are stable: scripts may rely on them.", table]) + "\n"


def _section(path: str, command: click.Command) -> list[str]:
    text, examples = split_help(command)
    pieces = " ".join(command.collect_usage_pieces(click.Context(command)))
    parts = [f"{'#' * (1 + len(path.split()))} {path}", text, f"    {path} {pieces}"]
    options = [given for given in command.params if isinstance(given, click.Option) and not given.hidden]
    if options:
        rows = [f"| {_spelling(option)} | {_cell(_help(option))} |" for option in options]
        parts.append("\n".join(["| option | |", "| --- | --- |", *rows]))
    if examples:
        parts.append("\n".join(["```sh", *examples, "```"]))
    return parts


def split_help(command: click.Command) -> tuple[str, list[str]]:
    """(the help text, the lines of its examples)."""
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    prose, _, tail = text.partition("Example")
    examples = [line.strip() for line in tail.splitlines()[1:] if line.strip()]
    return prose.strip(), examples


def _spelling(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.is_flag:
        return names
    kind = option.metavar or option.make_metavar(click.Context(click.Command("any")))
    return f"{names} `{kind.replace('|', chr(92) + '|')}`"


def _help(option: click.Option) -> str:
    default = f" [default: {option.default}]" if option.show_default and option.default is not None else ""
    return f"{option.help or ''}{default}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
