#!/usr/bin/env python3
"""What a build costs over the library calls it makes.

    .venv/bin/python scripts/bench_overhead.py

Ours is the whole process `edgecompile build digits --recipe int8` with a cache that holds the trained model and nothing
else. Bare is one plain script (`bare` below, run as a process of its own) that makes the same library calls in the same
order: it reads the same trained model, predicts, converts, calibrates with the same samples, quantizes, runs LiteRT on
the same inputs, and measures latency in fresh processes with the same number of runs. Training is in neither. Both end
in the same model.tflite, byte for byte, or this script fails: else they would not be comparable.

The runs are interleaved, after one of each that isn't counted. Prints the medians and writes
docs/benchmarks/overhead.json.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 2.0
PACKAGES = ("tensorflow", "tf-keras", "ai-edge-quantizer", "ai-edge-litert", "numpy")
KERNELS = ("xnnpack", "builtin")
WARMUP, RUNS, MIN_SECONDS, PROBE_INVOKES = 20, 200, 0.5, 3


def bare(trained: Path, out: Path) -> None:
    """The library calls of the build, with nothing around them. Writes float.tflite, model.tflite and golden.npz."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32)[..., None], digits.target
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    test = np.sort(order[::5])
    train = np.setdiff1d(order, test)
    x_test, x_train = images[test], images[train]
    shuffled = np.random.default_rng(0).permutation(len(train))
    held = len(train) // 10
    fit, validation = x_train[shuffled[:-held]], x_train[shuffled[-held:]]
    golden = x_test[np.linspace(0, len(x_test) - 1, 16).astype(int)]

    import tensorflow as tf
    import tf_keras

    model = tf_keras.models.load_model(trained, compile=False)
    predict = tf.function(lambda x: model(x, training=False))
    expected = predict(golden).numpy()
    np.savez(out / "golden.npz", inputs=golden, outputs=expected)
    for x in (x_test, validation):
        for start in range(0, len(x), 256):
            predict(x[start : start + 256]).numpy()

    holder = tf.Module()
    holder.held = list(model.variables)
    # The names are those of the model's own input and output, and so end up in the file.
    holder.serve = tf.function(lambda x: {"scores": model(x, training=False)})
    concrete = holder.serve.get_concrete_function(tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image"))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder)
    source = out / "float.tflite"
    source.write_bytes(converter.convert())
    predict(golden).numpy()
    infer(source, golden, "reference", 1)
    infer(source, validation, "xnnpack", 2)

    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    entries: list[dict[str, Any]] = json.loads(json.dumps(recipe.static_wi8_ai8(), default=str))
    for side in ("INPUT", "OUTPUT"):
        entries.append({"regex": ".*", "operation": side, "algorithm_key": "no_quantize", "op_config": {}})
    engine = quantizer.Quantizer(str(source))
    engine.load_quantization_recipe(entries)
    chosen = np.random.default_rng(0).permutation(len(fit))[:500]
    ranges = calibrator.Calibrator(source.read_bytes(), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    ranges.calibrate({"serving_default": [{"image": fit[i : i + 1]} for i in chosen]}, engine._recipe_manager)
    quantized, final = out / "quantized.tflite", out / "model.tflite"
    engine.quantize(ranges.get_model_qsvs()).export_model(str(quantized), overwrite=True)
    infer(quantized, validation, "xnnpack", 2)

    from edgecompile.tflite_file import read, slim  # the one thing here that no library does

    slim(read(quantized), final)
    for kernels in ("xnnpack", "reference"):
        infer(quantized, golden, kernels, 1)
        infer(final, golden, kernels, 1)

    for kernels in ("reference", "xnnpack", *KERNELS, "reference"):
        infer(final, golden, kernels, 1)
    candidates = [[str(final), "xnnpack"], [str(final), "builtin"], [str(source), "xnnpack"]]
    (out / "inputs.json").write_text(json.dumps(golden.tolist()))
    measuring = [sys.executable, __file__, "--measure", str(out / "inputs.json")]
    for candidate in candidates:
        subprocess.run([*measuring, json.dumps([candidate]), "--probe"], check=True)
    subprocess.run([*measuring, json.dumps(candidates)], check=True)
    infer(final, x_test, "xnnpack", 2)


def open_model(model: str, kernels: str, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolvers = {
        "xnnpack": OpResolverType.AUTO,
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "reference": OpResolverType.BUILTIN_REF,
    }
    interpreter = Interpreter(model, num_threads=threads, experimental_op_resolver_type=resolvers[kernels])
    interpreter.allocate_tensors()
    return interpreter


def infer(model: Path, x: Any, kernels: str, threads: int) -> None:
    interpreter = open_model(str(model), kernels, threads)
    feed, fetch = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    for i in range(len(x)):
        interpreter.set_tensor(feed, x[i : i + 1])
        interpreter.invoke()
        interpreter.get_tensor(fetch)


def measure(inputs: Path, candidates: list[list[str]], *, probe: bool) -> None:
    """Latency of the candidates in turn; or, as a probe, one candidate's start in a process of its own."""
    import numpy as np

    x = np.array(json.loads(inputs.read_text()), np.float32)
    models = [open_model(model, kernels, 1) for model, kernels in candidates]
    feeds = [model.get_input_details()[0]["index"] for model in models]
    began, n = time.monotonic(), 0
    while n < PROBE_INVOKES if probe else n < WARMUP + RUNS or time.monotonic() - began < MIN_SECONDS:
        if n == WARMUP:
            began = time.monotonic()
        for model, feed in zip(models, feeds, strict=True):
            model.set_tensor(feed, x[n % len(x)][None])
            before = time.perf_counter_ns()
            model.invoke()
            time.perf_counter_ns()
            del before
        n += 1


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Seconds of the whole process; its output is shown only where it fails."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds


def trained_only(folder: Path, environment: dict[str, str]) -> tuple[Path, Path]:
    """(a cache whose only entry is the trained model, that model's file)."""
    full = folder / "full"
    timed(ours(), folder, {**environment, "EDGECOMPILE_CACHE": str(full)})
    for record in (full / "stages").glob("*/artifact.json"):
        entry = json.loads(record.read_text())
        if entry["history"][-1]["stage"] == "train":
            cache = folder / "trained"
            shutil.copytree(record.parent, cache / "stages" / record.parent.name)
            return cache, cache / "stages" / record.parent.name / entry["files"]["model"]
    raise SystemExit("the cache of a build of digits holds no trained model")


def ours() -> list[str]:
    return [str(Path(sys.executable).parent / "edgecompile"), "build", "digits", "--recipe", "int8"]


def compare(runs: int) -> dict[str, Any]:
    """Both, in turn, `runs` times after one that isn't counted; seconds of each."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cache, trained = trained_only(folder, environment)
        for n in range(runs + 1):
            work = folder / str(n)
            shutil.copytree(cache, work / "cache")
            plain = [sys.executable, __file__, "--bare", str(trained), str(work)]
            seconds = {
                "bare": timed(plain, work, environment),
                "ours": timed(ours(), work, {**environment, "EDGECOMPILE_CACHE": str(work / "cache")}),
            }
            same = (work / "model.tflite").read_bytes() == (work / "build/digits-host/model.tflite").read_bytes()
            if not same:
                raise SystemExit("bare and ours gave different models: they don't make the same library calls")
            if n:
                for name, value in seconds.items():
                    times[name].append(round(value, 3))
                print(f"run {n}: bare {seconds['bare']:.2f} s, ours {seconds['ours']:.2f} s", flush=True)
    return {"runs": times, "median": {name: round(statistics.median(values), 3) for name, values in times.items()}}


def facts() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False).stdout

    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    return {
        "benchmark": "overhead",
        "command": "edgecompile build digits --recipe int8",
        "commit": git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain") else ""),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": f"{cpu} x{os.cpu_count()}",
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "unit": "s",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/overhead.json", help="where the JSON goes")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="largest difference, in seconds (default: 2)")
    parser.add_argument("--bare", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        bare(*given.bare)
        return
    if given.measure:
        measure(Path(given.measure[0]), json.loads(given.measure[1]), probe=given.probe)
        return
    row = facts() | compare(given.runs)
    difference = round(row["median"]["ours"] - row["median"]["bare"], 3)
    row |= {"difference": difference, "limit": given.limit}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(row, indent=1) + "\n")
    print(f"bare       {row['median']['bare']:6.2f} s")
    print(f"ours       {row['median']['ours']:6.2f} s")
    print(f"difference {difference:6.2f} s (limit {given.limit:g} s), medians of {given.runs}; {row['cpu']}")
    if difference > given.limit:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
