"""Builds of what isn't one class a sample: figures are Keras's own, and every output has a figure and a gate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import Run, edit_manifest, run_cli
from sklearn.metrics import average_precision_score, r2_score

from edgecompile.verify import Verification, verify
from edgecompile.worker import Worker

BUILD = ("--recipe", "int8", "--backends", "litert", "--max-drop", "20%", "--out", "bundle")
KINDS = {"age": "regression", "kind": "classification", "tags": "multi-label"}


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Verification]]:
    worker = Worker(tmp_path_factory.mktemp("log") / "worker.log")
    yield lambda path: verify(path, worker, report=lambda _: None)
    worker.close()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(folder, the build, labels, what Keras gives for them): whole ages, one of three kinds, any of four tags."""
    import keras

    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(360, 8)).astype(np.float32), rng.normal(size=(8, 8))
    hidden = x @ weights
    y = {
        "age": np.rint(40 + 4 * hidden[:, 0]).astype(np.int64),
        "kind": hidden[:, 1:4].argmax(1),
        "tags": (hidden[:, 4:] + rng.normal(size=(360, 4)) > 1).astype(np.int8),
    }
    keras.utils.set_random_seed(0)
    image = keras.Input((8,), name="x")
    z = keras.layers.Dense(24, activation="relu")(image)
    heads = [("age", 1, None), ("kind", 3, "softmax"), ("tags", 4, "sigmoid")]
    model = keras.Model(image, [keras.layers.Dense(n, activation=a, name=name)(z) for name, n, a in heads])
    losses = {"age": "mse", "kind": "sparse_categorical_crossentropy", "tags": "binary_crossentropy"}
    model.compile(keras.optimizers.Adam(1e-2), losses, loss_weights={"age": 0.01, "kind": 1.0, "tags": 1.0})
    model.fit(x[:260], {name: label[:260] for name, label in y.items()}, epochs=40, verbose=0)
    model.save(folder / "m.keras")
    arrays = {f"y_{s}/{k}": label[part] for k, label in y.items() for s, part in PARTS.items()}
    np.savez(folder / "m.npz", **{f"x_{s}": x[part] for s, part in PARTS.items()}, **arrays)
    done = run_cli("build", "m.keras", "--data", "m.npz", *BUILD, cwd=folder)
    assert done.code == 0, done.err
    outputs = dict(zip(y, model.predict(x[260:], verbose=0), strict=True))
    return folder, done, {name: label[260:] for name, label in y.items()}, outputs


PARTS = {"train": slice(260), "test": slice(260, None)}


def test_the_figures_of_each_output_are_kerass(
    mixed: tuple[Path, Run, dict[str, np.ndarray], dict[str, np.ndarray]],
) -> None:
    folder, _, labels, outputs = mixed
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    assert manifest["data"]["kind"] == "mixed"
    assert {output["name"]: output["kind"] for output in manifest["data"]["outputs"]} == KINDS
    found = {f["name"]: f["value"] for f in manifest["figures"] if f["of"] == "source" and f["split"] == "test"}
    accuracy = np.mean(outputs["kind"].argmax(1) == labels["kind"])
    precision = average_precision_score(labels["tags"], outputs["tags"], average="macro")
    assert found == {
        "mean score": pytest.approx(np.mean([r2_score(labels["age"], outputs["age"]), accuracy, precision]), abs=1e-4),
        "mse/age": pytest.approx(np.mean((labels["age"] - outputs["age"][:, 0]) ** 2), rel=1e-4),
        "accuracy/kind": pytest.approx(accuracy),
        "macro AP/tags": pytest.approx(precision, abs=1e-4),
    }
    gates = {gate["name"]: gate["passed"] for gate in manifest["gates"] if gate["name"].startswith("accuracy")}
    assert gates == {"accuracy": True, "accuracy/age": True, "accuracy/kind": True, "accuracy/tags": True}


def test_terminal_and_report_have_each_output(
    mixed: tuple[Path, Run, dict[str, np.ndarray], dict[str, np.ndarray]],
) -> None:
    folder, done, *_ = mixed
    shown = done.out + done.err
    assert "labels: 'age' regression (mse), 'kind' classification (accuracy), 'tags' multi-label (macro AP)" in shown
    for name in ("mse/age", "accuracy/kind", "macro AP/tags"):
        assert f"  {name} " in done.out
    assert "ok accuracy/age: mse " in done.out
    page = (folder / "bundle" / "report.html").read_text()
    for title in ("Mean score", "Mse of age", "Accuracy of kind", "Macro AP of tags"):
        assert f'<th scope="row">{title}' in page
    assert "<div>age: regression, judged by mse</div>" in page


def test_verify_judges_each_output(
    mixed: tuple[Path, Run, dict[str, np.ndarray], dict[str, np.ndarray]],
    check: Callable[[Path], Verification],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(mixed[0])
    assert [(c.name, c.passed) for c in check(Path("bundle")).checks[-4:]] == [
        ("accuracy", True), ("accuracy/age", True), ("accuracy/kind", True), ("accuracy/tags", True),
    ]  # fmt: skip
    bundle = Path(shutil.copytree("bundle", tmp_path / "bundle"))

    def promise_more(manifest: dict[str, Any]) -> None:
        (test,) = (record for record in manifest["history"] if record["stage"] == "test")
        test["metrics"]["outputs"]["kind"]["value"] += 0.25

    edit_manifest(bundle, promise_more)
    found = check(bundle)
    assert found.failed == ["accuracy/kind"]
    assert "the manifest says" in next(c.text for c in found.checks if c.name == "accuracy/kind")


def sixteen_bits(values: np.ndarray, path: Path) -> None:
    Image.fromarray(np.rint(values * 65535).astype(np.uint16)).save(path.with_suffix(".png"))


def floating(values: np.ndarray, path: Path) -> None:
    Image.fromarray(values.astype(np.float32)).save(path.with_suffix(".tif"))


@pytest.mark.parametrize("save", [sixteen_bits, floating], ids=["16-bit PNG", "float TIFF"])
def test_deep_images_have_the_accuracy_that_keras_finds(
    tmp_path: Path, save: Callable[[np.ndarray, Path], None]
) -> None:
    """Digits as dark images, all of whose differences an 8-bit reader would cut away or clip."""
    import keras
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, y = (digits.images[:300] / 16 * 0.4).astype(np.float32), digits.target[:300]
    for i, (values, label) in enumerate(zip(pixels, y, strict=True)):
        place = tmp_path / "d" / ("train" if i < 200 else "test") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        save(values, place / f"{i:03}")
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    z = keras.layers.Flatten()(keras.layers.Rescaling(1 / 102)(image))
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax", name="scores")(z))
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    scaled = pixels[..., None] * 255
    model.fit(scaled[:200], y[:200], epochs=6, verbose=0)
    _, accuracy = model.evaluate(scaled[200:], y[200:], verbose=0)
    assert 0.5 < accuracy < 1
    model.save(tmp_path / "m.keras")
    done = run_cli("build", "m.keras", "--data", "d", *BUILD, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    figures = {f["of"]: f["value"] for f in json.loads(done.out)["figures"] if f["name"] == "accuracy"}
    assert figures["source"] == pytest.approx(accuracy, abs=1e-6)
    assert figures["model"] == pytest.approx(accuracy, abs=0.1)
