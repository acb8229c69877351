"""--help: of every command, fast, and without the heavy libraries."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from running import run_cli

import edgecompile
from edgecompile import docs
from edgecompile.cli import COMMANDS

HEAVY = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow_model_optimization",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "tvm",
)
ALL = dict(docs.commands())

_EACH_HELP = """
import json, sys
from edgecompile.cli import main
loaded = {}
for path in json.loads(sys.argv[1]):
    try:
        main([*path.split()[1:], "--help"])
    except SystemExit as leave:
        assert leave.code == 0, path
    loaded[path] = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print(json.dumps(loaded), file=sys.stderr)
"""

_EACH_MODULE = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps([name for name in json.loads(sys.argv[2]) if name in sys.modules]))
"""


def test_no_help_imports_a_heavy_library() -> None:
    arguments = [json.dumps(list(ALL)), json.dumps(HEAVY)]
    done = subprocess.run([sys.executable, "-c", _EACH_HELP, *arguments], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stderr)
    assert loaded == {path: [] for path in ALL}


def test_importing_any_module_leaves_the_heavy_libraries_alone() -> None:
    names = [module.name for module in pkgutil.walk_packages(edgecompile.__path__, "edgecompile.")]
    # The compiler itself is written in TVM, and is imported where it compiles: in the worker.
    own = "edgecompile.backends.tvm."
    names = [name for name in names if name != "edgecompile.__main__" and not name.startswith(own)]
    assert own.removesuffix(".") in names
    assert "edgecompile.stages.qat" in names
    arguments = [json.dumps(names), json.dumps(HEAVY)]
    done = subprocess.run([sys.executable, "-c", _EACH_MODULE, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_help_takes_less_than_150_ms() -> None:
    script = Path(sys.executable).with_name("edgecompile")
    if not script.exists():
        pytest.skip("the console script is not installed beside this Python")
    times = []
    for _ in range(7):  # the least: what it costs where nobody else is at work
        began = time.perf_counter()
        subprocess.run([script, "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.150


@pytest.mark.parametrize("path", ALL)
def test_each_command_says_what_it_does_and_gives_an_example(path: str) -> None:
    text, examples = docs.split_help(ALL[path])
    first = text.split("\n\n")[0].replace("\n", " ")
    assert first.endswith("."), first
    assert examples
    assert all(example.startswith("edgecompile ") for example in examples)
    if not isinstance(ALL[path], click.Group):
        assert all(example.startswith(f"{path}") for example in examples)


@pytest.mark.parametrize("path", ALL)
def test_each_option_has_help_and_each_example_parses(path: str) -> None:
    command = ALL[path]
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help or option.hidden, option.name
    if isinstance(command, click.Group):
        return
    for example in docs.split_help(command)[1]:
        words = example.split(" > ")[0].split(" >> ")[0].split()[len(path.split()) :]
        command.make_context(path, words)  # a click.UsageError where an option or its value is unknown


def test_the_list_of_commands_is_that_of_the_modules() -> None:
    assert {path.split()[1] for path in ALL if " " in path} == set(COMMANDS)


def test_a_misspelt_command_is_wrong_usage_with_a_suggestion(tmp_path: Path) -> None:
    done = run_cli("verfy", "x", cwd=tmp_path)
    assert done.code == 2
    assert "perhaps you meant 'verify'" in done.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str, tmp_path: Path) -> None:
    done = run_cli("completion", shell, cwd=tmp_path)
    assert done.code == 0
    assert "_EDGECOMPILE_COMPLETE" in done.out


def test_completion_knows_commands_and_options(tmp_path: Path) -> None:
    def complete(words: str) -> list[str]:
        count = len(words.split(" ")) - 1
        env = {"COMP_WORDS": words, "COMP_CWORD": str(count), "_EDGECOMPILE_COMPLETE": "bash_complete"}
        return run_cli(cwd=tmp_path, env=env).out.split()

    assert complete("edgecompile mod") == ["plain,models"]
    assert complete("edgecompile models tr") == ["plain,train"]
    assert complete("edgecompile models train --ep") == ["plain,--epochs"]
