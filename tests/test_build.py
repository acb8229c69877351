"""`edgecompile build` end to end, on small real data: what it chooses, writes, repeats and says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Run, command, digest, run_cli

from edgecompile import tflite_file
from edgecompile.errors import DataError, ModelError, OutputError

TASK = '''
import numpy as np
from sklearn.datasets import load_digits
from edgecompile.task import CLASSIFICATION, Metric, Split, Task

def odd_one(labels, outputs, inputs):
    """Share of digits that are right, and whose parity is right too."""
    right = outputs["digit"].argmax(-1) == labels["digit"]
    return float(np.mean(right & ((outputs["odd"][:, 0] > 0.5) == (labels["odd"] == 1))))

def task():
    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[..., None]
    y = digits.target
    def split(rows):
        return Split({"image": x[rows]}, {"digit": y[rows], "odd": y[rows] % 2})
    return Task("digits twice", CLASSIFICATION, split(slice(0, 1400)), split(slice(1400, None)),
                Metric("both_right", odd_one), "")
'''


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.keras (tf-keras, 8x8x1 to ten classes), digits.npz, an image folder, and a two-headed
    model with its task in my_task.py."""
    import tf_keras
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("workshop")
    tf_keras.utils.set_random_seed(0)
    digits = load_digits()
    x, y = (digits.images / 16).astype(np.float32)[..., None], digits.target
    arrays = {"x_train": x[:1400], "y_train": y[:1400], "x_test": x[1400:], "y_test": y[1400:]}
    np.savez_compressed(folder / "digits.npz", **arrays)
    np.savez_compressed(folder / "x.npz", x=x[:200])

    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 1), name="image")
    h = layers.Conv2D(8, 3, padding="same", name="conv")(image)
    h = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(h))
    h = layers.Flatten(name="flatten")(layers.MaxPooling2D(name="pool")(h))
    small = tf_keras.Model(image, layers.Dense(10, activation="softmax", name="scores")(h), name="small")
    small.compile(tf_keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    small.fit(x[:1400], y[:1400], epochs=4, verbose=0)
    small.save(folder / "small.keras")
    heads = [
        layers.Dense(10, activation="softmax", name="digit")(h),
        layers.Dense(1, activation="sigmoid", name="odd")(h),
    ]
    twice = tf_keras.Model(image, heads, name="twice")
    losses = {"digit": "sparse_categorical_crossentropy", "odd": "binary_crossentropy"}
    twice.compile(tf_keras.optimizers.Adam(3e-3), losses)
    twice.fit(x[:1400], {"digit": y[:1400], "odd": y[:1400] % 2}, epochs=4, verbose=0)
    twice.save(folder / "twice.h5")
    (folder / "my_task.py").write_text(TASK)

    for i in range(300):
        part = folder / "images" / ("train" if i < 200 else "test") / f"digit{y[i]}"
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype(np.uint8)).resize((12, 12)).save(part / f"{i}.png")
    return folder


def build(folder: Path, *arguments: str, out: str) -> dict[str, Any]:
    """The manifest that `build --json` prints."""
    done = run_cli("build", *arguments, "--out", out, "--json", cwd=folder)
    assert done.code == 0, done.err
    manifest: dict[str, Any] = json.loads(done.out)
    return manifest


def figure(manifest: dict[str, Any], name: str, of: str = "model") -> dict[str, Any]:
    found: dict[str, Any] = next(f for f in manifest["figures"] if f["name"] == name and f["of"] == of)
    return found


def test_second_build_does_nothing_and_keeps_figures(workshop: Path) -> None:
    first = build(workshop, "small.keras", "--data", "digits.npz", "--recipe", "int8", out="again")
    done = run_cli("build", "small.keras", "--data", "digits.npz", "--recipe", "int8", "--out", "again", cwd=workshop)
    assert done.code == 0
    assert "nothing to do" in done.out
    second = json.loads((workshop / "again" / "manifest.json").read_text())
    assert second["figures"] == first["figures"]


