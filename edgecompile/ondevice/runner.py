"""Runs and times .tflite models on the machine this file lies on.

    python runner.py job.json

One file: the standard library, NumPy and a runtime (ai_edge_litert, else tflite_runtime), Python 3.8 or newer.
It writes one JSON object a line to stdout and measures; what the times mean is computed elsewhere.

The job, a JSON object (* = needed; paths are relative to the job's folder):

    candidates*   list of {"id"*, "model"*, "engine": "litert", "xnnpack": true, "threads": 1}
    inputs*       an .npz: one array an input, by name, leading dimension = samples. An array may be called anything
                  where the model has one input. Real numbers are quantized with the input's scale and zero point.
    mode          "benchmark" (default), or "run": write the outputs of all samples of the one candidate to "outputs"
    outputs       for mode "run": the .npz to write, one array an output, by name, as the model gives them
    warmup, runs, min_seconds    rounds before and while timing (20, 200, 0); rounds go on until min_seconds are over
    seed          of the order of the candidates within a round (0)
    cpus          CPUs to keep to, or null
    sysfs_root, proc_root        where facts are read ("/sys", "/proc")

A round invokes every candidate once, in random order, so that drift (temperature, neighbours) meets all alike; the
time is that of `invoke` alone. That needs all models in one process, where neither the memory of one nor the time
it takes to start can be told: so each candidate is started first in a process of its own, which loads it, runs it
three times on one sample and reports init_ms (from the file to tensors allocated) and peak_rss_mb (of the whole
process: Python, NumPy and the runtime are in it; `baseline_rss_mb` is what they take before the model).

Events: facts (when: before | after), init, progress, result, error, end. An error ends the job with exit code 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    # Only in annotations, which Python 3.8 does not evaluate.
    from collections.abc import Callable

    Json = dict[str, Any]
    Arrays = dict[str, Any]
    Emit = Callable[..., None]

# Features that decide which kernels run, as /proc/cpuinfo spells them.
FEATURES = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
# Names of ARM cores, which the kernel gives by number.
ARM_PARTS = {
    "0xb76": "ARM1176", "0xc07": "Cortex-A7", "0xc08": "Cortex-A8", "0xc09": "Cortex-A9", "0xc0f": "Cortex-A15",
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE", "0xd44": "Cortex-X1", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710",
    "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2",
}  # fmt: skip
PROBE_INVOKES = 3
HASHED_SAMPLES = 8
MEBI = 1024 * 1024


class Failure(Exception):
    """What the user is to know: the message of an error event."""

    def __init__(self, message: str, candidate: str | None = None) -> None:
        super().__init__(message)
        self.candidate = candidate


# Facts -------------------------------------------------------------------------------------------


def text(path: Path) -> str | None:
    """The file's text, stripped, or None where it can't be read (the kernel refuses some of them)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def number(path: Path) -> int | None:
    try:
        return int(text(path) or "")
    except ValueError:
        return None


def cpu_model(sysfs: Path, proc: Path) -> str:
    """The CPU's name: x86 has it in cpuinfo, ARM has part numbers there and the board's name in the device tree."""
    fields: dict[str, list[str]] = {}
    for line in (text(proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), []).append(value.strip())
    if fields.get("model name"):
        return fields["model name"][0]
    parts = sorted({ARM_PARTS.get(part.lower(), part) for part in fields.get("CPU part", [])})
    board = text(sysfs / "firmware/devicetree/base/model") or next(iter(fields.get("Model", [])), None)
    return ", ".join([name for name in [board, *parts] if name]) or platform.processor() or platform.machine()


