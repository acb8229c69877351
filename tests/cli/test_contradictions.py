"""Options that can't both be meant are refused; what a project file or the environment says is no contradiction."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from running import run_cli

REFUSED = {
    "build digits --backends litert,tvm --without tvm": "--backends and --without both name tvm",
    "build digits --backends tensorrt --threads 2": "--threads: tensorrt runs on a GPU",
    "build digits --backends ,": "expected names of backends",
    "build digits --runtime system": "--runtime is for a board: give --on",
    "build digits --target rpi4 --remeasure": "--remeasure: nothing is measured for rpi4",
    "build m.tflite --recipe int8 --tensorboard logs": "--tensorboard is for training, and recipe 'int8' trains",
    "build m.tflite --recipe mine.toml --tensorboard logs": "--tensorboard is for training, and recipe mine.toml",
    "build digits --input-shape a=1,2 --input-shape a=1,3": "--input-shape: a is given twice",
    "verify b --samples 3": "--samples is for a board: give --on",
    "verify b --runtime provisioned": "--runtime is for a board",
    "bench b --runtime system": "--runtime is for a board",
    "bench b --sustain 10s --runs 5": "--sustain and --runs contradict each other",
    "bench b --set-clocks": "--set-clocks is for a Jetson",
    "bench b --report a.html": "give --sustain",
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), REFUSED.items(), ids=REFUSED)
def test_it_is_refused_at_once(arguments: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('summary = "x"\n[[steps]]\nstage = "convert"\n')
    done = run_cli(*arguments.split(), cwd=tmp_path)
    assert done.code == click.UsageError.exit_code, done.err
    assert said in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        "--recipe int8",
        "--recipe int8 --budget-minutes 3",
        "--target rpi4",
        "--backends litert,tvm",
        "--recipe int8 --seed 3",
    ],
)
def test_what_is_set_elsewhere_is_no_contradiction(arguments: str, tmp_path: Path) -> None:
    """A budget and a folder of logs for all recipes, and backends that are left out on this machine."""
    (tmp_path / "edgecompile.toml").write_text('budget-minutes = 5\nremeasure = true\nruntime = "system"\n')
    done = run_cli("build", "digits", *arguments.split(), "--dry-run", cwd=tmp_path, env={"EDGECOMPILE_WITHOUT": "tvm"})
    assert done.code == 0, done.err


def test_a_recipe_of_the_users_is_called_by_its_file(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('summary = "x"\n[[steps]]\nstage = "prune"\nsparsity = 1.5\n')
    done = run_cli("build", "digits", "--recipe", "mine.toml", "--dry-run", cwd=tmp_path)
    assert done.code == 18
    assert "Error: mine.toml: step 1 (prune): prune: sparsity is 1.5, expected" in done.err
    recipe.write_text('summary = "x"\n[[steps]]\nstage = "prune"\n[[steps]]\nstage = "convert"\n')
    import keras

    x = keras.Input((3,), name="x")
    keras.Model(x, keras.layers.Dense(2)(x)).save(tmp_path / "m.keras")
    done = run_cli("build", "m.keras", "--recipe", "mine.toml", "--dry-run", cwd=tmp_path)
    assert done.code == 18
    assert "Error: recipe mine.toml trains, and no data was given" in done.err
