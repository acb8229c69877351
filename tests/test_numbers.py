"""Numbers that no setting can mean: NaN, infinity, and what is larger than anything, in options and in TOML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from running import run_cli

from edgecompile.cli import COMMANDS, group
from edgecompile.cli.options import BACKENDS, CPUS, DROP, DURATION, SHAPE, SIZE, THREADS, TIME, Number, Parsed
from edgecompile.devices.inventory import Inventory
from edgecompile.errors import DeviceError, ProjectFileError, RecipeError, TargetError
from edgecompile.recipe import read_recipe
from edgecompile.target import load_target, targets_folder

UNITS = {SIZE: "MiB", TIME: "s", DURATION: "h", DROP: "%", SHAPE: "", THREADS: "", CPUS: ""}
HUGE = ("9" * 12, "9" * 400, "9" * 5000)


def options(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
    for parameter in command.params:
        yield f"{name} {parameter.opts[-1]}", parameter
    for child in getattr(command, "commands", {}).values():
        yield from options(child, f"{name} {child.name}")


EVERY = [
    found
    for name in COMMANDS
    if (command := group.get_command(click.Context(group), name)) is not None
    for found in options(command, name)
]
NUMBERS = [
    (name, parameter)
    for name, parameter in EVERY
    if isinstance(parameter.type, click.IntRange | click.FloatRange)
    or (isinstance(parameter.type, Parsed) and parameter.type is not BACKENDS)
]


def test_every_number_of_the_command_line_has_bounds() -> None:
    """A plain type would let NaN and infinity in, or what no machine has."""
    assert len(NUMBERS) > 15
    for name, parameter in EVERY:
        kind = parameter.type
        assert not isinstance(kind, click.types.IntParamType) or isinstance(kind, click.IntRange), name
        assert not isinstance(kind, click.types.FloatParamType) or isinstance(kind, Number), name
        if isinstance(kind, click.IntRange | click.FloatRange):
            assert kind.max is not None, name
            assert kind.min is not None, name
        assert not isinstance(kind, Parsed) or kind is BACKENDS or kind in UNITS, name


@pytest.mark.parametrize(("name", "parameter"), NUMBERS, ids=[name for name, _ in NUMBERS])
def test_what_no_number_can_be_is_refused(name: str, parameter: click.Parameter) -> None:
    assert name
    unit = UNITS.get(parameter.type, "") if isinstance(parameter.type, Parsed) else ""  # type: ignore[arg-type]
    for text in ("nan", "inf", "-inf", "-1", "1e400", "", "x", *HUGE):
        with pytest.raises(click.BadParameter):
            parameter.type.convert(text + unit, parameter, None)


@pytest.mark.parametrize(
    "arguments",
    ["diff a b --tolerance nan", "build digits --budget-minutes nan", "build digits --budget-minutes inf",
     "build digits --seed 4294967296", "bench a --threads 100000", "build digits --max-size 0",
     "build digits --max-latency 0ms", "cache prune --older-than nan"],
)  # fmt: skip
def test_the_command_says_so_at_once(arguments: str, tmp_path: Path) -> None:
    done = run_cli(*arguments.split(), cwd=tmp_path)
    assert done.code == click.UsageError.exit_code
    assert "Invalid value" in done.err


BAD = {"nan": "nan", "inf": "inf", "-inf": "-inf", "a lot": "1" + "0" * 30, "hexadecimal": "0x" + "f" * 6000,
       "too long": "9" * 6000, "deep": "[" * 5000 + "]" * 5000}  # fmt: skip


@pytest.mark.parametrize("number", BAD.values(), ids=BAD)
def test_toml_holds_no_such_number(number: str, tmp_path: Path) -> None:
    recipe, target = tmp_path / "r.toml", tmp_path / "mine.toml"
    recipe.write_text(f'summary = "x"\n[[steps]]\nstage = "prune"\nsparsity = {number}\n')
    with pytest.raises(RecipeError, match=r"r\.toml: ") as error:
        read_recipe(recipe)
    assert len(error.value.message) < 300
    text = (targets_folder() / "rpi4.toml").read_text().replace('id = "rpi4"', 'id = "mine"')
    target.write_text(f"threads = {number}\n" + text)
    with pytest.raises(TargetError):
        load_target(str(target))
    (tmp_path / "edgecompile.toml").write_text(f'model = "digits"\nbudget-minutes = {number}\n')
    if number in ("nan", "0x" + "f" * 6000):
        done = run_cli("build", cwd=tmp_path)
        assert done.code == ProjectFileError.exit_code, done.err


def test_a_target_has_no_more_threads_than_an_option(tmp_path: Path) -> None:
    text = (targets_folder() / "rpi4.toml").read_text().replace('id = "rpi4"', 'id = "mine"')
    (tmp_path / "mine.toml").write_text("threads = 100000\n" + text)
    with pytest.raises(TargetError, match="threads is 100000, expected 256 at most"):
        load_target(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("url", ["5", "null", '["ssh://a"]', "true"])
def test_the_file_of_boards_has_fields_of_their_types(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPILE_CONFIG", str(tmp_path))
    (tmp_path / "devices.json").write_text(f'{{"devices": {{"pi": {{"url": {url}}}}}, "groups": {{}}}}')
    with pytest.raises(DeviceError, match="can't be read: url of 'pi' is"):
        Inventory.load()