def cpu_features(proc: Path) -> list[str]:
    words: set[str] = set()
    for line in (text(proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words.update(value.split())
    return [name for name in FEATURES if name in words]


def temperatures(sysfs: Path) -> dict[str, float]:
    """{zone: degrees Celsius}"""
    zones = {}
    for folder in sorted(sysfs.glob("class/thermal/thermal_zone*")):
        value = number(folder / "temp")
        if value is not None:
            zones[text(folder / "type") or folder.name] = value / 1000.0
    return zones


def memory_mb(proc: Path) -> int | None:
    for line in (text(proc / "meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 1024.0)
    return None


def runtime_version() -> tuple[str | None, str | None]:
    """(name, version) of the runtime that would be used, without loading it; (None, None) where there is none."""
    from importlib import metadata

    for package in ("ai-edge-litert", "tflite-runtime"):
        try:
            return package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None, None


def facts(sysfs: Path = Path("/sys"), proc: Path = Path("/proc")) -> Json:
    """What can be known about this machine and its state, each None (or empty) where it can't be read.

    cur_mhz, max_mhz, governor: of the first CPU. temperatures: degrees Celsius by zone. memory_mb: in MiB.
    """
    frequency = sysfs / "devices/system/cpu/cpu0/cpufreq"
    current = number(frequency / "scaling_cur_freq")
    most = number(frequency / "cpuinfo_max_freq")
    runtime, version = runtime_version()
    return {
        "machine": platform.machine(),
        "cpu": cpu_model(sysfs, proc),
        "cores": os.cpu_count(),
        "features": cpu_features(proc),
        "governor": text(frequency / "scaling_governor"),
        "cur_mhz": None if current is None else current / 1000.0,
        "max_mhz": None if most is None else most / 1000.0,
        "temperatures": temperatures(sysfs),
        "loadavg": list(os.getloadavg()),
        "memory_mb": memory_mb(proc),
        "python": platform.python_version(),
        "runtime": runtime,
        "runtime_version": version,
        "kernel": platform.release(),
        "os": platform.system(),
    }


# The runtime -------------------------------------------------------------------------------------


def runtime() -> Any:
    """The module with Interpreter."""
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter  # type: ignore[import-not-found]
        except ImportError:
            raise Failure(
                "no runtime on this machine: expected the Python package ai-edge-litert (or tflite-runtime)"
            ) from None
    return interpreter


def open_model(candidate: Json, folder: Path) -> tuple[Any, float]:
    """(interpreter with tensors allocated, milliseconds it took)"""
    module = runtime()
    name = candidate["id"]
    engine = candidate.get("engine", "litert")
    if engine != "litert":
        raise Failure(f"unknown engine {engine!r}, expected 'litert'", name)
    path = folder / candidate["model"]
    if not path.is_file():
        raise Failure(f"no such model file: {path}", name)
    options: Json = {"model_path": str(path), "num_threads": int(candidate.get("threads", 1))}
    if not candidate.get("xnnpack", True):
        resolver = getattr(module, "OpResolverType", None)
        if resolver is None:
            raise Failure("this runtime is too old to run without XNNPACK (it has no OpResolverType)", name)
        options["experimental_op_resolver_type"] = resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    start = time.perf_counter()
    try:
        interpreter = module.Interpreter(**options)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise Failure(f"the model can't be loaded: {error}", name) from None
    return interpreter, (time.perf_counter() - start) * 1e3


def named(interpreter: Any) -> tuple[list[tuple[str, Json]], list[tuple[str, Json]]]:
    """([(name, details)] of inputs, the same of outputs): by the signature's names, else by the tensors'."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    in_names, out_names = {}, {}
    keys = sorted(interpreter.get_signature_list(), key=lambda key: key != "serving_default")
    if keys:
        signature = interpreter.get_signature_runner(keys[0])
        in_names = {d["index"]: name for name, d in signature.get_input_details().items()}
        out_names = {d["index"]: name for name, d in signature.get_output_details().items()}
    return (
        [(in_names.get(d["index"], d["name"]), d) for d in inputs],
        [(out_names.get(d["index"], d["name"]), d) for d in outputs],
    )


def as_input(samples: Any, details: Json, name: str) -> Any:
    """Samples in the dtype of an input: real numbers are quantized, integers must fit."""
    dtype: Any = np.dtype(details["dtype"])
    if samples.dtype == dtype:
        return samples
    if dtype.kind == "f" and samples.dtype.kind in "fiub":
        return samples.astype(dtype)
    if dtype.kind in "iu" and samples.dtype.kind == "f":
        scale, zero_point = details["quantization"]
        if not scale:
            raise Failure(f"input {name!r} is {dtype} without a scale, the samples are {samples.dtype}")
        limits = np.iinfo(dtype)
        return np.clip(np.round(samples / scale) + zero_point, limits.min, limits.max).astype(dtype)
    if dtype.kind in "iu" and samples.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if samples.size and (samples.min() < limits.min or samples.max() > limits.max):
            raise Failure(f"input {name!r} is {dtype}, the samples have values beyond it")
        return samples.astype(dtype)
    raise Failure(f"input {name!r} is {dtype}, the samples are {samples.dtype}")


class Model:
    """A loaded candidate with its samples; `feed(i)` sets the i-th batch, `invoke()` runs it."""

    def __init__(self, candidate: Json, folder: Path, arrays: Arrays) -> None:
        self.id = candidate["id"]
        self.interpreter, self.init_ms = open_model(candidate, folder)
        inputs, self.outputs = named(self.interpreter)
        names = [name for name, _ in inputs]
        if len(arrays) == 1 and len(inputs) == 1:
            arrays = {names[0]: next(iter(arrays.values()))}
        if set(arrays) != set(names):
            raise Failure(f"the samples have inputs {sorted(arrays)}, the model expects {names}", self.id)
        counts = {len(array) for array in arrays.values()}
        if len(counts) != 1:
            raise Failure(f"expected as many samples for every input, received {sorted(counts)}", self.id)
        self.samples = counts.pop()
        batch: int | None = None
        self.data: list[tuple[int, Any]] = []
        resized = False
        for name, details in inputs:
            array, shape = arrays[name], [int(size) for size in details["shape"]]
            signature = [int(size) for size in details.get("shape_signature", shape)]
            if array.ndim != len(shape):
                raise Failure(
                    f"input {name!r}: the model expects shape {shape}, a sample has shape {list(array.shape[1:])}",
                    self.id,
                )
            free = [i for i, size in enumerate(signature) if size < 0 and i]
            wanted = [array.shape[i] if i in free else size for i, size in enumerate(shape)]
            if wanted[1:] != list(array.shape[1:]):
                raise Failure(
                    f"input {name!r}: the model expects samples of shape {shape[1:]}, received {list(array.shape[1:])}",
                    self.id,
                )
            if wanted != shape:
                self.interpreter.resize_tensor_input(details["index"], wanted)
                resized = True
            if batch not in (None, wanted[0]):
                raise Failure("the model's inputs have different batch sizes", self.id)
            batch = wanted[0]
            try:
                self.data.append((details["index"], as_input(array, details, name)))
            except Failure as error:
                raise Failure(str(error), self.id) from None
        self.batch = batch or 1
        if resized:
            self.interpreter.allocate_tensors()

    def feed(self, index: int) -> None:
        rows = np.arange(index * self.batch, (index + 1) * self.batch) % self.samples
        for at, array in self.data:
            self.interpreter.set_tensor(at, array[rows])

    def invoke(self) -> None:
        try:
            self.interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise Failure(f"the model failed while it ran: {error}", self.id) from None

    def read(self) -> Arrays:
        """{output name: array}, copies."""
        return {name: self.interpreter.get_tensor(details["index"]) for name, details in self.outputs}

    def digest(self) -> str:
        """sha256 over the bytes of all outputs of the first samples: the same everywhere the numbers are."""
        digest = hashlib.sha256()
        for index in range(min(HASHED_SAMPLES, -(-self.samples // self.batch))):
            self.feed(index)
            self.invoke()
            for _, array in sorted(self.read().items()):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


# Jobs --------------------------------------------------------------------------------------------


def peak_rss_mb() -> float:
    """Largest resident set of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MEBI if sys.platform == "darwin" else peak / 1024.0


def load_inputs(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise Failure(f"the inputs {path} can't be read: {error}") from None
    if not arrays or any(array.ndim == 0 or not len(array) for array in arrays.values()):
        raise Failure(f"the inputs {path} have no samples")
    return arrays


def save_arrays(path: Path, arrays: Arrays) -> None:
    """An .npz, for any names: np.savez takes its own parameters' names (`file`) for no array."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def pin(cpus: list[int] | None) -> None:
    if cpus and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            raise Failure(f"can't keep to CPUs {cpus}: {error.strerror}") from None


def probe(job: Json, folder: Path, emit: Emit) -> None:
    """One candidate alone in this process."""
    runtime()
    baseline = peak_rss_mb()
    model = Model(job["candidates"][0], folder, load_inputs(folder / job["inputs"]))
    for _ in range(PROBE_INVOKES):
        model.feed(0)
        model.invoke()
    emit("probe", init_ms=model.init_ms, peak_rss_mb=peak_rss_mb(), baseline_rss_mb=baseline)


def probe_in_child(job: Json, candidate: Json, sample: Path, folder: Path) -> Json:
    """The probe event of one candidate, from a fresh process. `sample`: path of an .npz with one batch."""
    child = {
        "mode": "probe",
        "candidates": [dict(candidate, model=str((folder / candidate["model"]).absolute()))],
        "inputs": str(sample),
        "cpus": job.get("cpus"),
    }
    path = sample.with_name("probe.json")
    path.write_text(json.dumps(child), encoding="utf-8")
    runner = str(Path(__file__).absolute())
    done = subprocess.run([sys.executable, runner, str(path)], stdout=subprocess.PIPE, check=False)
    events: list[Json] = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    for event in events:
        if event["event"] == "error":
            raise Failure(event["message"], candidate["id"])
        if event["event"] == "probe":
            return event
    code = done.returncode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    raise Failure(f"the runtime died with {how} while it ran the model", candidate["id"])


def benchmark(job: Json, folder: Path, emit: Emit) -> None:
    arrays = load_inputs(folder / job["inputs"])
    probes = {}
    with tempfile.TemporaryDirectory() as scratch:
        sample = Path(scratch) / "sample.npz"
        save_arrays(sample, {name: array[:1] for name, array in arrays.items()})
        for candidate in job["candidates"]:
            event = probe_in_child(job, candidate, sample, folder)
            probes[candidate["id"]] = event
            emit("init", id=candidate["id"], init_ms=event["init_ms"])
    models = [Model(candidate, folder, arrays) for candidate in job["candidates"]]
    warmup, runs = int(job.get("warmup", 20)), int(job.get("runs", 200))
    least = float(job.get("min_seconds") or 0)
    order = random.Random(job.get("seed", 0))
    times: dict[str, list[float]] = {model.id: [] for model in models}
    clock = time.perf_counter_ns
    start = shown = time.monotonic()
    index = 0
    while True:
        if index == warmup:
            start = time.monotonic()
        now = time.monotonic()
        if index >= warmup + runs and now - start >= least:
            break
        if now - shown > 0.1:  # ten events a second: enough to see, too few to disturb
            shown = now
            emit("progress", done=index, total=max(warmup + runs, index + 1))
        order.shuffle(models)
        for model in models:
            model.feed(index)
            before = clock()
            model.invoke()
            after = clock()
            if index >= warmup:
                times[model.id].append((after - before) / 1e6)
        index += 1
    emit("progress", done=index, total=index)
    by_id = {model.id: model for model in models}
    for candidate in job["candidates"]:
        name = candidate["id"]
        event = probes[name]
        emit(
            "result",
            id=name,
            times_ms=times[name],
            init_ms=event["init_ms"],
            peak_rss_mb=event["peak_rss_mb"],
            baseline_rss_mb=event["baseline_rss_mb"],
            outputs_sha256=by_id[name].digest(),
        )


def run(job: Json, folder: Path, emit: Emit) -> None:
    if len(job["candidates"]) != 1:
        raise Failure(f"mode 'run' takes one candidate, received {len(job['candidates'])}")
    model = Model(job["candidates"][0], folder, load_inputs(folder / job["inputs"]))
    emit("init", id=model.id, init_ms=model.init_ms)
    outputs: dict[str, list[Any]] = {}
    batches = -(-model.samples // model.batch)
    shown = time.monotonic()
    for index in range(batches):
        model.feed(index)
        model.invoke()
        for name, array in model.read().items():
            outputs.setdefault(name, []).append(np.atleast_1d(array))
        if time.monotonic() - shown > 0.1:
            shown = time.monotonic()
            emit("progress", done=index + 1, total=batches)
    # The last batch is filled up with samples from the start: they are cut off.
    save_arrays(
        folder / job["outputs"], {name: np.concatenate(parts)[: model.samples] for name, parts in outputs.items()}
    )
    emit("result", id=model.id, samples=model.samples)


MODES = {"benchmark": benchmark, "run": run, "probe": probe}


def load_job(path: Path) -> Json:
    try:
        job: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"the job {path} can't be read: {error}") from None
    mode = job.setdefault("mode", "benchmark")
    if mode not in MODES:
        raise Failure(f"unknown mode {mode!r}, expected one of {sorted(MODES)}")
    needed = ["candidates", "inputs"] + (["outputs"] if mode == "run" else [])
    if job.get("profile"):
        raise Failure("this runtime's Python interface gives no times by operator: profile can't be had")
    missing = [key for key in needed if not job.get(key)]
    if missing:
        raise Failure("the job lacks {}".format(", ".join(missing)))
    for candidate in job["candidates"]:
        if "id" not in candidate or "model" not in candidate:
            raise Failure(f"a candidate needs id and model, received {sorted(candidate)}")
    if len({candidate["id"] for candidate in job["candidates"]}) != len(job["candidates"]):
        raise Failure("two candidates have the same id")
    return job


def main(path: Path) -> int:
    # Native code may print: what it writes goes to stderr, and stdout carries events alone.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **fields: Any) -> None:
        stream.write(json.dumps(dict(fields, event=event)) + "\n")
        stream.flush()

    try:
        job = load_job(path)
        pin(job.get("cpus"))
        roots = Path(job.get("sysfs_root", "/sys")), Path(job.get("proc_root", "/proc"))
        visible = job["mode"] != "probe"
        if visible:
            emit("facts", when="before", **facts(*roots))
        MODES[job["mode"]](job, path.absolute().parent, emit)
        if visible:
            emit("facts", when="after", **facts(*roots))
    except Failure as error:
        emit("error", id=error.candidate, message=str(error))
        return 1
    except MemoryError:
        emit("error", id=None, message="out of memory")
        return 1
    emit("end")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python runner.py job.json")
    sys.exit(main(Path(sys.argv[1])))
