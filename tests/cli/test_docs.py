"""The reference pages are those that the code gives now."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompile import docs
from edgecompile.errors import all_errors

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", docs.pages())
def test_the_committed_page_is_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == docs.pages()[name], "run scripts/docs"


def test_every_command_option_and_exit_code_is_there() -> None:
    text = docs.cli_page()
    for path, command in docs.commands():
        assert f"# {path}\n" in text
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert f"`{parameter.opts[-1]}`" in text
    table = docs.exit_codes_page()
    codes = [error.exit_code for error in all_errors()]
    assert len(set(codes)) == len(codes)
    for code in (0, 1, 2, *codes, 130):
        assert f"| {code} |" in table


def test_write_makes_the_folder(tmp_path: Path) -> None:
    written = docs.write(tmp_path / "docs")
    assert [path.name for path in written] == ["cli.md", "exit-codes.md"]
    assert all(path.read_text().startswith("<!--") for path in written)
