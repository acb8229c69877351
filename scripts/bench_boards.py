#!/usr/bin/env python3
"""What measuring over SSH costs, whether figures repeat, and whether our medians are those of LiteRT's own tool.

    .venv/bin/python scripts/bench_boards.py overhead            # the first two need the Debian package openssh-server
    .venv/bin/python scripts/bench_boards.py loopback
    .venv/bin/python scripts/bench_boards.py arm-board
    .venv/bin/python scripts/bench_boards.py litert-benchmark    # all need EDGECOMPILE_DATA
    .venv/bin/python scripts/bench_boards.py tvm-cortex-a76      # and tvm-cortex-a53, tvm-i8mm

overhead: the whole process `edgecompile bench FILE --on BOARD`, BOARD being an SSH server on loopback that has been
given its runtime, against the runner alone with the same job on this machine. loopback, arm-board: ResNet8 in int8,
built, measured again and verified on that server, and on the emulated board of scripts/arm-board; seconds until a board
that has nothing yet has its runtime, and of the same once more. litert-benchmark: `edgecompile bench FILE` against the
tool of that name in LiteRT's wheel, both with one thread and as many runs, each in a process of its own.

tvm-...: instructions of the TVM code over XNNPACK's on an emulated board with that core, for ResNet8 and DS-CNN; of
tvm-i8mm with qemu's `max`, which has all extensions that it knows.

Where two things are compared, their runs are interleaved, after one of each that isn't counted. Prints what was found
and writes docs/benchmarks/boards-<row>.json.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EDGECOMPILE_DATA") or ROOT.parent / "shared" / "data")
LIMIT_S, WITHIN = 5.0, 0.02
RUNS = 50
REPEATED = 20_000  # runs of each engine where medians of two measurements are compared on a machine with neighbours
PROVISION = """
import sys
from edgecompile.devices.opening import one, open_board
with open_board(one(sys.argv[1])) as board:
    board.python()
"""
COUNTED = ("ic/pretrainedResnet_quant", "ic/pretrainedResnet", "kws/kws_ref_model", "kws/kws_ref_model_float32")
RESNET8 = DATA / "models/mlperf_tiny/ic/pretrainedResnet.tflite"
# It prints hundredths of a millisecond, so models that take some; and fills inputs at random, so no indices of words.
MODELS = ("imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite", "detection/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=list(ROWS))
    parser.add_argument("--rounds", type=int, default=7, help="of what is compared [default: %(default)s]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgecompile-bench-") as folder:
        os.environ["EDGECOMPILE_CONFIG"] = folder
        found = ROWS[given.row](Path(folder), given.rounds)
    found = {
        "row": given.row,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": output("git", "-C", str(ROOT), "rev-parse", "HEAD").strip(),
        "cpu": cpu(),
        "ai-edge-litert": importlib.metadata.version("ai-edge-litert"),
        "python": platform.python_version(),
        **found,
    }
    path = ROOT / "docs" / "benchmarks" / f"boards-{given.row}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


@contextmanager
def loopback(folder: Path) -> Iterator[Any]:
    """An SSH server with keys of its own, in the inventory as `loopback`."""
    sys.path.insert(0, str(ROOT / "tests"))
    from devices.sshd import Sshd

    server = Sshd(folder / "sshd")
    try:
        files = ["--identity", str(server.folder / "user"), "--known-hosts", str(server.folder / "known_hosts")]
        ours("devices", "add", "loopback", server.address.url, *files)
        yield server
    finally:
        server.stop()


def overhead(folder: Path, rounds: int) -> dict[str, Any]:
    with loopback(folder) as server:

        def over_ssh() -> float:
            return seconds(lambda: ours("bench", str(RESNET8), "--on", "loopback", "--runs", str(RUNS)))

        over_ssh()  # brings the runtime there
        job = folder / "job"
        job.mkdir()
        described = kept_job(server.folder / "home", job)
        runner = newest(server.folder / "home", "runner.py")

        def alone() -> float:
            return seconds(lambda: output(sys.executable, str(runner), str(described)))

        pairs = interleaved([over_ssh, alone], rounds)
    whole, bare = map(statistics.median, pairs)
    difference = statistics.median(a - b for a, b in zip(*pairs, strict=True))
    return {
        "rounds": rounds, "over_ssh_s": whole, "runner_alone_s": bare, "difference_s": difference,
        "limit_s": LIMIT_S, "within": difference <= LIMIT_S,
    }  # fmt: skip


def kept_job(home: Path, folder: Path) -> Path:
    """The job that `over_ssh` gives the runner, with files of its own: those there are removed after each run."""
    import numpy as np

    model, inputs = newest(home, RESNET8.name), folder / "inputs.npz"
    np.savez(inputs, x=np.random.default_rng(0).random((16, 32, 32, 3), np.float32))
    job = {
        "candidates": [{"id": "resnet8", "model": str(model)}], "inputs": str(inputs), "runs": RUNS, "warmup": 20,
        "min_seconds": 0.5, "energy_seconds": 1.0, "cpus": "last",
    }  # fmt: skip
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def on_loopback(folder: Path, rounds: int) -> dict[str, Any]:
    with loopback(folder):
        return on_board("loopback", folder, rounds, "--runs", str(REPEATED))


def on_arm_board(folder: Path, rounds: int) -> dict[str, Any]:
    del rounds  # instructions are counted there, so two runs say it
    with arm_board("cortex-a76"):
        return on_board("arm-board", folder, 1)


@contextmanager
def arm_board(cpu: str) -> Iterator[None]:
    """An emulated board in the inventory as `arm-board`."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecompile/arm-board-of-benchmarks"
    script = [str(ROOT / "scripts" / "arm-board"), "--folder", str(kept)]  # a contributor's own may be in use
    output(sys.executable, *script, "up", "--cpu", cpu)
    try:
        yield
    finally:
        output(sys.executable, *script, "down")