def test_remeasure_repeats_the_measurement_alone(workshop: Path) -> None:
    arguments = ["small.keras", "--data", "digits.npz", "--recipe", "int8"]
    first = build(workshop, *arguments, out="measured")
    second = build(workshop, *arguments, "--remeasure", out="measured")
    assert second["measurement"]["results"] != first["measurement"]["results"]
    # Two engines may be so close that the other one wins now: then that one is tested, and nothing else is repeated.
    same = second["winner"]["id"] == first["winner"]["id"]
    assert not same or figure(second, "accuracy") == figure(first, "accuracy")
    repeated = {"benchmark"} if same else {"benchmark", "test"}
    kept = [[r for r in made["history"] if r["stage"] not in repeated] for made in (first, second)]
    assert kept[0] == kept[1]


def test_recipe_follows_from_the_data(workshop: Path) -> None:
    def recipe(*arguments: str) -> str:
        done = run_cli("build", "small.keras", *arguments, "--dry-run", "--json", cwd=workshop)
        assert done.code == 0, done.err
        plan = json.loads(done.out)
        assert plan["reason"]
        return str(plan["recipe"])

    assert recipe("--target", "rpi4") == "dynamic"
    assert recipe("--target", "rpi4", "--data", "x.npz") == "int8"
    assert recipe("--target", "rpi4", "--data", "digits.npz") == "default"
    assert recipe("--target", "rpi4", "--data", "digits.npz", "--max-drop", "off") == "int8"


def test_dry_run_writes_nothing(workshop: Path) -> None:
    before = digest(workshop)
    done = run_cli("build", "small.keras", "--data", "digits.npz", "--out", "dry/bundle", "--dry-run", cwd=workshop)
    assert done.code == 0
    assert "load -> baseline -> search -> compile -> verify" in done.out
    assert digest(workshop) == before


def test_dry_run_reads_the_model_and_the_data(workshop: Path, tmp_path: Path) -> None:
    done = run_cli("build", "small.keras", "--data", "digits.npz", "--dry-run", "--json", cwd=workshop)
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    (image,), (scores,) = plan["inputs"], plan["outputs"]
    assert (image["name"], image["dtype"], image["shape"]) == ("image", "float32", [1, 8, 8, 1])
    assert scores["shape"] == [1, 10]
    done = run_cli("build", "small.keras", "--dry-run", cwd=workshop)
    assert "image float32 [1, 8, 8, 1]" in done.out

    np.savez(tmp_path / "wide.npz", x=np.zeros((20, 9, 9, 1), np.float32))
    done = run_cli("build", "small.keras", "--data", str(tmp_path / "wide.npz"), "--dry-run", cwd=workshop)
    assert (done.code, "[9, 9, 1]" in done.err) == (DataError.exit_code, True), done.err
    cut = tmp_path / "cut.keras"
    cut.write_bytes((workshop / "small.keras").read_bytes()[:-2000])
    done = run_cli("build", str(cut), "--dry-run", cwd=workshop)
    assert (done.code, "cut.keras" in done.err) == (ModelError.exit_code, True), done.err


def test_a_teacher_of_another_task_is_refused_before_anything_is_trained(workshop: Path) -> None:
    for more in ("--dry-run", "--budget-minutes=0.1"):
        done = run_cli(
            "build", "small.keras", "--data", "digits.npz", "--recipe", "distill", "--teacher", "twice.h5", more,
            cwd=workshop,
        )  # fmt: skip
        assert done.code == ModelError.exit_code
        assert "the teacher twice has outputs of shapes [[10], [1]], the model to be trained [[10]]" in done.err


def test_a_cache_that_cannot_be_written_is_named_at_once(workshop: Path) -> None:
    command = ("build", "small.keras", "--recipe", "dynamic", "--target", "rpi4")
    nowhere = {"EDGECOMPILE_CACHE": "/dev/null/cache"}
    done = run_cli(*command, cwd=workshop, env=nowhere)
    assert done.code == OutputError.exit_code
    assert "the cache /dev/null/cache can't be written" in done.err
    assert "set EDGECOMPILE_CACHE" in done.err
    done = run_cli(*command, "--dry-run", cwd=workshop, env=nowhere)
    assert done.code == 0, done.err
    assert "a temporary folder takes its place" in done.err


def test_project_file_gives_model_and_options(workshop: Path, tmp_path: Path) -> None:
    lines = [f'model = "{workshop}/small.keras"', f'data = "{workshop}/digits.npz"', 'recipe = "dynamic"']
    (tmp_path / "edgecompile.toml").write_text("\n".join([*lines, 'target = "rpi4"', 'max-drop = "5%"', "seed = 3"]))
    manifest = build(tmp_path, "--target", "rpi3", out="out")
    assert manifest["target"]["id"] == "rpi3"  # the command line wins
    assert manifest["recipe"]["name"] == "dynamic"
    assert manifest["options"]["max_drop"] == 5
    assert manifest["options"]["seed"] == 3


