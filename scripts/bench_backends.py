#!/usr/bin/env python3
"""Every engine on one network, side by side on this machine: one resumable row a command.

    .venv/bin/python scripts/bench_backends.py --list
    .venv/bin/python scripts/bench_backends.py resnet8 int8 1
    .venv/bin/python scripts/bench_backends.py --page          # docs/engines.md, of all rows there are

A row builds the network once with all engines, as a user does (parity, accuracy on the whole test set, winner). Then,
in fresh processes of the on-device runner, all engines that passed are run again, interleaved in random order; each
process gives a ratio for each pair of engines, and the medians over the processes are the row's figures. Where the CPU
has AMX, a second process beside each first one is denied it by the kernel, so that the figures say where a gain comes
from. Writes docs/benchmarks/backends-MODEL-PRECISION-THREADS-CPU.json. Needs EDGECOMPILE_DATA and the extras tvm, onnx
and openvino. mobilenet-v1-224 has random weights, and no accuracy.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from compression_rows.common import ROOT, TINY, build, data_folder, facts

import edgecompile.ondevice.runner as runner
from edgecompile import data as datasets
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.base import Candidate
from edgecompile.backends.tvm import LIBRARY, REFERENCE_LIBRARY, role
from edgecompile.backends.tvm.isa import best
from edgecompile.loaders.base import LoadOptions
from edgecompile.stages.base import Context
from edgecompile.stages.compile_tvm import CompileTvm
from edgecompile.stages.evaluate import on_test_set
from edgecompile.tflite_file import read

RESULTS = ROOT / "docs" / "benchmarks"
ENGINES = ("apache-tvm", "onnxruntime", "tf2onnx", "openvino")
PRECISIONS = {"int8": "int8", "float32": "float"}
# {name: (source below EDGECOMPILE_DATA, --data)}
MODELS = {
    "resnet8": (f"{TINY}/ic/pretrainedResnet.h5", "resnet8"),
    "ds-cnn": (f"{TINY}/kws/kws_ref_model", "ds_cnn"),
    "mobilenet-v1-025-96": (f"{TINY}/vww/vww_96.h5", "mobilenet_v1_025_96"),
    "autoencoder": (f"{TINY}/ad/ad01.h5", "fc_autoencoder"),
    "mobilenet-v1-224": ("", ""),
    "mobilenet-v2-224": ("models/imagenet/mobilenet_v2_1.0_224_imagenet1001.h5", "mobilenet_v2"),
}
# In int8 as they come: there are no images to calibrate these with.
QUANTIZED = {
    "mobilenet-v1-025-96": f"{TINY}/vww/vww_96_int8.tflite",
    "mobilenet-v2-224": "models/imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite",
}
PAGE = ROOT / "docs" / "engines.md"
HEAD = (
    "network", "precision", "threads", "TVM, ms", "without AMX", "/ XNNPACK", "/ XNNPACK without AMX", "/ ONNX Runtime",
    "/ OpenVINO", "winner", "peer / winner", "TVM builds in, s", "metric of TVM", "of XNNPACK",
)  # fmt: skip
INTRODUCTION = """# Engines, side by side

