"""edgecompile inspect"""

from __future__ import annotations

import json
from typing import Any

import click

from edgecompile.cli.tables import make_console, print_fields, print_table


@click.command("inspect")
@click.argument("model", metavar="MODEL|BUNDLE")
@click.option("--custom", multiple=True, metavar="MODULE:NAME", help="A custom layer or function that the model needs.")
@click.option("--allow-unsafe", is_flag=True, help="Accept models that carry code: Lambda layers, pickles.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(model: str, custom: tuple[str, ...], allow_unsafe: bool, as_json: bool) -> None:
    """Show the operators, shapes, quantization, sizes and MACs of a model or bundle.

    MODEL is a .tflite, .keras or .h5 file, a SavedModel folder, or a built-in model. Of a bundle, the headline of
    its manifest comes first.

    \b
    Examples:
      edgecompile inspect build/digits-host
      edgecompile inspect digits
    """
    from edgecompile.cache import usable
    from edgecompile.cli.display import make_display
    from edgecompile.examine import examine
    from edgecompile.loaders.base import LoadOptions
    from edgecompile.session import Session

    with make_display() as display, usable(display.line), Session(display) as session:
        found = examine(model, LoadOptions(custom, allow_unsafe), session.worker, report=display.progress)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    if "bundle" in found:
        _print_headline(found["bundle"])
    if "size" in found:
        from edgecompile.inspection import render

        render(found, make_console())
    else:
        _print_source(found)


def _print_headline(bundle: dict[str, Any]) -> None:
    figures = [
        (f["name"], f"{f['value']:.6g} {f['unit']}".strip(), f["label"], f["device"], f["date"])
        for f in bundle["figures"]
    ]
    print_fields((key, str(bundle[key])) for key in ("name", "target", "recipe", "winner", "date"))
    print_table(("figure", "value", "label", "device", "date"), figures, right=("value",))
    click.echo()


def _print_source(found: dict[str, Any]) -> None:
    click.echo(f"{found['path']}: {found['kind']}")
    for note in found["notes"]:
        click.echo(f"note    {note}")
    for side in ("inputs", "outputs"):
        for tensor in found[side]:
            click.echo(f"{side[:-1]:<6}  {tensor['name']}  {tensor['dtype']}{_shape(tensor['shape'])}")
    if "layers" in found:
        rows = [
            (row["name"], row["class"], _shape(row["output_shape"]), _count(row["parameters"]), _count(row["macs"]))
            for row in found["layers"]
        ]
        print_table(("layer", "class", "output", "parameters", "MACs"), rows, right=("parameters", "MACs"))
    else:
        counts = [(name, str(count)) for name, count in found["operators"].items()]
        print_table(("operator", "count"), counts, right=("count",))
    totals = found["totals"]
    macs = "not known" if totals["macs"] is None else f"{totals['macs']:,}"
    left = f" and those of {totals['uncounted']} layers that aren't counted" if totals["uncounted"] else ""
    click.echo(f"parameters: {totals['parameters']:,}, MACs: {macs}{left}")


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}" if value else ""


def _shape(shape: Any) -> str:
    if shape is None:
        return "?"
    if shape and isinstance(shape[0], list):
        return ", ".join(_shape(each) for each in shape)
    return "[" + "x".join("?" if size < 0 else str(size) for size in shape) + "]"
