#!/usr/bin/env python3
"""The networks of keras.applications, from file to bundle: one resumable row a command.

    .venv/bin/python scripts/bench_applications.py --list
    .venv/bin/python scripts/bench_applications.py mobilenet [--recipes int8,qat] [--out DIR]
    .venv/bin/python scripts/bench_applications.py --table      # of all rows there are, as Markdown

A row makes the network with random weights at 96x96 (InceptionV3: 75x75), trains it for a few steps on made-up images
of four kinds, settles the statistics of its BatchNormalization on them and fits its last layer: what int8 does to the
outputs of a network of random weights, nearly the same for every image, says nothing. Then it is built through the
command line, as a user does: post-training int8, and quantization-aware training of one epoch. Writes
docs/benchmarks/applications-ROW.json: exit codes, seconds, what stayed in float, how far the outputs are from Keras's
own (agreement of classes; largest difference, as a share of the outputs' range), sizes. What a build has finished is in
edgecompile's cache: the same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from compression_rows.common import ROOT, facts

RESULTS = ROOT / "docs" / "benchmarks"
CLASSES = 4
TRAIN, TEST = 64, 64
EPOCH = 'summary = "Quantization-aware training of one epoch, then int8"\n\n[[steps]]\nstage = "qat"\nepochs = 1\n\n' \
        '[[steps]]\nstage = "convert"\n'  # fmt: skip
RECIPES = ("int8", "qat")


@dataclass(frozen=True)
class Network:
    name: str  # in keras.applications
    size: int = 96
    epochs: int = 8
    arguments: tuple[tuple[str, Any], ...] = ()


ROWS = {
    "mobilenet": Network("MobileNet"),
    "mobilenet-v2": Network("MobileNetV2"),
    "mobilenet-v3-small": Network("MobileNetV3Small"),
    # After 8 epochs its outputs are mostly rounding in int8: LiteRT's own kernels give others, and parity refuses it.
    "efficientnet-b0": Network("EfficientNetB0", epochs=24),
    "efficientnet-v2-b0": Network("EfficientNetV2B0"),
    "nasnet-mobile": Network("NASNetMobile"),
    "densenet121": Network("DenseNet121"),
    "inception-v3": Network("InceptionV3", 75),
    "resnet50-v2": Network("ResNet50V2"),
    "xception": Network("Xception"),
    "convnext-tiny": Network("ConvNeXtTiny"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=list(ROWS), metavar="ROW")
    parser.add_argument("--recipes", default=",".join(RECIPES), help=f"of {','.join(RECIPES)}, without spaces")
    parser.add_argument("--out", type=Path, help="folder of models and bundles [default: build/applications/ROW]")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    parser.add_argument("--list", action="store_true", help="name all rows")
    parser.add_argument("--table", action="store_true", help="print the results there are")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{key:<20} keras.applications.{row.name}, {row.size}x{row.size}" for key, row in ROWS.items()))
    elif given.table:
        print(table(given.results))
    elif given.row is None:
        parser.error("name a row, or give --list or --table")
    else:
        out = (given.out or ROOT / "build" / "applications" / given.row).resolve()
        run(given.row, given.recipes.split(","), out, given.results)
        print(table(given.results))


def run(row: str, recipes: list[str], out: Path, results: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = results / f"applications-{row}.json"
    result = json.loads(path.read_text()) if path.is_file() else {"row": f"applications-{row}"}
    if not (out / "float.npy").is_file():
        make(ROWS[row], out)
    for recipe in recipes:
        result |= {"network": ROWS[row].name, "size": ROWS[row].size, **facts(), recipe: build(recipe, out)}
        results.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def images(size: int, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, size, size, 3] in 0 to 255, labels [n]: stripes of two directions and two widths, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    places = np.arange(size)
    rows = []
    for label in labels:
        width = (4, 10)[label // 2]
        wave = np.sin(2 * np.pi * places / width + rng.uniform(0, 2 * np.pi))
        picture = wave[:, None] if label % 2 else wave[None, :]
        colour = rng.uniform(0.3, 1, 3)
        rows.append(picture[..., None] * colour * np.ones((size, size, 1)) + rng.normal(0, 0.3, (size, size, 3)))
    return np.clip(127 + 80 * np.array(rows), 0, 255).astype(np.float32), labels


def make(network: Network, out: Path) -> None:
    """The network's model.keras, its data.npz, and Keras's own outputs on the test images, float.npy."""
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, network.name)(
        weights=None, classes=CLASSES, input_shape=(network.size, network.size, 3), **dict(network.arguments)
    )
    x, y = images(network.size, 0, TRAIN)
    x_test, y_test = images(network.size, 1, TEST)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x, y, batch_size=16, epochs=network.epochs, verbose=0)
    # Each normalization's statistics depend on those before it: moved all at once, they settle after a few passes.
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.3
    for _ in range(6 if layers else 0):
        model(x, training=True)
    for layer, value in zip(layers, momentum, strict=True):
        layer.momentum = value
    fit_head(model, x, y)
    model.save(out / "model.keras")
    np.savez(out / "data.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    np.save(out / "float.npy", model.predict(x_test, batch_size=16, verbose=0))


def fit_head(model: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Set the last layer with weights (dense, or a convolution of one place) by ridge regression on its inputs."""
    import keras

    head = next(layer for layer in reversed(model.layers) if layer.weights)
    features = keras.Model(model.input, head.input).predict(x, batch_size=16, verbose=0).reshape(len(x), -1)
    centre, spread = features.mean(0), features.std() + 1e-6
    z = (features - centre) / spread
    targets = 4.0 * (np.eye(CLASSES)[y] - 1 / CLASSES)
    weights = z.T @ np.linalg.solve(z @ z.T + 0.1 * len(x) * np.eye(len(x)), targets) / spread
    head.set_weights([weights.reshape(head.weights[0].shape), -centre @ weights])