def test_other_targets_are_not_measured_here(workshop: Path) -> None:
    manifest = build(workshop, "small.keras", "--data", "digits.npz", "--recipe", "int8", "--target", "rpi4", out="pi")
    assert manifest["measurement"] is None
    assert not [f for f in manifest["figures"] if f["name"].startswith(("latency", "peak"))]
    assert "not measured" in manifest["winner"]["why"]


def test_unlabelled_data_calibrates_and_accuracy_is_not_measured(workshop: Path) -> None:
    manifest = build(workshop, "small.keras", "--data", "x.npz", out="unlabelled")
    assert manifest["recipe"]["name"] == "int8"
    gate = next(g for g in manifest["gates"] if g["name"] == "accuracy")
    assert gate["passed"] is None
    assert "not measured" in gate["text"]
    assert not [f for f in manifest["figures"] if f["name"] == "accuracy"]


def test_image_folder_is_resized_to_the_model(workshop: Path) -> None:
    manifest = build(workshop, "small.keras", "--data", "images", "--recipe", "int8", "--max-drop", "off", out="folder")
    assert figure(manifest, "accuracy")["samples"] == 100


def test_two_outputs_and_a_task_of_the_users_own(workshop: Path) -> None:
    arguments = ["twice.h5", "--data", "my_task:task", "--recipe", "qat", "--max-drop", "20%"]
    manifest = build(workshop, *arguments, "--tensorboard", "logs", out="twice")
    outputs = manifest["models"]["model"]["signature"]["outputs"]
    assert [t["name"] for t in outputs] == ["digit", "odd"]
    assert figure(manifest, "both_right")["value"] > 0.5
    qat = next(r for r in manifest["history"] if r["stage"] == "qat")
    assert qat["metrics"]["weights_changed"] > qat["metrics"]["weights_total"] / 2
    with np.load(workshop / "twice" / "golden.npz") as golden:
        names = {"inputs/image", "float/digit", "float/odd", "reference/digit", "reference/odd"}
        assert set(golden.files) == names
    events = list((workshop / "logs" / "qat").glob("events.out.tfevents.*"))
    assert events
    assert events[0].stat().st_size > 100


@pytest.mark.parametrize("recipe", ["int8", "qat"])
def test_int8_inputs_and_outputs(workshop: Path, recipe: str) -> None:
    arguments = ["small.keras", "--data", "digits.npz", "--recipe", recipe, "--io", "int8", "--max-drop", "20%"]
    manifest = build(workshop, *arguments, out=f"io-{recipe}")
    signature = manifest["models"]["model"]["signature"]
    for tensor in (*signature["inputs"], *signature["outputs"]):
        assert tensor["dtype"] == "int8"
        assert tensor["scale"] > 0
    assert signature["inputs"][0]["name"] == "image"
    assert signature["outputs"][0]["name"] == "scores"


def test_pruning_shows_in_the_files_own_int8_weights(workshop: Path) -> None:
    options = ("--recipe", "prune-qat", "--max-drop", "20%")
    build(workshop, "small.keras", "--data", "digits.npz", *options, out="sparse")
    model = tflite_file.read(workshop / "sparse" / "model.tflite")
    weights = [t for t in model.main.tensors if t.is_constant and t.dtype == "int8"]
    assert len(weights) == 2
    for tensor in weights:
        assert model.sparsity(tensor).zeros >= 0.49


def test_same_build_twice_at_once(workshop: Path, tmp_path: Path) -> None:
    """Both wait for each other's stages and end well, in the same bytes."""
    import os

    env = {**os.environ, "EDGECOMPILE_CACHE": str(tmp_path / "cache")}
    arguments = ["build", "small.keras", "--data", "digits.npz", "--recipe", "dynamic", "--out"]
    started = [
        subprocess.Popen(command(*arguments, tmp_path / name), cwd=workshop, env=env, stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    ended = [Run(process.wait(timeout=200), "", process.communicate()[1]) for process in started]
    assert [run.code for run in ended] == [0, 0], ended
    assert (tmp_path / "a" / "model.tflite").read_bytes() == (tmp_path / "b" / "model.tflite").read_bytes()