Written by `scripts/bench_backends.py --page` from the JSON files in docs/benchmarks, one a row, which also hold the
command, the commit, the versions, every engine's bytes, memory and parity. The time of edgecompile's TVM code, untuned,
and as a share of each other engine's: below 1 it is the faster one. Median of nine fresh processes, in each of which
all engines ran interleaved; latencies are measured, p50. The winner was chosen by the build; "peer / winner" is the
fastest other engine's time over the winner's in those later processes. "TVM builds in" is what its compiler takes for
the one library; the metrics are on the whole test set, of TVM's code and of XNNPACK on the `.tflite`. Rows measured on
different CPUs can't be compared: each CPU has a table. A cell is empty where the row doesn't tell, and a row that isn't
here hasn't been run.
"""
REPEATS, RUNS, SECONDS = 9, 30, 1.5
XNNPACK, TVM = "litert-xnnpack", "tvm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=list(MODELS), metavar="MODEL")
    parser.add_argument("precision", nargs="?", choices=list(PRECISIONS), metavar="PRECISION")
    parser.add_argument("threads", nargs="?", type=int, choices=[1, 2], metavar="THREADS")
    parser.add_argument("--list", action="store_true", help="name all rows")
    parser.add_argument("--page", action="store_true", help="write docs/engines.md from the results there are")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{m} {p} {t}" for m in MODELS for p in PRECISIONS for t in (1, 2)))
    elif given.page:
        PAGE.write_text(page())
    elif given.threads is None:
        parser.error("give MODEL, PRECISION and THREADS, or --list")
    else:
        row(given.model, given.precision, given.threads)


def row(model: str, precision: str, threads: int) -> None:
    name = f"{model}-{precision}-{threads}"
    out = ROOT / "build" / "bench" / f"backends-{name}"
    source, *options = (data_folder() / MODELS[model][0], "--data", MODELS[model][1])
    recipe = PRECISIONS[precision]
    if model == "mobilenet-v1-224":
        source, *options = random_mobilenet(out.parent)
    if precision == "int8" and model in QUANTIZED:
        source, recipe = data_folder() / QUANTIZED[model], "float"
    made = build(
        source, recipe, out, "--target", "host", "--backends", "litert,onnx,openvino,tvm",
        "--threads", str(threads), "--max-drop", "off", *options,
    )  # fmt: skip
    candidates = [each for each in made.manifest["candidates"] if each["passed"]]
    if TVM not in {each["id"] for each in candidates}:
        raise SystemExit(f"tvm was left out: {made.manifest['gates'][0]}")
    denied = libraries_without_amx(out, threads) if has_amx() else None
    times = [measured(out, candidates, threads)]
    plain = times[0]["peak_rss_mb"]
    runs, without_amx = [times[0]["p50_ms"]], []
    for _ in range(REPEATS - 1):
        if denied:
            without_amx.append(measured(out, candidates, threads, denied)["p50_ms"])
        runs.append(measured(out, candidates, threads)["p50_ms"])
    winner = made.manifest["winner"]["id"]
    scores = accuracies(out, made.manifest, candidates)
    tested: dict[str, Any] = next(
        (r["metrics"] for r in reversed(made.manifest["history"]) if r["stage"] == "test"), {}
    )
    result = {
        "row": name,
        **facts(),
        "engines": {package: importlib.metadata.version(package) for package in ENGINES},
        "features": [each for each in runner.cpu_features(Path("/proc")) if each.startswith(("avx", "amx", "fma"))],
        "threads": threads,
        "repeats": len(runs),
        "runs": f"{RUNS} and {SECONDS} s at least, in each of the repeats",
        "candidates": {
            each["id"]: {
                "bytes": each["bytes"],
                "parity": each["parity"],
                "p50_ms": statistics.median(run[each["id"]] for run in runs),
                "p50_of_repeats_ms": [run[each["id"]] for run in runs],
                "peak_rss_mb": plain[each["id"]],
                "p50_ms_without_amx": (
                    statistics.median(run[each["id"]] for run in without_amx) if without_amx else None
                ),
                "accuracy": scores.get(each["id"]),
            }
            for each in candidates
        },
        "left_out": [each["id"] for each in made.manifest["candidates"] if not each["passed"]],
        "tvm_over": ratios(runs, TVM),
        "tvm_over_without_amx": ratios(without_amx, TVM) if without_amx else None,
        "winner": winner,
        "tvm_build": {each["id"]: each["compiled"] for each in candidates if each["compiled"]},
        "accuracy": {key: tested.get(key) for key in ("metric", "value", "samples")} if tested else None,
        "command": " ".join(made.command),
    }
    result["least_peer_over_winner"] = round(_least_peer(result), 4)
    path = RESULTS / f"backends-{name}-{slug(result['cpu'])}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("row", "tvm_over", "tvm_over_without_amx", "winner")}, indent=1))


def slug(cpu: str) -> str:
    """The CPU in a file's name: rows of another one stay beside its own."""
    return "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\(\w+\)|processor", "", cpu.lower())))


def ratios(runs: list[dict[str, float]], of: str) -> dict[str, float]:
    """{engine: median over the repeats of `of`'s time over its}."""
    return {
        other: round(statistics.median(run[of] / run[other] for run in runs), 4) for other in runs[0] if other != of
    }


def measured(
    out: Path, candidates: list[Mapping[str, Any]], threads: int, denied: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """{"p50_ms": {candidate: ...}, "peak_rss_mb": ...} of one fresh process; denied: without AMX, with these files in
    place of a candidate's own."""
    with tempfile.TemporaryDirectory(prefix="edgecompile-bench-") as folder:
        inputs = Path(folder, "inputs.npz")
        golden = runner.load_inputs(out / "golden.npz")
        runner.save_arrays(inputs, {k[len("inputs/") :]: a for k, a in golden.items() if k.startswith("inputs/")})
        files = denied or {}
        described = (
            {"id": c["id"], "engine": c["backend"], "model": str(files.get(c["id"], out / c["file"])), **c["config"]}
            for c in candidates
        )
        job = {
            "candidates": [{**each, "threads": threads} for each in described],
            "inputs": str(inputs), "runs": RUNS, "min_seconds": SECONDS, "warmup": 10, "cpus": "last",
            "seed": int.from_bytes(os.urandom(4), "little"),
        }  # fmt: skip
        path = Path(folder, "job.json")
        path.write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, str(Path(runner.__file__)), str(path)], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, preexec_fn=deny_amx if denied is not None else None,
        )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    results = {event["id"]: event for event in events if event["event"] == "result"}
    if done.returncode or len(results) != len(candidates):
        raise SystemExit(
            f"the runner ended with exit code {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}"
        )
    return {
        "p50_ms": {name: statistics.median(event["times_ms"]) for name, event in results.items()},
        "peak_rss_mb": {name: event["peak_rss_mb"] for name, event in results.items()},
    }