def tvm_on(cpu: str) -> dict[str, Any]:
    """Both engines of each network interleaved in one process there; outputs of the exact library against LiteRT's
    reference kernels here."""
    import numpy as np

    from edgecompile.backends.litert import REFERENCE, LiteRtRunner
    from edgecompile.backends.tvm import library
    from edgecompile.backends.tvm.arithmetic import FAST
    from edgecompile.backends.tvm.arithmetic import REFERENCE as EXACT
    from edgecompile.backends.tvm.isa import INSTRUCTION_SETS
    from edgecompile.backends.tvm.planner import Planner
    from edgecompile.devices.base import BenchCandidate, BenchJob
    from edgecompile.devices.benchmark import benchmark, outputs
    from edgecompile.devices.opening import one, open_board
    from edgecompile.loaders.interpreter import own_signature
    from edgecompile.tflite_file import read

    wanted = {"max": "neon-i8mm", "cortex-a76": "neon-dotprod", "cortex-a53": "neon"}[cpu]
    isa = next(each for each in INSTRUCTION_SETS if each.name == wanted)
    found = {}
    with arm_board(cpu), open_board(one("arm-board")) as board, tempfile.TemporaryDirectory() as made:
        for name in COUNTED:
            model = DATA / "models" / "mlperf_tiny" / f"{name}.tflite"
            file, paths = read(model), {}
            (spec,) = own_signature(file).inputs
            whole, rng = spec.dtype == "int8", np.random.default_rng(0)
            shape = (16, *spec.shape[1:])
            x = {spec.name: rng.integers(-128, 128, shape).astype(np.int8) if whole else rng.random(shape, np.float32)}
            for mode in (FAST, EXACT) if whole else (FAST,):
                work = Path(made, name.replace("/", "-"), mode)
                work.mkdir(parents=True)
                plan = Planner(file, isa, mode, 1).run()
                paths[mode] = library.build({isa: plan}, own_signature(file), work / "m.so", work).path
            candidates = (
                *(BenchCandidate(mode, path, 1, "tvm") for mode, path in paths.items()),
                BenchCandidate("xnnpack", model, 1, "litert", {"xnnpack": True}),
            )
            job = BenchJob(candidates=candidates, inputs=x, warmup=5, runs=20, min_seconds=0.01)
            told = benchmark(board, job, lambda *_: None, lambda: None).candidates
            p50 = {key: statistics.median(each.times_ms) for key, each in told.items()}
            engine = {"id": "tvm", "engine": "tvm", "model": str(paths[EXACT if whole else FAST]), "threads": 1}
            (there,) = outputs(board, engine, x, lambda *_: None).values()
            (expected,) = LiteRtRunner(model, REFERENCE).run(x).values()
            found[name] = {
                "instructions_p50_thousands": {key: round(1000 * value, 3) for key, value in p50.items()},
                "tvm_over_xnnpack": round(p50[FAST] / p50["xnnpack"], 4),
                "differing_values": int((there != expected).sum()) if whole else None,
                "largest_difference": float(np.abs(there.astype(np.float64) - expected).max()),
                "library_bytes": paths[FAST].stat().st_size,
                "peak_rss_mb": {key: each.peak_rss_mb for key, each in told.items()},
            }
            print(json.dumps({name: found[name]}), file=sys.stderr)
        device = board.facts().name
    return {"device": device, "label": "emulated-instructions", "instructions": isa.name, "models": found}