def build(recipe: str, out: Path) -> dict[str, Any]:
    """Exit code and seconds of the build, and what its bundle says."""
    named = out / "one-epoch.toml"
    named.write_text(EPOCH)
    bundle, log = out / recipe, out / f"{recipe}.log"
    command = ["build", str(out / "model.keras"), "--data", str(out / "data.npz"), "--out", str(bundle), "--max-drop",
               "off", "--backends", "litert", "--recipe", recipe if recipe == "int8" else str(named)]  # fmt: skip
    began = time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "edgecompile", *command],
            cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    code = done.returncode
    found: dict[str, Any] = {"exit": code, "seconds": round(time.monotonic() - began, 1)}
    if code:
        lines = log.read_text().splitlines()
        errors = [line for line in lines if line.startswith("Error")]
        return found | {"error": (errors or lines[-1:])[-1].replace(str(out), ".")}
    manifest = json.loads((bundle / "manifest.json").read_text())
    size = {f["of"]: f["value"] for f in manifest["figures"] if f["name"] == "file_size"}
    drop = next(r["metrics"] for r in reversed(manifest["history"]) if r["stage"] == "test")
    return found | {
        "notes": [note for record in manifest["history"] for note in record["notes"]],
        "bytes": size,
        "test": {"drop": drop["drop"], "unit": drop["drop_unit"], "samples": drop["samples"]},
        **compared(bundle / "model.tflite", out),
    }


def compared(model: Path, out: Path) -> dict[str, float]:
    """How far the bundle's outputs on the test images are from Keras's own."""
    from edgecompile.backends.litert import XNNPACK, LiteRtRunner
    from edgecompile.tflite_file import read

    expected = np.load(out / "float.npy")
    runner = LiteRtRunner(model, XNNPACK)
    with np.load(out / "data.npz") as data:
        (spec,) = read(model).signature.inputs
        (received,) = runner.run({spec.name: data["x_test"]}).values()
    same = float(np.mean(received.reshape(expected.shape).argmax(1) == expected.argmax(1)))
    furthest = float(np.abs(received.reshape(expected.shape) - expected).max() / np.ptp(expected))
    return {"agreement": round(same, 4), "furthest": round(furthest, 4)}


def table(results: Path) -> str:
    heads = ("network", "recipe", "exit", "seconds", "agreement", "furthest output", "bytes, float / built", "notes")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in ROWS:
        path = results / f"applications-{row}.json"
        result = json.loads(path.read_text()) if path.is_file() else {}
        for recipe in (recipe for recipe in RECIPES if recipe in result):
            r = result[recipe]
            said = r.get("error") or "; ".join(short(note) for note in r["notes"])
            sizes = " / ".join(f"{r['bytes'][of]:,.0f}" for of in ("source", "model")) if "bytes" in r else ""
            lines.append(f"| {row} | {recipe} | {r['exit']} | {r['seconds']:.0f} | {r.get('agreement', '')} | "
                         f"{r.get('furthest', '')} | {sizes} | {said} |")  # fmt: skip
    return "\n".join(lines)


def short(note: str, most: int = 6) -> str:
    """A note with at most so many of the names that it lists."""
    what, colon, names = note.partition(": ")
    listed = names.split(", ")
    return f"{what}{colon}{', '.join(listed[:most])}" + (
        f" and {len(listed) - most} more" if len(listed) > most else ""
    )


if __name__ == "__main__":
    main()
