"""targets, recipes and models: lists, details, and the training of a built-in model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import run_cli

from edgecompile import catalog
from edgecompile.errors import DataError, ModelError, OutputError, RecipeError, TargetError
from edgecompile.recipe import recipe_names
from edgecompile.target import target_ids


@pytest.mark.parametrize(
    ("noun", "key", "expected"),
    [("targets", "id", target_ids()), ("recipes", "name", recipe_names()), ("models", "id", catalog.ids())],
)
def test_list_names_all(noun: str, key: str, expected: list[str], tmp_path: Path) -> None:
    rows = json.loads(run_cli(noun, "list", "--json", cwd=tmp_path).out)
    assert [row[key] for row in rows] == expected
    lines = run_cli(noun, "list", cwd=tmp_path).out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == expected
    assert len(lines) == 1 + len(expected)


@pytest.mark.parametrize(
    ("noun", "name", "words"),
    [
        ("targets", "rpi4", ["cortex-a72", "verified here", "not measured without a device"]),
        ("recipes", "prune-qat", ["training data", "sparsity 0.5", "qat"]),
        ("models", "resnet8", ["CIFAR-10", "epochs 60"]),
    ],
)
def test_show(noun: str, name: str, words: list[str], tmp_path: Path) -> None:
    done = run_cli(noun, "show", name, cwd=tmp_path)
    assert done.code == 0, done.err
    assert [word for word in words if word not in done.out] == []
    assert isinstance(json.loads(run_cli(noun, "show", name, "--json", cwd=tmp_path).out), dict)


@pytest.mark.parametrize(
    ("noun", "name", "error", "meant"),
    [
        ("targets", "rpi44", TargetError, "rpi4"),
        ("recipes", "int-8", RecipeError, "int8"),
        ("models", "resnet9", ModelError, "resnet8"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(
    noun: str, name: str, error: type[TargetError], meant: str, tmp_path: Path
) -> None:
    done = run_cli(noun, "show", name, cwd=tmp_path)
    assert done.code == error.exit_code
    assert f"perhaps you meant '{meant}'" in done.err
    assert "Traceback" not in done.err


def test_models_say_what_is_missing_and_what_is_trained(digits_bundle: Path, tmp_path: Path) -> None:
    del digits_bundle  # its build trained the model
    rows = json.loads(run_cli("models", "list", "--json", cwd=tmp_path, env={"EDGECOMPILE_DATA": ""}).out)
    models = {row["id"]: row for row in rows}
    assert models["digits"]["data"] is None
    assert models["digits"]["weights"] == "in the cache"
    assert "EDGECOMPILE_DATA is not set" in models["resnet8"]["data"]
    assert models["resnet8"]["weights"] == "none"


def test_train_without_data_names_what_is_missing(tmp_path: Path) -> None:
    done = run_cli("models", "train", "resnet8", cwd=tmp_path, env={"EDGECOMPILE_DATA": ""})
    assert done.code == DataError.exit_code
    assert "cifar10/train_labels.csv" in done.err
    assert "Traceback" not in done.err


def test_the_default_training_is_that_of_the_build(digits_bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((digits_bundle / "manifest.json").read_text())
    done = run_cli("models", "train", "digits", "--out", "sub/digits.keras", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert "done before" in done.err
    assert found["found_by_build"]
    baseline = next(f for f in manifest["figures"] if f["name"] == "accuracy" and f["of"] == "source")
    assert (found["value"], found["samples"]) == (baseline["value"], baseline["samples"])
    assert (tmp_path / "sub/digits.keras").stat().st_size == Path(found["file"]).stat().st_size


def test_a_shorter_training_says_how_to_build_from_it(tmp_path: Path) -> None:
    done = run_cli("models", "train", "digits", "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "on 360 test samples" in done.out
    assert "--data digits" in done.out.splitlines()[-1]


def test_train_refuses_an_output_before_it_trains(tmp_path: Path) -> None:
    done = run_cli("models", "train", "digits", "--epochs", "7", "--out", "digits.h5", cwd=tmp_path)
    assert done.code == OutputError.exit_code
    assert "--out digits.keras" in done.err
    assert "epoch" not in done.err
