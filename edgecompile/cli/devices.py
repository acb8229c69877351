"""edgecompile devices"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompile.cli.tables import print_fields, print_table
from edgecompile.errors import EdgecompileError
from edgecompile.units import format_mebibytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgecompile.devices.inventory import Entry


@click.group("devices")
def command() -> None:
    """The boards that models are measured on.

    A board is named by its address, ssh://[user@]host[:port] or adb://SERIAL, or by the name it was added under. The
    user's ~/.ssh/config, agent and known_hosts count.

    \b
    Example:
      edgecompile devices add rpi4 ssh://pi@raspberrypi.local --target rpi4
    """


@command.command("add")
@click.argument("name", metavar="NAME")
@click.argument("url", metavar="URL")
@click.option("--target", metavar="T", help="The target that the board is. `devices probe` names the best one.")
@click.option("--identity", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="Private key to use, in place of the user's own.")  # fmt: skip
@click.option("--known-hosts", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="Host keys to believe, in place of the user's own.")  # fmt: skip
@click.option("--emulated", is_flag=True, help="An emulator: what is measured there is a number of instructions.")
@click.option("--sysfs-root", metavar="FOLDER",
              help="A folder there in place of /sys, to try out heat: figures are then simulated.")  # fmt: skip
@click.option("--python", metavar="PATH",
              help="The Python to use there, such as a virtual environment's. [default: python3]")  # fmt: skip
def add(
    name: str,
    url: str,
    target: str | None,
    identity: Path | None,
    known_hosts: Path | None,
    emulated: bool,
    sysfs_root: str | None,
    python: str | None,
) -> None:
    """Keep a board under a name; one of that name is replaced.

    \b
    Example:
      edgecompile devices add rpi4 ssh://pi@raspberrypi.local --target rpi4
    """
    from edgecompile.devices.inventory import Entry, Inventory
    from edgecompile.target import load_target

    if target is not None:
        load_target(target)
    inventory = Inventory.load()
    files = [str(path.absolute()) if path else None for path in (identity, known_hosts)]
    inventory.add(Entry(name, url, target, files[0], files[1], emulated, sysfs_root, python))
    inventory.save()
    click.echo(f"{name}: {url}; next: edgecompile devices probe {name}")


@command.command("group")
@click.argument("name", metavar="GROUP")
@click.argument("members", nargs=-1, required=True, metavar="NAME...")
def group(name: str, members: tuple[str, ...]) -> None:
    """Name several boards at once: `bench --on GROUP` runs on all of them.

    \b
    Example:
      edgecompile devices group farm rpi4 rpi5
    """
    from edgecompile.devices.inventory import Inventory

    inventory = Inventory.load()
    inventory.group(name, members)
    inventory.save()
    click.echo(f"{name}: {', '.join(inventory.groups[name])}")


@command.command("remove")
@click.argument("name", metavar="NAME")
def remove(name: str) -> None:
    """Forget a board or a group. What is on the board stays there: see `devices clean`.

    \b
    Example:
      edgecompile devices remove rpi4
    """
    from edgecompile.devices.inventory import Inventory

    inventory = Inventory.load()
    inventory.remove(name)
    inventory.save()


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def list_(as_json: bool) -> None:
    """List the boards and groups that were added.

    \b
    Example:
      edgecompile devices list
    """
    import dataclasses

    from edgecompile.devices.inventory import Inventory

    found = Inventory.load()
    if as_json:
        devices = [dataclasses.asdict(entry) for entry in found.devices.values()]
        click.echo(json.dumps({"devices": devices, "groups": found.groups}, indent=1))
        return
    groups = {name: [group for group, members in found.groups.items() if name in members] for name in found.devices}
    rows = [(e.name, e.url, e.target or "", _kind(e), ", ".join(groups[e.name])) for e in found.devices.values()]
    if rows:
        print_table(("name", "address", "target", "", "groups"), rows)
    else:
        click.echo("no boards yet: edgecompile devices add NAME ssh://USER@HOST")


def _kind(entry: Entry) -> str:
    return "emulated" if entry.emulated else "simulated" if entry.sysfs_root else ""


@command.command("probe")
@click.argument("device", metavar="DEVICE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def probe(device: str, as_json: bool) -> None:
    """Show what a board is, which target fits it best, and what it lacks for the one it was added with.

    The board needs a python3; nothing but a file in its cache folder is written there.

    \b
    Example:
      edgecompile devices probe ssh://pi@raspberrypi.local
    """
    from edgecompile.devices.board import SYSTEM
    from edgecompile.devices.inventory import Inventory
    from edgecompile.devices.matching import best_target, lacking
    from edgecompile.devices.opening import open_board
    from edgecompile.target import load_target, target_ids

    found, problems = [], []
    for entry in Inventory.load().resolve(device):
        try:
            with open_board(entry, SYSTEM) as board:  # a runtime of its own is shown, none is brought
                facts = board.facts()
        except EdgecompileError as problem:
            problems.append(problem)
            continue
        best = best_target(facts.details, [load_target(name) for name in target_ids()])
        missing = lacking(load_target(entry.target), facts.details) if entry.target else []
        found.append((entry, facts, best.id if best else None, missing))
    if as_json:
        documents = [
            {"device": e.name, "url": e.url, "target": e.target, "best_target": best, "lacks": missing, **f.details}
            for e, f, best, missing in found
        ]
        click.echo(json.dumps(documents, indent=1))
    for entry, facts, best_id, missing in [] if as_json else found:
        print_fields(_fields(entry, facts.details, best_id))
        if missing:
            click.echo(
                f"WARNING: target {entry.target} lets compilers use {', '.join(missing)}, which this board lacks: "
                f"code for it would die with SIGILL there." + (f" Take --target {best_id}." if best_id else ""),
                err=True,
            )
    _raise(problems)


def _raise(problems: Sequence[EdgecompileError]) -> None:
    """What boards of a group were in the way of; the others were served."""
    for problem in problems[:-1]:
        problem.show()
    if problems:
        raise problems[-1]


def _fields(entry: Entry, facts: Mapping[str, Any], best: str | None) -> list[tuple[str, str]]:
    def known(name: str) -> str:
        value = facts[name]
        return "not known" if value in (None, "", [], {}) else str(value)

    def memory(name: str) -> str:
        return "not known" if facts[name] is None else format_mebibytes(facts[name])

    clocks = [
        f"CPUs {', '.join(map(str, c['cpus']))}: {c['cur_mhz']} of {c['max_mhz']} MHz, governor {c['governor']}"
        for c in facts["clusters"]
    ]
    heat = [f"{zone} {degrees:.1f} °C" for zone, degrees in facts["temperatures"].items()]
    runtime = f"{facts['runtime']} {facts['runtime_version']}" if facts["runtime"] else "none of its own"
    runtime = ", ".join([runtime, *(f"{name} {version}" for name, version in facts["engines"].items())])
    return [
        ("device", f"{entry.name} ({entry.url})" if entry.name != entry.url else entry.url),
        ("best target", best or "none"),
        ("CPU", f"{facts['cpu']}, {facts['cores']} cores, {facts['machine']}"),
        ("features", " ".join(facts["features"]) or "none known"),
        ("clocks", "; ".join(clocks) or f"not known, governor {known('governor')}"),
        ("temperatures", ", ".join(heat) or "not known"),
        ("power", f"sensor: {facts['power_sensor'] or 'none that can be read'}"),
        ("memory", memory("memory_mb")),
        ("free disk", f"{memory('disk_free_mb')} for {facts['cache']}"),
        ("system", f"{facts['os']} {facts['kernel']}, glibc {known('glibc')}"),
        ("Python", f"{facts['python']}, runtime: {runtime}"),
        ("GPU", _gpu(facts["nvidia"]) or "none"),
        ("NPU", ", ".join(facts["npu"]) or "no device node known"),
    ]


def _gpu(nvidia: Mapping[str, Any] | None) -> str:
    if nvidia is None:
        return ""
    parts = [*nvidia["gpus"], nvidia["jetson"], nvidia["l4t"] and f"L4T {nvidia['l4t']}"]
    parts.append(nvidia["power_mode"] and f"power mode {nvidia['power_mode']}")
    parts += [
        f"{name} {c['cur_mhz']:.0f} MHz ({c['min_mhz']:.0f}-{c['max_mhz']:.0f})" for name, c in nvidia["clocks"].items()
    ]
    parts.append(f"trtexec {nvidia['trtexec']}" if nvidia["trtexec"] else "no trtexec")
    return "; ".join(filter(None, parts))


@command.command("clean")
@click.argument("device", metavar="DEVICE")
def clean(device: str) -> None:
    """Remove everything that edgecompile brought to a board.

    \b
    Example:
      edgecompile devices clean rpi4
    """
    from edgecompile.devices.inventory import Inventory
    from edgecompile.devices.opening import open_board

    problems = []
    for entry in Inventory.load().resolve(device):
        try:
            with open_board(entry) as board:
                folder = board.clean()
            click.echo(f"{entry.name}: {folder} is gone")
        except EdgecompileError as problem:
            problems.append(problem)
    _raise(problems)