def on_board(name: str, folder: Path, rounds: int, *measured: str) -> dict[str, Any]:
    """measured: options of the runs that are compared, beside the build's own where there is but one more."""
    ours("devices", "clean", name)
    empty, again = (seconds(lambda: output(sys.executable, "-c", PROVISION, name)) for _ in range(2))
    source = DATA / "models/mlperf_tiny/ic/pretrainedResnet.h5"
    target = ["--target", "host"] if name == "loopback" else []
    out = str(folder / "bundle")
    options = (
        "--data",
        "resnet8",
        "--recipe",
        "int8",
        "--backends",
        "litert",
        "--on",
        name,
        "--out",
        out,
        "--remeasure",
        "--json",
    )
    built = json.loads(ours("build", str(source), *options, *target))
    runs = [{c["id"]: c["latency_p50_ms"] for c in built["candidates"]}]
    for _ in range(rounds):
        told = json.loads(ours("bench", out, "--on", name, "--kernels", "both", "--json", *measured))
        latencies = [f for f in told[0]["figures"] if f["name"] == "latency_p50"]
        runs.append({f"litert-{f['of'].split()[-1]}": f["value"] for f in latencies})
    compared = itertools.pairwise(runs[1:] if rounds > 1 else runs)
    pairs = [(a[key], b[key], key) for a, b in compared for key in runs[0]]
    changes = {key: [abs(b / a - 1) for a, b, of in pairs if of == key] for key in runs[0]}
    verified = json.loads(ours("verify", out, "--on", name, "--samples", "100", "--json"))
    return {
        "device": latencies[0]["device"],
        "label": latencies[0]["label"],
        "provisioning_from_empty_s": empty,
        "provisioning_again_s": again,
        "winner": built["winner"],
        "latency_p50_ms": runs,
        "median_change_to_next_run": {key: statistics.median(of) for key, of in changes.items()},
        "largest_change_to_next_run": {key: max(of) for key, of in changes.items()},
        "checks": {check["name"]: check["text"] for check in verified["checks"]},
        "passed": verified["passed"],
    }


def against_litert_benchmark(folder: Path, rounds: int) -> dict[str, Any]:
    models = {}
    for name in MODELS:
        model = DATA / "models" / name

        def bench(model: Path = model) -> float:
            told = json.loads(ours("bench", str(model), "--runs", str(RUNS), "--warmup", "5", "--json"))
            return next(float(f["value"]) for f in told[0]["figures"] if f["name"] == "latency_p50")

        def theirs(model: Path = model) -> float:
            path = folder / "theirs.json"
            tool = Path(sys.executable).with_name("litert-benchmark")
            options = ("--num_runs", str(RUNS), "--warmup_runs", "5", "--num_threads", "1", "--result_json", str(path))
            # Kept to a CPU as the runner keeps to one: else they would differ by what the scheduler does.
            output("taskset", "-c", str(max(os.sched_getaffinity(0))), str(tool), "--model", str(model), *options)
            return float(json.loads(path.read_text())["latency"]["median_ms"])

        mine, other = interleaved([bench, theirs], rounds)
        ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
        models[name] = {
            "ours_ms": statistics.median(mine), "theirs_ms": statistics.median(other), "ratio": ratio,
            "within": abs(ratio - 1) <= WITHIN,
        }  # fmt: skip
    return {"rounds": rounds, "runs": RUNS, "threads": 1, "models": models}


def interleaved(measures: list[Callable[[], float]], rounds: int) -> list[list[float]]:
    for measure in measures:
        measure()
    found: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        order = list(range(len(measures)))
        for index in order if number % 2 else order[::-1]:
            found[index].append(measures[index]())
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return found


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ours(*arguments: str) -> str:
    return output(sys.executable, "-m", "edgecompile", *arguments)


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def newest(folder: Path, name: str) -> Path:
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime)


def cpu() -> str:
    from edgecompile.ondevice.runner import facts

    known = facts()
    return f"{known['cpu']} x{known['cores']}"


ROWS = {
    "overhead": overhead,
    "loopback": on_loopback,
    "arm-board": on_arm_board,
    "litert-benchmark": against_litert_benchmark,
    "tvm-cortex-a76": lambda *_: tvm_on("cortex-a76"),
    "tvm-cortex-a53": lambda *_: tvm_on("cortex-a53"),
    "tvm-i8mm": lambda *_: tvm_on("max"),
}

if __name__ == "__main__":
    main()