def accuracies(out: Path, manifest: Mapping[str, Any], candidates: list[Mapping[str, Any]]) -> dict[str, float]:
    """{candidate: the metric on the whole test set}, empty where there is none."""
    facts = manifest["data"]
    if not facts or not facts["metric"]:
        return {}
    source, signature = datasets.resolve(facts["source"]), read(out / "model.tflite").signature
    task = datasets.load(source, image_size=datasets.image_size(source, signature))
    if task.test is None or task.test.y is None:
        return {}
    found = {}
    for each in candidates:
        candidate = Candidate(each["id"], each["backend"], out / each["file"], each["threads"], each["config"])
        metric, labels, x, outputs = on_test_set(candidate, task, signature, lambda _: None)
        found[each["id"]] = round(metric.score(labels, outputs, x), 6)
    return found


def libraries_without_amx(out: Path, threads: int) -> dict[str, Path]:
    """{candidate: TVM's library for this CPU as it were without AMX}"""
    model, features = out / "model.tflite", runner.cpu_features(Path("/proc"))
    isa = best(runner.machine(), [name for name in features if not name.startswith("amx")])
    assert isa is not None
    folder = out.with_name(f"{out.name}-without-amx")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    context = Context(folder, folder, None, "float", LoadOptions(), 0, None, None, lambda _: None)
    made = CompileTvm.now((isa,), threads).run(Artifact(TFLITE, {"model": model}, read(model).signature), context)
    names = {role(name, threads): name for name in (LIBRARY, REFERENCE_LIBRARY)}
    return {names[file]: path for file, path in made.files.items()}


def has_amx() -> bool:
    return "amx_int8" in runner.cpu_features(Path("/proc"))


def deny_amx() -> None:
    """From here on the kernel refuses this process, and what it starts, AMX's tiles: arch_prctl(ARCH_REQ_XCOMP_PERM)
    gives EPERM (a seccomp filter, x86-64)."""
    arch_prctl, request = 158, 0x1023
    load, equal, give = 0x20, 0x15, 0x06  # BPF: load a word of the call, jump if equal, return
    eperm, allow = 0x00050001, 0x7FFF0000
    program = (
        (load, 0, 0, 0), (equal, 0, 3, arch_prctl),  # the call's number
        (load, 0, 0, 16), (equal, 0, 1, request),  # its first argument
        (give, 0, 0, eperm), (give, 0, 0, allow),
    )  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, by_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, by_filter, header):
        raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def random_mobilenet(folder: Path) -> tuple[Any, ...]:
    """(MobileNetV1 at 224x224 with random weights, and the options for it): its activations are kept in a usual range
    by BatchNorm statistics of random images, and without a softmax, which would make 0 or 1 of 256 steps of them."""
    import numpy as np

    path, data = folder / "mobilenet_v1_224.keras", folder / "random_images.npz"
    if not (path.exists() and data.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        import keras

        keras.utils.set_random_seed(0)
        model = keras.applications.MobileNet(weights=None, input_shape=(224, 224, 3), classifier_activation=None)
        images = np.random.default_rng(0).random((120, 224, 224, 3), np.float32)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(images[:16], training=True)
        model.save(path)
        np.savez(data, x=images)
    return path, "--data", str(data)


def page() -> str:
    """docs/engines.md: all rows there are, those of one CPU in one table."""
    tables: dict[str, list[tuple[str, ...]]] = {}
    for model in MODELS:
        for precision in PRECISIONS:
            for threads in (1, 2):
                for path in sorted(RESULTS.glob(f"backends-{model}-{precision}-{threads}-*.json")):
                    found = json.loads(path.read_text())
                    cpu = f"{found['cpu']} ({found['cores']} cores: {', '.join(found['features'])})"
                    tables.setdefault(cpu, []).append((model, precision, str(threads), *_cells(found)))
    parts = [f"## {cpu}\n\n{_table([HEAD, ('---',) * len(HEAD), *rows])}\n" for cpu, rows in sorted(tables.items())]
    return "\n".join((INTRODUCTION, *parts))


def _table(lines: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a row; empty for what rows of an earlier form of this script don't have."""
    over, without = found["tvm_over"], found["tvm_over_without_amx"] or {}
    tvm, xnnpack = (found["candidates"].get(each, {}) for each in (TVM, XNNPACK))
    seconds = found.get("tvm_build", {}).get(TVM, {}).get("seconds")
    cell: Callable[..., str] = lambda value, digits=2: "" if value is None else f"{value:.{digits}f}"  # noqa: E731
    return (
        cell(tvm["p50_ms"], 3), cell(tvm.get("p50_ms_without_amx"), 3), cell(over.get(XNNPACK)),
        cell(without.get(XNNPACK)), cell(over.get("onnx")), cell(over.get("openvino")), found["winner"],
        cell(_least_peer(found)), cell(seconds, 1), cell(tvm.get("accuracy"), 4), cell(xnnpack.get("accuracy"), 4),
    )  # fmt: skip


def _least_peer(found: Mapping[str, Any]) -> float:
    """The time of the fastest other engine over the winner's, the median over the repeats."""
    times = {name: each["p50_of_repeats_ms"] for name, each in found["candidates"].items()}
    won = times.pop(found["winner"])
    return float(min(statistics.median(p / w for p, w in zip(each, won, strict=True)) for each in times.values()))


if __name__ == "__main__":
    main()
