"""edgecompile targets"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from edgecompile.cli.tables import print_fields, print_table

if TYPE_CHECKING:
    from edgecompile.target import Gpu


@click.group("targets")
def command() -> None:
    """What can be built for.

    \b
    Example:
      edgecompile targets list
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def list_(as_json: bool) -> None:
    """List the targets, and with what each can be verified here.

    \b
    Example:
      edgecompile targets list
    """
    from edgecompile.target import load_target, target_ids

    targets = [load_target(name) for name in target_ids()]
    if as_json:
        document = [{"id": t.id, "name": t.name, "summary": t.summary, "verified": t.verified_with()} for t in targets]
        click.echo(json.dumps(document, indent=1))
        return
    print_table(("id", "name", "verified here with"), [(t.id, t.name, t.verified_with()) for t in targets])


@command.command("show")
@click.argument("target", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def show(target: str, as_json: bool) -> None:
    """Show one target: processor, first choice, backends and limits.

    ID is a built-in target, or a .toml file of your own.

    \b
    Example:
      edgecompile targets show rpi4
    """
    from edgecompile.target import load_target

    found = load_target(target)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "verified": found.verified_with()}, indent=1))
        return
    memory = found.memory.ram_mb
    fields = [
        ("id", found.id),
        ("name", found.name),
        ("summary", found.summary),
        *((key, _text(value)) for key, value in dataclasses.asdict(found.cpu).items() if value),
        ("memory", f"{memory} MB" if memory else ""),
        ("GPU", _gpu(found.gpu)),
        ("family", found.family or ""),
        ("first", f"{found.first}; without samples dynamic" if found.first == "int8" else found.first),
        ("prefers", ", then ".join(found.prefers)),
        ("backends", ", ".join(found.backends)),
        ("if installed", ", ".join(found.if_installed)),
        ("inputs, outputs", found.io),
        ("threads", _text(found.threads)),
        ("largest model", found.limits.max_size or ""),
        ("verified here", found.verified_with()),
        *(("note", note) for note in found.notes),
    ]
    print_fields([(name, value) for name, value in fields if value])


def _gpu(gpu: Gpu | None) -> str:
    if gpu is None:
        return ""
    dla = f", {gpu.dla} DLA" if gpu.dla else ""
    software = f"JetPack {gpu.jetpack} (L4T {gpu.l4t}), CUDA {gpu.cuda}, TensorRT {gpu.tensorrt}"
    return f"{gpu.name}, compute capability {gpu.compute_capability}{dla}; {software}"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
