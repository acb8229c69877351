"""Numbers of threads that engines compete with: how they are written, and what they mean."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from running import run_cli

from edgecompile.backends.base import with_threads, without_threads
from edgecompile.errors import TargetError
from edgecompile.target import load_target, targets_folder
from edgecompile.units import parse_threads


@pytest.mark.parametrize(
    ("text", "numbers"), [("2", (2,)), ("4,1", (4, 1)), ("1-4", (1, 2, 3, 4)), (" 2, 1-3 ", (2, 1, 3))]
)
def test_they_are_in_the_order_given(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_threads(text) == numbers


@pytest.mark.parametrize("text", ["", "0", "x", "4-1", "1-", "1,,2", "0-2"])
def test_what_is_no_number_of_threads(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of threads, or several such as"):
        parse_threads(text)


def test_too_many_of_them(tmp_path: Path) -> None:
    done = run_cli("build", "digits", "--threads", "1-64", "--dry-run", cwd=tmp_path)
    assert done.code == click.UsageError.exit_code
    assert "expected 16 numbers of threads at most, received 64" in done.err


@pytest.mark.parametrize(("written", "numbers"), [("3", (3,)), ("[4, 1]", (4, 1))])
def test_a_target_names_one_or_several(written: str, numbers: tuple[int, ...], tmp_path: Path) -> None:
    assert load_target(str(_target(written, tmp_path))).numbers_of_threads == numbers


@pytest.mark.parametrize("written", ["0", "[]", "[1, 0]", '"1-4"', '["2"]'])
def test_what_is_none_in_a_target(written: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="threads"):
        load_target(str(_target(written, tmp_path)))


def _target(threads: str, folder: Path) -> Path:
    text = (targets_folder() / "rpi4.toml").read_text()
    path = folder / "mine.toml"
    path.write_text(f"threads = {threads}\n" + text.replace('id = "rpi4"', 'id = "mine"'))
    return path


@pytest.mark.parametrize("threads", [1, 2, 12])
@pytest.mark.parametrize("name", ["tvm", "litert-xnnpack-sparse"])
def test_an_id_says_how_many(name: str, threads: int) -> None:
    assert without_threads(with_threads(name, threads)) == without_threads(name) == name
