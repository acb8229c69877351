"""The inputs that are changed, small and of every kind, and the commands that each is given to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RECIPE = """summary = "Pruning, then integers"

[[steps]]
stage = "prune"
sparsity = 0.6
epochs = 2

[[steps]]
stage = "qat"
preserve_sparsity = true
epochs = 1

[steps.distillation]
weight = 0.5

[[steps]]
stage = "convert"
"""
PROJECT = """model = "good.h5"
recipe = "int8"
data = "good.npz"
max-drop = "3%"
max-size = "1MB"
threads = "1,2"
budget-minutes = 0.5
seed = 3
input-shape = ["image=1,8,8,1"]
dry-run = true
"""
_BUILD = ("build", "--backends", "litert", "--target", "rpi4", "--out", "out")

# By kind: where the changed input goes, and the commands, of which each input gets the next.
PLACES = {"tflite": "x.tflite", "npz": "x.npz", "keras": "x.keras", "h5": "x.h5", "recipe": "x.toml",
          "target": "x.toml", "project": "edgecompile.toml", "manifest": "b/manifest.json",
          "golden": "b/golden.npz"}  # fmt: skip
COMMANDS: dict[str, tuple[Sequence[str], ...]] = {
    "tflite": (
        ("inspect", "x.tflite"),
        (*_BUILD, "x.tflite", "--recipe", "float"),
        ("inspect", "x.tflite", "--json"),
        ("diff", "good.tflite", "x.tflite"),
        ("bench", "x.tflite", "--runs", "2", "--warmup", "0"),
    ),
    "npz": (
        (*_BUILD, "good.h5", "--data", "x.npz", "--recipe", "int8", "--dry-run"),
        (*_BUILD, "good.h5", "--data", "x.npz", "--recipe", "int8"),
    ),
    "keras": (("inspect", "x.keras"), (*_BUILD, "x.keras", "--recipe", "float")),
    "h5": (("inspect", "x.h5"), (*_BUILD, "x.h5", "--recipe", "float")),
    "recipe": (
        (*_BUILD, "good.h5", "--data", "good.npz", "--recipe", "x.toml", "--dry-run"),
        ("recipes", "show", "x.toml"),
    ),
    "target": (
        ("build", "good.h5", "--data", "good.npz", "--recipe", "int8", "--target", "x.toml", "--dry-run"),
        ("targets", "show", "x.toml"),
    ),
    "project": (("build", "--dry-run", "--backends", "litert"),),
    "manifest": (("verify", "b"), ("inspect", "b"), ("bench", "b", "--runs", "2", "--warmup", "0"), ("diff", "b", "b")),
    "golden": (("verify", "b"), ("bench", "b", "--runs", "2", "--warmup", "0"), ("diff", "b", "b")),
}


def make(folder: Path) -> dict[str, list[bytes]]:
    """Write the good files into `folder`; {kind: the contents to change}. Takes half a minute, once."""
    if not (folder / "good" / "manifest.json").is_file():
        subprocess.run([sys.executable, "-c", _MAKER], cwd=folder, check=True, capture_output=True)
        command = [sys.executable, "-m", "edgecompile", "build", "good.h5", "--data", "good.npz"]
        command += ["--recipe", "int8", "--backends", "litert", "--max-drop", "off", "--out", "good"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        shutil.copyfile(folder / "good" / "model.tflite", folder / "good.tflite")
        command = ["float" if word in ("int8", "good") else word for word in command]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    def read(*names: str) -> list[bytes]:
        return [(folder / name).read_bytes() for name in names]

    target = (Path(__file__).parent.parent.parent / "targets" / "rpi4.toml").read_text().replace('"rpi4"', '"x"', 1)
    return {
        "tflite": read("good/model.tflite", "float/model.tflite", "lstm.tflite"),
        "npz": read("good.npz", "two.npz"),
        "keras": read("three.keras", "two.keras"),
        "h5": read("good.h5", "three.h5"),
        "recipe": [RECIPE.encode()],
        "target": [target.encode()],
        "project": [PROJECT.encode()],
        "manifest": read("good/manifest.json"),
        "golden": read("good/golden.npz"),
    }


def place(folder: Path, kind: str, content: bytes, *, sealed: bool) -> Path:
    """The changed input where its commands look for it. sealed: of a bundle, with the digests that it then has, so
    that it gets further than the first check."""
    from edgecompile.bundle import file_facts
    from edgecompile.manifest import write_manifest

    path = folder / PLACES[kind]
    (folder / "edgecompile.toml").unlink(missing_ok=True)
    if path.parent.name == "b":
        shutil.rmtree(path.parent, ignore_errors=True)
        shutil.copytree(folder / "good", path.parent)
    path.write_bytes(content)
    if sealed and kind in ("manifest", "golden"):
        try:
            manifest = json.loads((path.parent / "manifest.json").read_bytes())
            if kind == "golden":
                manifest["files"] |= file_facts(path.parent, ["golden.npz"])
            write_manifest(path.parent, manifest)
        except (ValueError, TypeError, RecursionError, AttributeError):
            path.write_bytes(content)
    return path


_MAKER = """
import keras, numpy as np, tensorflow as tf, tf_keras
rng = np.random.default_rng(0)
x, y = rng.random((40, 8, 8, 1), dtype=np.float32), np.arange(40) % 4
np.savez_compressed("good.npz", x_train=x, y_train=y, x_test=x, y_test=y)
np.savez("two.npz", **{"x_train/image": x, "y_train": y, "x_test/image": x, "y_test": y})
for library, names in ((keras, ("three.keras", "three.h5")), (tf_keras, ("two.keras", "good.h5"))):
    layers = library.layers
    image = library.Input((8, 8, 1), name="image")
    z = layers.Conv2D(4, 3, activation="relu", padding="same", name="first")(image)
    z = layers.Add(name="sum")([z, layers.BatchNormalization(name="norm")(z)])
    z = layers.Flatten(name="flat")(layers.MaxPooling2D(name="pool")(z))
    model = library.Model(image, layers.Dense(4, activation="softmax", name="scores")(z))
    for name in names:
        model.save(name)
inner = tf_keras.Sequential([tf_keras.Input((5, 3), batch_size=1), tf_keras.layers.LSTM(4), tf_keras.layers.Dense(2)])
converter = tf.lite.TFLiteConverter.from_keras_model(inner)
open("lstm.tflite", "wb").write(converter.convert())
"""
