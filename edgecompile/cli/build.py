"""edgecompile build"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from edgecompile.cli.display import make_display
from edgecompile.cli.options import BACKENDS, DROP, MINUTES, SEED, SHAPE, SIZE, THREADS, TIME, DropOff
from edgecompile.errors import ProjectFileError
from edgecompile.project import FILE, read_project


def _defaults(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Fills click's defaults from the project file before the other options are read."""
    del param
    options = [p.opts[-1].lstrip("-") for p in ctx.command.params if isinstance(p, click.Option) and p.expose_value]
    values = read_project(Path.cwd(), ["model", *options])
    read: dict[str, Any] = {}
    for name, given in values.items():
        parameter = next(p for p in ctx.command.params if f"--{name.replace('_', '-')}" in p.opts or name == p.name)
        many = getattr(parameter, "multiple", False)
        if many and not isinstance(given, list):
            given = [given]
        if isinstance(given, list) and not many:
            raise ProjectFileError(f"{FILE}: {name}: expected one value, received a list")
        flag = getattr(parameter, "is_flag", False)
        if flag != isinstance(given, bool):
            expected = "true or false" if flag else "a value"
            raise ProjectFileError(f"{FILE}: {name}: expected {expected}, received {given!r}")
        text = [str(v) for v in given] if isinstance(given, list) else given if flag else str(given)
        read[str(parameter.name)] = text
    ctx.default_map = {**read, **(ctx.default_map or {})}
    return value


@click.command("build")
@click.option("--project", is_flag=True, is_eager=True, hidden=True, expose_value=False, callback=_defaults)
@click.argument("model", required=False)
@click.option(
    "--data",
    metavar="D",
    help="An .npz, an image folder, a CSV of images, module:function, or a built-in model's name.",
)
@click.option("--target", metavar="T", help="See `edgecompile targets list`. [default: what --on is; host]")
@click.option("--on", metavar="DEVICE",
              help="Measure on this board: ssh://[user@]host[:port], adb://SERIAL, or its name.")  # fmt: skip
@click.option("--runtime", type=click.Choice(["provisioned", "system"]), default="provisioned", show_default=True,
              help="On a board: bring a runtime along, or take its own.")  # fmt: skip
@click.option(
    "--recipe",
    metavar="R",
    help="See `edgecompile recipes list`. [default: the target's first choice, and what is better within the budget]",
)
@click.option("--teacher", metavar="MODEL", help="The model to distil from. [default: MODEL's own float weights]")
@click.option("--max-drop", type=DROP, help="Largest drop of the test metric: 1%, or off. [default: 2%]")
@click.option("--max-size", type=SIZE, help="Largest model.tflite: 96KiB, 98496.")
@click.option("--max-latency", type=TIME, help="Largest median latency on the device: 5ms.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the bundle. [default: build/MODEL-TARGET]")
@click.option("--io", type=click.Choice(["float", "int8"]), help="Type of inputs and outputs. [default: the target's]")
@click.option("--input-shape", type=SHAPE, multiple=True, help="Full shape of an input whose size is free.")
@click.option("--backends", type=BACKENDS, help="Backends to try, with commas between. [default: the target's]")
@click.option("--without", type=BACKENDS, envvar="EDGECOMPILE_WITHOUT", show_envvar=True,
              help="Backends of the target's that are left out, with commas between.")  # fmt: skip
@click.option("--threads", type=THREADS,
              help="Threads an inference may use; with several (1,2,4 or 1-4) each engine competes with each number. "
              "[default: the target's]")  # fmt: skip
@click.option("--budget-minutes", type=MINUTES,
              help="Bound on training, in minutes. [default: 30; without --recipe 5, after the first]")  # fmt: skip
@click.option("--custom", multiple=True, metavar="MODULE:NAME", help="A custom layer or function that the model needs.")
@click.option("--allow-unsafe", is_flag=True, help="Accept models that carry code: Lambda layers, pickles.")
@click.option("--pack", type=click.Choice(["xz", "gzip", "zstd"]), help="Also write the model in this packed form.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of all randomness.")
@click.option(
    "--tensorboard", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write training logs there."
)
@click.option("--remeasure", is_flag=True, help="Measure again, even where figures are known.")
@click.option("--dry-run", is_flag=True, help="Read the model and the data, print the plan and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries print.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Build a bundle from MODEL: a .keras, .h5 or .tflite file, a SavedModel folder, or a built-in model.

    MODEL and any option can stand in ./edgecompile.toml; the command line wins.

    \b
    Examples:
      edgecompile build digits --target host
      edgecompile build my.keras --data my.npz --target rpi4 --max-drop 1%
    """
    from edgecompile.cache import require_writable, usable
    from edgecompile.cli.contradictions import check_build
    from edgecompile.cli.summary import print_plan, print_summary
    from edgecompile.devices.opening import device_for
    from edgecompile.dry_run import dry_run
    from edgecompile.pipeline import build
    from edgecompile.request import BuildRequest
    from edgecompile.session import Session

    if not given["model"]:
        raise click.UsageError(f"MODEL is missing, on the command line and in {FILE}")
    check_build(ctx)
    drop = given["max_drop"]
    request = BuildRequest(
        model=given["model"],
        target=given["target"] or "host",
        on=given["on"],
        runtime=given["runtime"],
        data=given["data"],
        recipe=given["recipe"],
        teacher=given["teacher"],
        out=given["out"],
        max_drop="default" if drop is None else None if drop is DropOff else drop,
        max_size=given["max_size"],
        max_latency_ms=given["max_latency"],
        io=given["io"],
        input_shape=given["input_shape"],
        custom=given["custom"],
        allow_unsafe=given["allow_unsafe"],
        backends=given["backends"] or (),
        without=given["without"] or (),
        threads=given["threads"] or (),
        budget_minutes="default" if given["budget_minutes"] is None else given["budget_minutes"],
        tensorboard=given["tensorboard"],
        pack=given["pack"],
        remeasure=given["remeasure"],
        seed=given["seed"],
    )
    if not given["dry_run"]:
        require_writable()
    with (
        make_display() as display,
        usable(display.line) if given["dry_run"] else nullcontext(),
        Session(display, verbose=given["verbose"]) as session,
        device_for(request, named=given["target"], say=display.line) as (request, device),
    ):
        if given["dry_run"]:
            plan = dry_run(request, session, device)
        else:
            built = build(request, session, device)
    if given["dry_run"]:
        if given["as_json"]:
            click.echo(json.dumps(plan, indent=1))
        else:
            print_plan(plan)
    elif given["as_json"]:
        click.echo(json.dumps({"out": str(built.out), **built.manifest}, indent=1))
    else:
        print_summary(built)
