"""The README's examples are executed, in order, in one folder: files are written, commands must succeed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.(?:py|toml))\n")


@dataclass(frozen=True)
class File:
    name: str
    text: str


@dataclass(frozen=True)
class Command:
    arguments: list[str]


def examples() -> Iterator[File | Command]:
    """Files that the README shows (their first line is a comment with the name), and commands of its bash blocks."""
    for language, text in BLOCK.findall((ROOT / "README.md").read_text()):
        if language == "bash":
            for line in text.splitlines():
                if arguments := shlex.split(line, comments=True):
                    yield Command(arguments)
        elif named := NAMED.match(text):
            yield File(named[1], text)


def needs_a_board(arguments: list[str]) -> bool:
    return "--on" in arguments or arguments[:2] in (["devices", "probe"], ["devices", "clean"], ["devices", "group"])


def commands() -> list[list[str]]:
    return [example.arguments for example in examples() if isinstance(example, Command)]


def test_every_command_is_one_that_can_be_executed() -> None:
    """Set-up scripts have their own tests; anything else than these would be documented and never run."""
    scripts = [arguments[0] for arguments in commands() if arguments[0] not in ("edgecompile", "python")]
    assert scripts == ["scripts/quickstart", "scripts/test"]
    assert all((ROOT / script).is_file() for script in scripts)


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_examples_run(tmp_path: Path) -> None:
    ran = 0
    environment = {**os.environ, "EDGECOMPILE_CONFIG": str(tmp_path / "config")}
    for example in examples():
        if isinstance(example, File):
            (tmp_path / example.name).write_text(example.text)
            continue
        program, *arguments = example.arguments
        if program.startswith("scripts/") or needs_a_board(arguments):
            continue
        command = [sys.executable, *(["-m", "edgecompile"] if program == "edgecompile" else []), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(example.arguments)}\n{done.stdout}{done.stderr}"
        ran += 1
    assert ran > 10
