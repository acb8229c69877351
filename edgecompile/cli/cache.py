"""edgecompile cache"""

from __future__ import annotations

import json
import time

import click

from edgecompile.cli.options import DAYS
from edgecompile.cli.tables import print_table
from edgecompile.errors import INTERRUPTED


@click.group("cache")
def command() -> None:
    """Look at the cache and shrink it.

    \b
    Example:
      edgecompile cache show
    """


@command.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def show(as_json: bool) -> None:
    """Show where the cache is and what is in it.

    The folder is EDGECOMPILE_CACHE, else edgecompile in the user's cache folder.

    \b
    Example:
      edgecompile cache show
    """
    from edgecompile.cache import Cache, folder_size
    from edgecompile.units import format_size

    cache = Cache()
    entries = cache.entries()
    size = folder_size(cache.root)
    if as_json:
        stages = [{"key": e.key, "stage": e.stage, "bytes": e.size, "used": e.used} for e in entries]
        click.echo(json.dumps({"folder": str(cache.root), "bytes": size, "stages": stages}, indent=1))
        return
    names = dict.fromkeys(entry.stage for entry in entries)
    rows = []
    for name in names:
        mine = [entry for entry in entries if entry.stage == name]
        oldest = time.strftime("%Y-%m-%d", time.localtime(min(entry.used for entry in mine)))
        rows.append((name, str(len(mine)), format_size(sum(entry.size for entry in mine)), oldest))
    if rows:
        print_table(("stage", "results", "size", "least recently used"), rows, right=("results", "size"))
    click.echo(f"{cache.root}: {len(entries)} results, {format_size(size)} in all")


@command.command("prune")
@click.option("--older-than", type=DAYS, default=30.0, show_default=True, metavar="DAYS",
              help="Remove what was not used for so many days; 0 removes all.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Don't ask.")
def prune(older_than: float, yes: bool) -> None:
    """Remove results that were not used lately.

    Builds that need them do their work again; bundles are not touched.

    \b
    Example:
      edgecompile cache prune --older-than 30 --yes
    """
    from edgecompile.cache import Cache
    from edgecompile.units import format_size

    cache = Cache()
    if not yes:
        keys, files, size = cache.unused(older_than)
        what = f"{len(keys)} results and {len(files)} other files ({format_size(size)})"
        try:
            agreed = click.confirm(f"remove {what} from {cache.root}?", err=True)
        except click.Abort:  # Ctrl-C, or nobody there to answer
            agreed = None
        if not agreed:
            click.echo("nothing removed", err=True)
            raise click.exceptions.Exit(INTERRUPTED if agreed is None else 1)
    click.echo(f"{format_size(cache.prune(older_than_days=older_than))} freed in {cache.root}")
