"""Runs and times .tflite models on the machine this file lies on.

    python runner.py job.json
    python runner.py --facts [SYSFS]    what is known of the machine, one JSON object: needs the standard library alone
    python runner.py --hold-clocks FILE a Jetson's clocks at their highest until stdin is closed: the same
    python runner.py --tied LOCK COMMAND...    a program that is ended when stdin is closed, alone: the same

One file: the standard library, NumPy and a runtime (ai_edge_litert, else tflite_runtime), Python 3.8 or newer.
It writes one JSON object a line to stdout and measures; what the times mean is computed elsewhere.

The job, a JSON object (* = needed; paths are relative to the job's folder):

    candidates*   list of {"id"*, "model"*, "engine": "litert", "xnnpack": "auto", "reference": false, "threads": 1};
                  xnnpack: true asks for it, and a benchmark leaves out a candidate that it takes no operator of; "auto"
                  is what the runtime does by itself, false keeps it away; reference: LiteRT's reference kernels, whose
                  integers are the same on every machine; engine "tensorrt" takes an engine's file, and the machine's
                  own TensorRT; "tvm" a compiled library, with "variant" that of its variants instead of the CPU's best
                  ("instructions" of what it tells); "onnx" a graph, and "openvino" the .tflite, both with the
                  tensors as "inputs" and "outputs" (see Fixed), and of the package's "version", any where none is given
    inputs*       an .npz: one array an input, by name, leading dimension = samples. An array may be called anything
                  where the model has one input. Real numbers are quantized with the input's scale and zero point.
    mode          "benchmark" (default), or "run": write the outputs of all samples of the one candidate to "outputs"
    outputs       for mode "run": the .npz to write, one array an output, by name, as the model gives them
    warmup, runs, min_seconds    rounds before and while timing (20, 200, 0); rounds go on until min_seconds are over
    seed          of the order of the candidates within a round (0)
    lock, wait_seconds    a file that is locked meanwhile, so that two runners of one user don't disturb each other, and
                  how long another is waited for at most (7200)
    cpus          CPUs to keep to; "last": as many as the candidates' threads, the last of those allowed (the first ones
                  serve most interrupts); [] or null: any
    energy_seconds               each candidate then runs alone for so long while power is measured, where a sensor of
                  the machine's own can be read (0: not at all)
    sustain_seconds, window_seconds    instead of runs: rounds go on for so long at most, and end earlier once
                  temperature and latency have settled; each window of time gives an event (0; 10)
    settle_seconds               over how long nothing may have changed for that (120)
    sysfs_root, proc_root        where facts are read ("/sys", "/proc")

A round invokes every candidate once, in random order, so that drift (temperature, neighbours) meets all alike; the
time is that of `invoke` alone. That needs all models in one process, where neither the memory of one nor the time
it takes to start can be told: so each candidate is started first in a process of its own, which loads it, runs it
three times on one sample and reports init_ms (from the file to tensors allocated) and peak_rss_mb (of the whole
process: Python, NumPy and the runtime are in it; `baseline_rss_mb` is what they take before the model).

Events: facts (when: before | after; cpus: those it keeps to), waiting, init, skipped (a candidate that isn't measured,
with the reason), progress, window, result (delegate: whether one, which XNNPACK is, took operators of a .tflite; null
where that can't be known), error (hint: what helps, or null), end.
An error ends the job with exit code 1. It ends, too, with its children, when its stdin does: whoever started it over a
network is gone then.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import itertools
import json
import os
import platform
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import numpy as np
except (ImportError, RuntimeError) as error:  # a board before anything was brought there: facts can be had without
    np = None  # type: ignore[assignment]
    no_numpy: str | None = str(error)
else:
    no_numpy = None

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
# Names of cores by implementer and part, which ARM kernels give in place of names.
ARM_PARTS = {
    "0x41 0xb76": "ARM1176", "0x41 0xc07": "Cortex-A7", "0x41 0xc08": "Cortex-A8", "0x41 0xc09": "Cortex-A9",
    "0x41 0xc0f": "Cortex-A15", "0x41 0xd03": "Cortex-A53", "0x41 0xd04": "Cortex-A35", "0x41 0xd05": "Cortex-A55",
    "0x41 0xd07": "Cortex-A57", "0x41 0xd08": "Cortex-A72", "0x41 0xd09": "Cortex-A73", "0x41 0xd0a": "Cortex-A75",
    "0x41 0xd0b": "Cortex-A76", "0x41 0xd0c": "Neoverse-N1", "0x41 0xd0d": "Cortex-A77", "0x41 0xd40": "Neoverse-V1",
    "0x41 0xd41": "Cortex-A78", "0x41 0xd42": "Cortex-A78AE", "0x41 0xd44": "Cortex-X1", "0x41 0xd46": "Cortex-A510",
    "0x41 0xd47": "Cortex-A710", "0x41 0xd49": "Neoverse-N2", "0x41 0xd4f": "Neoverse-V2",
    "0x41 0xd83": "Neoverse-V3AE", "0x4e 0x003": "Denver 2", "0x4e 0x004": "Carmel",
}  # fmt: skip
# Device files by which accelerators can be known: Coral, Ethos-U, Hailo, Rockchip, Vivante, Intel and AMD.
NPU_NODES = ("dev/apex_*", "dev/ethosu*", "dev/hailo*", "dev/rknpu*", "dev/galcore", "dev/accel/accel*", "dev/mali*")
# Of engines that are Python packages, which boards are brought.
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
BOARD_FOLDER = "board-v1"  # within edgecompile's of the user's cache folder
LONGEST_WAIT = 7200.0  # seconds
NO_XNNPACK = "this runtime's XNNPACK takes none of the model's operators"
# Operators with a graph of their own, of which nothing can be asked.
WITH_A_BODY = {"IF", "WHILE", "CALL_ONCE", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE"}
OUT_OF_MEMORY = "a smaller model, or fewer candidates at once (--kernels, --backends); else more memory there, or swap"
# What death by a signal comes of as a rule, and what helps.
SIGNALS = {
    "SIGKILL": (
        "likely by the kernel's out-of-memory killer, which acts where memory runs out (`dmesg` there names it)",
        OUT_OF_MEMORY,
    ),
    "SIGILL": (
        "an instruction that this CPU lacks",
        "compare the target's features with the board's, which `edgecompile devices probe` shows, and build for the "
        "target that fits; where the runtime's own code is at fault, another one (--runtime system)",
    ),
}
PROFILED = 20  # runs that a profile is the mean of
PROBE_INVOKES = 3
HASHED_SAMPLES = 8
MEBI = 1024 * 1024
POWER_INTERVAL = 0.05  # seconds between readings: INA sensors average over some 10 ms
# What may change, from one half of the time that is looked at to the other, when things have settled.
STEADY = 0.01  # of latencies
STEADY_DEGREES = 0.5


class Failure(Exception):
    """What the user is to know: the message of an error event, and what helps (None: nothing in particular)."""

    def __init__(self, message: str, candidate: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.candidate, self.hint = candidate, hint


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
    """The CPU's name: x86 has it in cpuinfo, ARM has numbers there and the board's name in the device tree. What some
    ARM kernels call the model's name is that of the instruction set: "ARMv8 Processor rev 1 (v8l)"."""
    fields: dict[str, list[str]] = {}
    for line in (text(proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), []).append(value.strip())
    parts = zip(fields.get("CPU implementer", []), fields.get("CPU part", []))  # noqa: B905  (Python 3.8)
    cores = sorted({ARM_PARTS.get(" ".join(each).lower(), " ".join(each)) for each in parts})
    if not cores and fields.get("model name"):
        return fields["model name"][0]
    board = text(sysfs / "firmware/devicetree/base/model") or next(iter(fields.get("Model", [])), None)
    return ", ".join([name for name in [board, *cores] if name]) or platform.processor() or platform.machine()


def cpu_features(proc: Path) -> list[str]:
    words = cpu_flags(proc)
    return [name for name in FEATURES if name in words]


def cpu_flags(proc: Path) -> set[str]:
    """All that the kernel tells of the CPU's features."""
    words: set[str] = set()
    for line in (text(proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words.update(value.split())
    if "amx_tile" in words and not may_use_tiles():
        words = {name for name in words if not name.startswith("amx")}
    return words


def may_use_tiles() -> bool:
    """Whether Linux lets this process use AMX's tile registers, which it has to be asked for."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


def temperatures(sysfs: Path) -> dict[str, float]:
    """{zone: degrees Celsius}"""
    zones = {}
    for folder in sorted(sysfs.glob("class/thermal/thermal_zone*")):
        value = number(folder / "temp")
        if value is not None:
            zones[text(folder / "type") or folder.name] = value / 1000.0
    return zones


def throttling(sysfs: Path) -> Json:
    """What the machine tells of being slowed down: {"count": how often x86 cores were since the start, "cooling": state
    of each device that cools by a lower clock, "firmware": Raspberry Pi's own bits (0 to 3 now, 16 to 19 since the
    start)}; each None (or empty) where it doesn't."""
    counts = [number(path) for path in sysfs.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")]
    cooling = {}
    for folder in sorted(sysfs.glob("class/thermal/cooling_device*")):
        kind, state = text(folder / "type") or "", number(folder / "cur_state")
        if state is not None and ("cpufreq" in kind or "devfreq" in kind):
            cooling["{} {}".format(kind, folder.name[len("cooling_device") :])] = state
    firmware = text(sysfs / "devices/platform/soc/soc:firmware/get_throttled")
    if firmware is None and sysfs == Path("/sys"):
        firmware = (tool_output("vcgencmd", "get_throttled") or "").partition("=")[2] or None
    known = [count for count in counts if count is not None]
    return {"count": sum(known) if known else None, "cooling": cooling, "firmware": firmware and int(firmware, 16)}


def memory_mb(proc: Path) -> int | None:
    for line in (text(proc / "meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 1024.0)
    return None


def disk_free_mb(folder: Path) -> int | None:
    """On the file system that the folder is on, or would be."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free // MEBI
    except OSError:
        return None


def clusters(sysfs: Path) -> list[Json]:
    """CPUs that share a clock: {"cpus": [0, 1], "governor", "cur_mhz", "max_mhz", "limit_mhz": what it is kept to}."""
    found = []
    for policy in sorted((sysfs / "devices/system/cpu/cpufreq").glob("policy*")):
        cpus = [int(word) for word in (text(policy / "related_cpus") or "").split()]
        current, most = number(policy / "scaling_cur_freq"), number(policy / "cpuinfo_max_freq")
        limit = number(policy / "scaling_max_freq")
        found.append(
            {
                "cpus": cpus,
                "governor": text(policy / "scaling_governor"),
                "cur_mhz": None if current is None else current / 1000.0,
                "max_mhz": None if most is None else most / 1000.0,
                "limit_mhz": None if limit is None else limit / 1000.0,
            }
        )
    return found


def tool_output(*argv: str, may_fail: bool = False) -> str | None:
    """What a program of the machine's own prints; None where there is none, or it fails and mustn't."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 or may_fail else None


def nvidia(sysfs: Path = Path("/sys"), root: Path = Path("/")) -> Json | None:
    """{"gpus": what nvidia-smi lists, "jetson": its board's name, "l4t": its release, "power_mode", "clocks",
    "trtexec": where it is, "tensorrt": version of its Python package}, None where there is nothing of NVIDIA's."""
    listed = tool_output(
        "nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"
    )
    board = text(sysfs / "firmware/devicetree/base/model") or ""
    jetson = board if "Jetson" in board or board.startswith("NVIDIA Orin") else None
    if listed is None and jetson is None:
        return None
    known = [shutil.which("trtexec"), "/usr/src/tensorrt/bin/trtexec"]
    return {
        "gpus": (listed or "").splitlines(),
        "jetson": jetson,
        "l4t": l4t_release(text(root / "etc/nv_tegra_release") or ""),
        # It ends with an error where it may not read one of a mode's many settings.
        "power_mode": power_mode(tool_output("nvpmodel", "-q", may_fail=True) or "") if jetson else None,
        "clocks": (clocks(tool_output("jetson_clocks", "--show") or "") or devfreq(sysfs)) if jetson else {},
        "trtexec": next((path for path in known if path and Path(path).is_file()), None),
        "tensorrt": version_of("tensorrt"),
    }


def l4t_release(release: str) -> str | None:
    """ "36.4.3" of the first line of /etc/nv_tegra_release, "# R36 (release), REVISION: 4.3, ..."."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return "{}.{}".format(*found.groups()) if found else None


def power_mode(query: str) -> str | None:
    """ "MODE_15W (2)": the name and the number that `nvpmodel -q` prints, on two lines."""
    found = re.search(r"NV Power Mode: *(\S+)\s*\n\s*(\d+)", query)
    return "{} ({})".format(*found.groups()) if found else None


def clocks(show: str) -> Json:
    """{"GPU", "EMC": {"min_mhz", "max_mhz", "cur_mhz"}} of what `jetson_clocks --show` prints; it may need root.

    Where all three of GPU are equal, jetson_clocks holds them.
    """
    found = re.findall(r"^(GPU|EMC) MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", show, re.MULTILINE)
    return {
        name: {"min_mhz": int(least) / 1e6, "max_mhz": int(most) / 1e6, "cur_mhz": int(current) / 1e6}
        for name, least, most, current in found
    }


def devfreq(sysfs: Path) -> Json:
    """As `clocks`, of the GPU: what users without root may read."""
    for folder in sorted(sysfs.glob("class/devfreq/*gpu*")) + sorted(sysfs.glob("class/devfreq/*gv11b*")):
        least, most, current = (number(folder / name) for name in ("min_freq", "max_freq", "cur_freq"))
        if least is not None and most is not None and current is not None:
            return {"GPU": {"min_mhz": least / 1e6, "max_mhz": most / 1e6, "cur_mhz": current / 1e6}}
    return {}


def npu_nodes(root: Path = Path("/")) -> list[str]:
    """Device files of accelerators whose drivers are loaded."""
    return sorted(str(path) for pattern in NPU_NODES for path in root.glob(pattern))


def runtime_version() -> tuple[str | None, str | None]:
    """(name, version) of the runtime that would be used, without loading it; (None, None) where there is none."""
    for package in ("ai-edge-litert", "tflite-runtime"):
        version = version_of(package)
        if version is not None:
            return package, version
    return None, None


def version_of(package: str) -> str | None:
    """Of an installed Python package."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def unusable_numpy(problem: str) -> Failure:
    """problem: of its import. The machine beside what its wheel is for: one of the two is a surprise."""
    said = re.search(r"^\W*Original error was: (.+)$", problem, re.MULTILINE)
    why = said.group(1) if said else problem.strip().splitlines()[0]
    libc = " ".join(filter(None, platform.libc_ver())) or "no glibc"
    found = f"{platform.python_implementation()} {platform.python_version()}, {machine()}, {libc}"
    wheels = [path for folder in sys.path for path in Path(folder).glob("numpy-*.dist-info/WHEEL")]
    tags = re.findall(r"^Tag: (\S+)", text(wheels[0]) or "", re.MULTILINE) if wheels else []
    wheel = f"the wheel of NumPy that it finds is for {tags[0]}" if tags else "there is no wheel of NumPy"
    return Failure(
        f"NumPy can't be loaded on this machine: {why}; it is {found}, and {wheel}",
        hint="install there what that names, where it is a library; else a runtime of its own (`python3 -m pip install "
        "--force-reinstall numpy ai-edge-litert` there), and --runtime system",
    )


def machine() -> str:
    """As `uname -m`, but for a 32-bit system on a 64-bit kernel, whose programs are 32-bit ones."""
    name = platform.machine()
    return name if sys.maxsize > 2**32 else {"aarch64": "armv7l", "x86_64": "i686"}.get(name, name)


def facts(sysfs: Path = Path("/sys"), proc: Path = Path("/proc")) -> Json:
    """What can be known about this machine and its state, each None (or empty) where it can't be read.

    cur_mhz, max_mhz, governor: of the first CPU. temperatures: degrees Celsius by zone. memory_mb: in MiB.
    """
    frequency = sysfs / "devices/system/cpu/cpu0/cpufreq"
    current = number(frequency / "scaling_cur_freq")
    most = number(frequency / "cpuinfo_max_freq")
    runtime, version = runtime_version()
    return {
        "machine": machine(),
        "cpu": cpu_model(sysfs, proc),
        "cores": os.cpu_count(),
        "features": cpu_features(proc),
        "governor": text(frequency / "scaling_governor"),
        "cur_mhz": None if current is None else current / 1000.0,
        "max_mhz": None if most is None else most / 1000.0,
        "temperatures": temperatures(sysfs),
        "throttling": throttling(sysfs),
        "power_sensor": getattr(power_meter(sysfs), "name", None),
        "loadavg": list(os.getloadavg()),
        "cpu_seconds": cpu_seconds(proc),
        "memory_mb": memory_mb(proc),
        "python": platform.python_version(),
        "runtime": runtime,
        "runtime_version": version,
        "engines": {name: found for name in PACKAGES.values() for found in [version_of(name)] if found},
        "kernel": platform.release(),
        "os": platform.system(),
        "glibc": platform.libc_ver()[1] or None,
        "clusters": clusters(sysfs),
        "nvidia": nvidia(sysfs),
        "npu": npu_nodes(),
        "cache": str(cache_folder()),
        "disk_free_mb": disk_free_mb(cache_folder()),
    }


def cpu_seconds(proc: Path) -> Json | None:
    """{at: a clock, busy: of all CPUs since the start, own: of this process and those it has waited for}, in seconds;
    None where the system doesn't tell. Time that a hypervisor gave to others counts as busy."""
    first = (text(proc / "stat") or "").split("\n", 1)[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])  # guests are in user and nice
    ticks = user + nice + system + irq + softirq + steal
    own = os.times()
    return {
        "at": time.monotonic(),
        "busy": ticks / os.sysconf("SC_CLK_TCK"),
        "own": own.user + own.system + own.children_user + own.children_system,
    }


def cache_folder() -> Path:
    """Where a board keeps what edgecompile brings there. Not that of an edgecompile of the board's own."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecompile" / BOARD_FOLDER


# Power -------------------------------------------------------------------------------------------


class Rails:
    """Sensors of current: power now, from files. Each rail: (path, what it takes to make watts of it) factors."""

    def __init__(self, name: str, rails: list[list[tuple[Path, float]]]) -> None:
        self.name = name
        self._rails = rails

    def watts(self) -> float | None:
        total = 0.0
        for factors in self._rails:
            power = 1.0
            for path, unit in factors:
                value = number(path)
                if value is None:
                    return None
                power *= value * unit
            total += power
        return total

    def close(self) -> None: ...


class Counters:
    """RAPL: energy since some time, in microjoules, that starts anew at its range."""

    def __init__(self, folders: list[Path]) -> None:
        self.name = "RAPL"
        self._folders = folders
        self._last: tuple[float, list[int]] | None = None

    def watts(self) -> float | None:
        """Mean power since the last call; None for the first."""
        now, values = time.monotonic(), [number(folder / "energy_uj") for folder in self._folders]
        known = [value for value in values if value is not None]
        if len(known) != len(values):
            return None
        last, self._last = self._last, (now, known)
        if last is None or now <= last[0]:
            return None
        joules = 0.0
        for folder, before, after in zip(self._folders, last[1], known):  # noqa: B905  (Python 3.8 has no strict)
            span = number(folder / "max_energy_range_uj") or 0
            joules += (after - before if after >= before else after - before + span) / 1e6
        return joules / (now - last[0])

    def close(self) -> None: ...


# The rail that feeds the whole board, on Jetsons: where it's there, the others are parts of it.
WHOLE = ("VDD_IN", "POM_5V_IN")
# Of rails that are summed: not connected, and one that VIN_SYS_5V0 feeds (AGX Orin).
NOT_SUMMED = ("NC", "VDDQ_VDD2_1V8AO")


class Tegrastats:
    """Power by NVIDIA's tool, on Jetsons whose INA sensors only it may read."""

    def __init__(self) -> None:
        self.name = "tegrastats"
        self._last: float | None = None
        self._process: Any = None

    def _follow(self) -> None:
        for line in self._process.stdout:
            self._last = tegrastats_watts(line.decode("utf-8", "replace"))

    def watts(self) -> float | None:
        if self._process is None:
            command = ["tegrastats", "--interval", str(round(POWER_INTERVAL * 1000))]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            threading.Thread(target=self._follow, daemon=True).start()
        for _ in range(40):  # its first line takes a moment
            if self._last is not None or self._process.poll() is not None:
                break
            time.sleep(POWER_INTERVAL)
        return self._last

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def tegrastats_watts(line: str) -> float | None:
    """Of a line of tegrastats: of the rail that feeds the board, else the sum over all rails, each "NAME now/mean",
    in mW with or without that unit."""
    rails = {name: int(now) for name, now in re.findall(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/\d+(?:mW)?(?= |$)", line)}
    whole = [rails[name] for name in WHOLE if name in rails]
    parts = [milliwatts for name, milliwatts in rails.items() if name not in NOT_SUMMED]
    return (whole[0] if whole else sum(parts)) / 1e3 if rails else None


def power_meter(sysfs: Path) -> Any:
    """What measures this machine's power and can be read; None where nothing does."""
    found: dict[str, list[tuple[Path, float]]] = {}
    for folder in sorted(sysfs.glob("class/hwmon/hwmon*")):
        if not (text(folder / "name") or "").startswith("ina"):
            continue
        for current in sorted(folder.glob("curr*_input")):
            channel = current.name[len("curr") : -len("_input")]
            label = text(folder / f"in{channel}_label")
            if label is None and channel == "1":  # chips of one channel don't name it
                label = folder.name
            if label is None or label in NOT_SUMMED:  # what isn't named is a sum of others
                continue
            found[label] = [(current, 1e-3), (folder / f"in{channel}_input", 1e-3)]
    for path in sorted(sysfs.glob("bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input")):  # L4T before 35
        channel = path.name[len("in_power") : -len("_input")]
        found[text(path.with_name("rail_name_" + channel)) or path.name] = [(path, 1e-3)]
    whole = [label for label in found if label in WHOLE]
    names = whole[:1] or sorted(found)
    meter = Rails("INA " + ", ".join(names), [found[name] for name in names])
    if names and meter.watts() is not None:
        return meter
    packages = [
        folder
        for folder in sorted(sysfs.glob("class/powercap/intel-rapl:*"))
        if (text(folder / "name") or "").startswith("package") and number(folder / "energy_uj") is not None
    ]
    if packages:
        return Counters(packages)
    return Tegrastats() if sysfs == Path("/sys") and shutil.which("tegrastats") else None


def mean_watts(meter: Any, seconds: float, work: Callable[[], None]) -> tuple[float | None, int, float]:
    """(mean power while `work` is repeated for so long, how often it was, seconds it took)"""
    meter.watts()
    start = last = time.monotonic()
    readings: list[tuple[float, float]] = []
    count = 0
    while last - start < seconds or not readings:
        while time.monotonic() - last < POWER_INTERVAL:
            work()
            count += 1
        watts = meter.watts()
        now = time.monotonic()
        if watts is None:
            return None, count, now - start
        readings.append((watts, now - last))
        last = now
    return sum(w * s for w, s in readings) / sum(s for _, s in readings), count, last - start


def energy(models: list[Any], seconds: float, sysfs: Path) -> dict[str, Json]:
    """{candidate: {"mj": millijoules an inference, all of the board's included, "watts", "idle_watts", "inferences",
    "sensor"}}, empty where nothing measures power."""
    meter = power_meter(sysfs)
    if meter is None or not seconds:
        return {}
    try:
        idle, _, _ = mean_watts(meter, min(seconds, 1.0), lambda: time.sleep(0.01))
        found = {}
        for model in models:
            model.feed(0)
            watts, count, took = mean_watts(meter, seconds, model.invoke)
            if watts is not None and count:
                each = {"watts": watts, "idle_watts": idle, "inferences": count, "sensor": meter.name}
                found[model.id] = dict(each, mj=watts * took / count * 1e3)
    finally:
        meter.close()
    return found


# The runtime -------------------------------------------------------------------------------------


def runtime() -> Any:
    """The module with Interpreter."""
    reasons = []
    for package in ("ai_edge_litert", "tflite_runtime"):
        try:
            return importlib.import_module(package + ".interpreter")
        except ImportError as error:
            reasons.append(str(error).strip().splitlines()[0])
    wanted = "expected the Python package ai-edge-litert (or tflite-runtime)"
    raise Failure("no runtime that works on this machine: {}; {}".format(wanted, ", ".join(reasons)))


def model_file(candidate: Json, folder: Path) -> Path:
    path = folder / str(candidate["model"])
    if not path.is_file():
        raise Failure(f"no such model file: {path}", candidate["id"])
    return path


def open_model(candidate: Json, folder: Path) -> tuple[Any, float]:
    """(interpreter with tensors allocated, milliseconds it took)"""
    module = runtime()
    name = candidate["id"]
    path = model_file(candidate, folder)
    options: Json = {"model_path": str(path), "num_threads": int(candidate.get("threads", 1))}
    if candidate.get("reference") or not candidate.get("xnnpack", "auto"):
        resolver = getattr(module, "OpResolverType", None)
        if resolver is None:
            raise Failure("this runtime is too old to run without XNNPACK (it has no OpResolverType)", name)
        options["experimental_op_resolver_type"] = (
            resolver.BUILTIN_REF if candidate.get("reference") else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
    start = time.perf_counter()
    try:
        interpreter = module.Interpreter(**options)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise Failure(f"the model can't be loaded: {error}", name) from None
    return interpreter, (time.perf_counter() - start) * 1e3


def has_variables(interpreter: Any) -> bool:
    """Whether the model has variables of TensorFlow's, which it changes while it runs."""
    if not hasattr(interpreter, "_get_ops_details"):
        return False
    return any(operator["op_name"] == "VAR_HANDLE" for operator in interpreter._get_ops_details())


def delegated(interpreter: Any) -> bool | None:
    """Whether a delegate took some of the operators, once tensors are allocated; None where that can't be known."""
    if not hasattr(interpreter, "_get_ops_details"):
        return None
    names = {operator["op_name"] for operator in interpreter._get_ops_details()}
    if "DELEGATE" in names:
        return True
    return None if names & WITH_A_BODY else False


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
        # In float64, as where models are built: many a sample lies in the middle between two steps.
        real = np.round(samples.astype(np.float64) / scale) + zero_point
        return np.clip(real, limits.min, limits.max).astype(dtype)
    if dtype.kind in "iu" and samples.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if samples.size and (samples.min() < limits.min or samples.max() > limits.max):
            raise Failure(f"input {name!r} is {dtype}, the samples have values beyond it")
        return samples.astype(dtype)
    raise Failure(f"input {name!r} is {dtype}, the samples are {samples.dtype}")


class Model:
    """A loaded candidate with its samples; `feed(i)` sets the i-th batch, `invoke()` runs it, `read()` its outputs."""

    id: str
    init_ms: float
    samples: int
    batch: int
    delegate: bool | None = None  # see Events

    def begin(self) -> None:
        """Forget what runs before this one left in the model, where feeding it anew doesn't."""

    def feed(self, index: int) -> None:
        raise NotImplementedError

    def invoke(self) -> None:
        raise NotImplementedError

    def read(self) -> Arrays:
        raise NotImplementedError

    def profile(self) -> Json | None:
        """Where its time goes, None where the engine doesn't tell: {"steps": [{"operators": indices, "names", "note",
        "macs", "bytes", "unit": of "peaks", "us"}], "peaks": what one core does at most}."""
        return None

    def take(self, arrays: Arrays, names: list[str]) -> Arrays:
        """The samples by the model's own names of its inputs."""
        if len(arrays) == 1 and len(names) == 1:
            arrays = {names[0]: next(iter(arrays.values()))}
        if set(arrays) != set(names):
            raise Failure(f"the samples have inputs {sorted(arrays)}, the model expects {names}", self.id)
        counts = {len(array) for array in arrays.values()}
        if len(counts) != 1:
            raise Failure(f"expected as many samples for every input, received {sorted(counts)}", self.id)
        self.samples = counts.pop()
        return arrays

    def rows(self, index: int) -> Any:
        """Which samples the i-th batch has: the last one is filled up with the first ones."""
        return np.arange(index * self.batch, (index + 1) * self.batch) % self.samples

    def digest(self) -> str:
        """sha256 over the bytes of all outputs of the first samples: the same everywhere the numbers are."""
        digest = hashlib.sha256()
        for index in range(min(HASHED_SAMPLES, -(-self.samples // self.batch))):
            self.begin()
            self.feed(index)
            self.invoke()
            for _, array in sorted(self.read().items()):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class Tflite(Model):
    def __init__(self, candidate: Json, folder: Path, arrays: Arrays) -> None:
        self.id, self.source = candidate["id"], (candidate, folder)
        self.interpreter, self.init_ms = open_model(candidate, folder)
        self.variables = has_variables(self.interpreter)
        inputs, self.outputs = named(self.interpreter)
        arrays = self.take(arrays, [name for name, _ in inputs])
        batch: int | None = None
        self.data: list[tuple[int, Any]] = []
        self.resized: list[tuple[int, list[int]]] = []
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
                self.resized.append((details["index"], wanted))
            if batch not in (None, wanted[0]):
                raise Failure("the model's inputs have different batch sizes", self.id)
            batch = wanted[0]
            try:
                self.data.append((details["index"], as_input(array, details, name)))
            except Failure as error:
                raise Failure(str(error), self.id) from None
        self.batch = batch or 1
        self.resize()
        self.delegate = delegated(self.interpreter)

    def resize(self) -> None:
        for index, shape in self.resized:
            self.interpreter.resize_tensor_input(index, shape)
        if self.resized:
            self.interpreter.allocate_tensors()

    def begin(self) -> None:
        """Only a new interpreter has variables as the file begins them; it costs far more than a run."""
        if self.variables:
            self.interpreter, _ = open_model(*self.source)
            self.resize()

    def feed(self, index: int) -> None:
        self.interpreter.reset_all_variables()  # the state of a fused LSTM, which isn't that of a variable
        rows = self.rows(index)
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


class Library:
    """A model compiled to a shared library (edgecompile's backend tvm), which needs nothing but the C library.

    known: what it tells of itself: {"inputs", "outputs": [{"name", "shape", "dtype", "scale", "zero_point"}], "arch",
    "needs": features of the CPU, "instructions", "steps": what each call is made of}. given, found: arrays that it
    reads and writes. variant: the "instructions" to run, where it isn't to be the CPU's best.
    """

    def __init__(self, path: Path, threads: int, variant: str | None = None) -> None:
        start = time.perf_counter()
        try:
            self._library = ctypes.CDLL(str(path.absolute()))
        except OSError as error:
            raise Failure(f"{path.name} can't be loaded: {error}") from None
        for name in ("edgecompile_signature", "edgecompile_error"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self.known: Json
        if variant is None:
            self._library.edgecompile_open.restype = ctypes.c_void_p
            self.known = json.loads(self._library.edgecompile_signature().decode("utf-8"))
            self._model = ctypes.c_void_p(self._library.edgecompile_open(threads))
        else:
            told = self.variants(path)
            names = [known["instructions"] for known in told]
            if variant not in names:
                raise Failure("{} has no variant {}, it has {}".format(path.name, variant, ", ".join(names)))
            index = names.index(variant)
            self.known = told[index]
            self._library.edgecompile_open_variant.restype = ctypes.c_void_p
            self._model = ctypes.c_void_p(self._library.edgecompile_open_variant(threads, index))
        if not self._model:
            raise Failure(f"{path.name} can't be opened: {self._said()}")
        self.given, self._inputs = self._arrays(self.known["inputs"])
        self.found, self._outputs = self._arrays(self.known["outputs"])
        self.init_ms = (time.perf_counter() - start) * 1e3

    def variants(self, path: Path) -> list[Json]:
        """What each of its variants tells of itself, the best first."""
        try:
            count = self._library.edgecompile_variants()
            told = self._library.edgecompile_variant_signature
        except AttributeError:
            raise Failure(f"{path.name} was made by an edgecompile that let nobody choose a variant") from None
        told.restype = ctypes.c_char_p
        return [json.loads(told(index).decode("utf-8")) for index in range(count)]

    def set(self, arrays: list[Any]) -> None:
        for target, array in zip(self.given, arrays):  # noqa: B905  (Python 3.8 has no strict)
            np.copyto(target, array)

    def get(self) -> list[Any]:
        return [array.copy() for array in self.found]

    def run(self) -> None:
        if self._library.edgecompile_run(self._model, self._inputs, self._outputs):
            raise Failure("the library failed: " + self._said())

    def profile(self, runs: int) -> list[float]:
        """Seconds of each step, the mean of so many runs."""
        seconds = (ctypes.c_double * len(self.known["steps"]))()
        for _ in range(runs):
            if self._library.edgecompile_profile(self._model, self._inputs, self._outputs, seconds):
                raise Failure("the library failed: " + self._said())
        return [each / runs for each in seconds]

    def peaks(self) -> Json:
        """Of one core: float32 and int8 multiply-accumulates a second, bytes a second that it reads of memory as large
        as the model's."""
        found = (ctypes.c_double * 3)()
        if self._library.edgecompile_peaks(found):
            raise Failure("the library failed: " + self._said())
        return {"float32": found[0], "int8": found[1], "bytes": found[2]}

    def close(self) -> None:
        self._library.edgecompile_close(self._model)

    def _said(self) -> str:
        return str(self._library.edgecompile_error().decode("utf-8", "replace"))

    @staticmethod
    def _arrays(specs: list[Json]) -> tuple[list[Any], Any]:
        """Arrays that begin at multiples of 64 bytes, and pointers to them."""
        arrays = []
        for spec in specs:
            dtype: Any = np.dtype(spec["dtype"])
            size = int(np.prod(spec["shape"], dtype=np.int64)) * dtype.itemsize
            room = np.zeros(size + 64, np.uint8)
            start = -room.ctypes.data % 64
            arrays.append(room[start : start + size].view(dtype).reshape(spec["shape"]))
        return arrays, (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])


class OnnxSession:
    """A graph by ONNX Runtime's CPU kernels. inputs: [{"name", "shape", "dtype"}] as the graph has them."""

    def __init__(self, path: Path, threads: int) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime
        except ImportError as error:
            raise Failure(f"the Python package onnxruntime can't be loaded: {error}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Threads that go on waiting for work would slow down whatever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        start = time.perf_counter()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class for each of its own codes
            raise Failure(f"ONNX Runtime refused {path.name}: {error}") from None
        self.init_ms = (time.perf_counter() - start) * 1e3
        self.inputs = [self._spec(value) for value in self._session.get_inputs()]
        self.outputs = [self._spec(value) for value in self._session.get_outputs()]
        self._found: list[Any] = []

    def set(self, arrays: list[Any]) -> None:
        self._given = {spec["name"]: array for spec, array in zip(self.inputs, arrays)}  # noqa: B905

    def run(self) -> None:
        self._found = self._session.run(None, self._given)

    def get(self) -> list[Any]:
        return self._found

    @staticmethod
    def _spec(value: Any) -> Json:
        names = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
        dtype = names.get(value.type, value.type[len("tensor(") : -1])
        return {"name": value.name, "shape": list(value.shape), "dtype": dtype}


class OpenVinoSession:
    """A .tflite as OpenVINO reads it. inputs: [{"tensor": its name in the file, "shape"}], all of them."""

    def __init__(self, path: Path, threads: int, inputs: list[Json], outputs: list[Json]) -> None:
        try:
            import openvino
        except ImportError as error:
            raise Failure(f"the Python package openvino can't be loaded: {error}") from None
        start = time.perf_counter()
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            model.reshape({spec["tensor"]: list(spec["shape"]) for spec in inputs})
            # Elsewhere than asked for it would compute in bfloat16 where the CPU has that.
            settings = {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": False,
            }
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:  # it raises RuntimeError, and its own
            raise Failure(f"OpenVINO refused {path.name}: {str(error).strip().splitlines()[-1]}") from None
        self.init_ms = (time.perf_counter() - start) * 1e3
        self._tensor = openvino.Tensor
        self._inputs, self._outputs = inputs, outputs

    def set(self, arrays: list[Any]) -> None:
        self._held = [np.ascontiguousarray(array) for array in arrays]
        for spec, array in zip(self._inputs, self._held):  # noqa: B905
            self._request.set_tensor(spec["tensor"], self._tensor(array, shared_memory=True))

    def run(self) -> None:
        self._request.infer()

    def get(self) -> list[Any]:
        return [self._request.get_tensor(spec["tensor"]).data.copy() for spec in self._outputs]


class Fixed(Model):
    """A model whose sizes are all fixed, in a session: what takes, runs and gives all its tensors at once.

    Its inputs and outputs are described by {"name", "shape", "dtype", "scale", "zero_point"}, the last two None where
    it isn't quantized.
    """

    def open(self, path: Path, candidate: Json) -> tuple[Any, list[Json], list[Json]]:
        """(the session, its inputs, its outputs)"""
        raise NotImplementedError

    @staticmethod
    def check_version(candidate: Json) -> None:
        """Figures go by the version that a candidate of a package's names: another's would be wrong."""
        package, wanted = PACKAGES[candidate["engine"]], candidate.get("version")
        found = version_of(package)
        if wanted is not None and found is not None and found != wanted:
            raise Failure(f"{package} {found} is on this machine, expected {wanted}")

    def __init__(self, candidate: Json, folder: Path, arrays: Arrays) -> None:
        self.id = candidate["id"]
        path = model_file(candidate, folder)
        try:
            self.session, inputs, self.outputs = self.open(path, candidate)
        except Failure as error:
            raise Failure(str(error), self.id) from None
        self.init_ms = self.session.init_ms
        arrays = self.take(arrays, [spec["name"] for spec in inputs])
        self.batch = int(inputs[0]["shape"][0])
        self.data = []
        for spec in inputs:
            array = arrays[spec["name"]]
            if list(array.shape[1:]) != list(spec["shape"][1:]):
                raise Failure(
                    f"input {spec['name']!r}: the model expects samples of shape {spec['shape'][1:]}, received "
                    f"{list(array.shape[1:])}",
                    self.id,
                )
            details = {"dtype": spec["dtype"], "quantization": (spec["scale"], spec["zero_point"])}
            self.data.append(as_input(array, details, spec["name"]))

    def feed(self, index: int) -> None:
        rows = self.rows(index)
        self.session.set([array[rows] for array in self.data])

    def invoke(self) -> None:
        self.session.run()

    def read(self) -> Arrays:
        return {spec["name"]: array for spec, array in zip(self.outputs, self.session.get())}  # noqa: B905


class Tvm(Fixed):
    def open(self, path: Path, candidate: Json) -> tuple[Any, list[Json], list[Json]]:
        self._best = "variant" not in candidate
        library = Library(path, int(candidate.get("threads", 1)), candidate.get("variant"))
        return library, library.known["inputs"], library.known["outputs"]

    def profile(self) -> Json | None:
        if not self._best:  # peaks are those of the CPU's best
            return None
        seconds = self.session.profile(PROFILED)
        steps = [dict(step, us=taken * 1e6) for step, taken in zip(self.session.known["steps"], seconds)]  # noqa: B905
        return {"steps": steps, "peaks": self.session.peaks()}


class Onnx(Fixed):
    def open(self, path: Path, candidate: Json) -> tuple[Any, list[Json], list[Json]]:
        self.check_version(candidate)
        return OnnxSession(path, int(candidate.get("threads", 1))), candidate["inputs"], candidate["outputs"]


class OpenVino(Fixed):
    def open(self, path: Path, candidate: Json) -> tuple[Any, list[Json], list[Json]]:
        self.check_version(candidate)
        inputs, outputs = candidate["inputs"], candidate["outputs"]
        return OpenVinoSession(path, int(candidate.get("threads", 1)), inputs, outputs), inputs, outputs


class Cuda:
    """What an engine needs of CUDA's runtime library, so that no Python package of NVIDIA's is."""

    NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
    TO_DEVICE, TO_HOST = 1, 2

    def __init__(self) -> None:
        for name in (*self.NAMES, "/usr/local/cuda/lib64/libcudart.so"):
            try:
                self._library = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            raise Failure("CUDA's runtime library libcudart is not found: is JetPack's CUDA installed?")
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def allocate(self, size: int) -> int:
        pointer = ctypes.c_void_p()
        self._check(self._library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)))
        return pointer.value or 0

    def copy(self, to: int, source: int, size: int, kind: int) -> None:
        to_, from_ = ctypes.c_void_p(to), ctypes.c_void_p(source)
        self._check(self._library.cudaMemcpy(to_, from_, ctypes.c_size_t(size), ctypes.c_int(kind)))

    def _check(self, status: int) -> None:
        if status:
            raise Failure("CUDA: " + self._library.cudaGetErrorString(status).decode())


class TensorRt(Model):
    """An engine; `invoke` has the copies to the GPU and back in it, which an application needs, too.

    Written for TensorRT 8.2 to 10: the names of tensors were an engine's bindings before 8.5.
    """

    def __init__(self, candidate: Json, folder: Path, arrays: Arrays) -> None:
        self.id = candidate["id"]
        try:
            import tensorrt
        except ImportError as error:
            wanted = "it is Debian package python3-libnvinfer of JetPack"
            raise Failure(f"the Python package tensorrt can't be loaded ({error}); {wanted}", self.id) from None
        path = model_file(candidate, folder)
        start = time.perf_counter()
        self._cuda = Cuda()
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        tensorrt.init_libnvinfer_plugins(logger, "")
        self._runtime = tensorrt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise Failure("TensorRT can't load the engine: another version, or another GPU, built it", self.id)
        self._context = self._engine.create_execution_context()
        self.init_ms = (time.perf_counter() - start) * 1e3
        tensors = self._tensors(tensorrt)
        arrays = self.take(arrays, [name for name, is_input, _, _ in tensors if is_input])
        self._inputs: list[tuple[Any, Any, int]] = []
        self._outputs: dict[str, tuple[Any, int]] = {}
        self._pointers = []
        batches = set()
        for name, is_input, shape, dtype in tensors:
            host = np.zeros(shape, dtype)
            self._pointers.append(self._cuda.allocate(host.nbytes))
            if is_input:
                batches.add(shape[0])
                if list(arrays[name].shape[1:]) != shape[1:]:
                    raise Failure(
                        f"input {name!r}: the engine expects samples of shape {shape[1:]}, received "
                        f"{list(arrays[name].shape[1:])}",
                        self.id,
                    )
                self._inputs.append((arrays[name], host, self._pointers[-1]))
            else:
                self._outputs[name] = (host, self._pointers[-1])
        if len(batches) != 1:
            raise Failure("the engine's inputs have different batch sizes", self.id)
        self.batch = batches.pop()

    def _tensors(self, tensorrt: Any) -> list[tuple[str, bool, list[int], Any]]:
        """(name, whether it's an input, shape, dtype) in the order in which the engine takes pointers."""
        engine = self._engine
        if hasattr(engine, "num_io_tensors"):
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            mode = tensorrt.TensorIOMode.INPUT
            found = [
                (n, engine.get_tensor_mode(n) == mode, engine.get_tensor_shape(n), engine.get_tensor_dtype(n))
                for n in names
            ]
        else:
            found = [
                (
                    engine.get_binding_name(i),
                    engine.binding_is_input(i),
                    engine.get_binding_shape(i),
                    engine.get_binding_dtype(i),
                )
                for i in range(engine.num_bindings)
            ]
        return [(name, is_input, list(shape), self._dtype(dtype)) for name, is_input, shape, dtype in found]

    def _dtype(self, dtype: Any) -> Any:
        """NumPy's for one of TensorRT's; its own function for that fails with NumPy 1.24 before TensorRT 8.6."""
        name = str(dtype).rpartition(".")[2].lower()
        known = {
            "float": "float32",
            "half": "float16",
            "int32": "int32",
            "int64": "int64",
            "int8": "int8",
            "bool": "bool",
        }
        if name not in known:
            raise Failure(f"a tensor of the engine is {name}, expected one of {sorted(known)}", self.id)
        return np.dtype(known[name])

    def feed(self, index: int) -> None:
        rows = self.rows(index)
        for array, host, _ in self._inputs:
            host[...] = array[rows]

    def invoke(self) -> None:
        for _, host, pointer in self._inputs:
            self._cuda.copy(pointer, host.ctypes.data, host.nbytes, Cuda.TO_DEVICE)
        if not self._context.execute_v2(self._pointers):
            raise Failure("TensorRT failed while the engine ran", self.id)
        for host, pointer in self._outputs.values():
            self._cuda.copy(host.ctypes.data, pointer, host.nbytes, Cuda.TO_HOST)

    def read(self) -> Arrays:
        return {name: host.copy() for name, (host, _) in self._outputs.items()}


ENGINES = {"litert": Tflite, "onnx": Onnx, "openvino": OpenVino, "tensorrt": TensorRt, "tvm": Tvm}


def load_model(candidate: Json, folder: Path, arrays: Arrays) -> Model:
    engine = candidate.get("engine", "litert")
    if engine not in ENGINES:
        raise Failure(f"unknown engine {engine!r}, expected one of {sorted(ENGINES)}", candidate["id"])
    return ENGINES[engine](candidate, folder, arrays)


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


def pin(cpus: Any, threads: int) -> list[int]:
    """Keep to these CPUs, as the job says; those it is kept to, none where it may run anywhere."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        return []
    chosen: list[int] = sorted(os.sched_getaffinity(0))[-threads:] if cpus == "last" else cpus
    try:
        os.sched_setaffinity(0, chosen)
    except OSError as error:
        raise Failure(f"can't keep to CPUs {chosen}: {error.strerror}") from None
    return chosen


def end_with_stdin() -> None:
    """Once stdin is closed, end this process and what it started. Only where stdin is a pipe: a person's is not."""

    def watch() -> None:
        try:
            while os.read(0, 1024):
                pass
        except OSError:
            pass
        os.killpg(0, signal.SIGKILL)

    if stat.S_ISFIFO(os.fstat(0).st_mode) or stat.S_ISSOCK(os.fstat(0).st_mode):
        if os.getpgid(0) != os.getpid():
            os.setpgid(0, 0)
        threading.Thread(target=watch, daemon=True).start()


def probe(job: Json, folder: Path, emit: Emit) -> None:
    """One candidate alone in this process."""
    if job["candidates"][0].get("engine", "litert") == "litert":
        runtime()
    baseline = peak_rss_mb()
    model = load_model(job["candidates"][0], folder, load_inputs(folder / job["inputs"]))
    for _ in range(PROBE_INVOKES):
        model.feed(0)
        model.invoke()
    peak = peak_rss_mb()
    emit("probe", init_ms=model.init_ms, peak_rss_mb=peak, baseline_rss_mb=baseline, delegate=model.delegate)


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
    done = subprocess.run(
        [sys.executable, runner, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    events: list[Json] = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    for event in events:
        if event["event"] == "error":
            raise Failure(event["message"], candidate["id"], event["hint"])
        if event["event"] == "probe":
            return event
    how, hint = death(done.returncode)
    raise Failure(f"the runtime died with {how} while it ran the model", candidate["id"], hint)


def death(status: int) -> tuple[str, str | None]:
    """What an exit status says, and what helps; below 0 it is minus a signal's number, as a shell has 128 and more."""
    number = -status if status < 0 else status - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit status {status}", None
    what, cure = SIGNALS.get(name, (None, None))
    return "signal " + (name if what is None else f"{name}, {what}"), cure


def alone(path: Path, emit: Emit, longest: float = LONGEST_WAIT) -> Any:
    """The open lock of the machine: two at once would both be wrong. Kept until it is closed, or this process ends.

    It holds the number of the process that has it. longest: seconds that another is waited for.
    """
    try:
        lock = path.open("a")
        for attempt in itertools.count():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt % 60 == 0:  # a sign of life
                    emit("waiting")
                if attempt >= longest:
                    holder = text(path) or "?"
                    raise Failure(
                        f"another benchmark holds {path}, for {longest:.0f} s already: process {holder}",
                        hint=f"see there what it is (`ps -fp {holder}`), and end it (`kill {holder}`) where nobody "
                        "waits for it",
                    ) from None
                time.sleep(1)
        with contextlib.suppress(OSError):  # a full disk is in the way of nothing else here
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
    except OSError as error:
        raise Failure(f"{path} can't be locked: {error}") from None
    return lock


def benchmark(job: Json, folder: Path, emit: Emit) -> None:
    arrays = load_inputs(folder / job["inputs"])
    probes, kept = {}, []
    with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
        sample = Path(scratch) / "sample.npz"
        save_arrays(sample, {name: array[:1] for name, array in arrays.items()})
        for candidate in job["candidates"]:
            event = probe_in_child(job, candidate, sample, folder)
            probes[candidate["id"]] = event
            emit("init", id=candidate["id"], init_ms=event["init_ms"])
            if candidate.get("xnnpack") is True and event["delegate"] is False:
                # What runs are LiteRT's own kernels: their time isn't XNNPACK's.
                emit("skipped", id=candidate["id"], reason=NO_XNNPACK)
            else:
                kept.append(candidate)
    if not kept:
        return
    models = [load_model(candidate, folder, arrays) for candidate in kept]
    sysfs = Path(job.get("sysfs_root", "/sys"))
    times = sustained(job, models, sysfs, emit) if job.get("sustain_seconds") else rounds(job, models, emit)
    spent = energy(models, float(job.get("energy_seconds") or 0), sysfs)
    by_id = {model.id: model for model in models}
    for candidate in kept:
        name = candidate["id"]
        event = probes[name]
        emit(
            "result",
            id=name,
            times_ms=times[name],
            init_ms=event["init_ms"],
            peak_rss_mb=event["peak_rss_mb"],
            baseline_rss_mb=event["baseline_rss_mb"],
            energy=spent.get(name),
            outputs_sha256=by_id[name].digest(),
            profile=by_id[name].profile(),
            delegate=event["delegate"],
        )


def one_round(models: list[Any], index: int, order: random.Random) -> dict[str, float]:
    """{candidate: milliseconds of `invoke`}, each once, in random order."""
    clock = time.perf_counter_ns
    times = {}
    order.shuffle(models)
    for model in models:
        model.feed(index)
        before = clock()
        model.invoke()
        times[model.id] = (clock() - before) / 1e6
    return times


def rounds(job: Json, models: list[Any], emit: Emit) -> dict[str, list[float]]:
    """{candidate: times of the timed rounds, ms}"""
    warmup, runs = int(job.get("warmup", 20)), int(job.get("runs", 200))
    least = float(job.get("min_seconds") or 0)
    order = random.Random(job.get("seed", 0))
    times: dict[str, list[float]] = {model.id: [] for model in models}
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
        for name, taken in one_round(models, index, order).items():
            if index >= warmup:
                times[name].append(taken)
        index += 1
    emit("progress", done=index, total=index)
    return times


def sustained(job: Json, models: list[Any], sysfs: Path, emit: Emit) -> dict[str, list[float]]:
    """{candidate: times of the last window, ms}; each window (at: seconds since the start at its end) is an event."""
    most, length = float(job["sustain_seconds"]), float(job.get("window_seconds") or 10)
    span = float(job.get("settle_seconds", 120))
    order = random.Random(job.get("seed", 0))
    windows: list[Json] = []
    start = time.monotonic()
    index = 0
    while True:
        times: dict[str, list[float]] = {model.id: [] for model in models}
        end = start + (len(windows) + 1) * length
        while time.monotonic() < end or not times[models[0].id]:
            for name, taken in one_round(models, index, order).items():
                times[name].append(taken)
            index += 1
        at = time.monotonic() - start
        window = {"at": at, "p50_ms": {name: float(np.median(taken)) for name, taken in times.items()}}
        window["temperatures"], window["throttling"] = temperatures(sysfs), throttling(sysfs)
        window["mhz"] = [cluster["cur_mhz"] for cluster in clusters(sysfs)]
        windows.append(window)
        settled = steady(windows, span)
        emit("window", settled=settled, **window)
        emit("progress", done=int(at), total=int(max(most, at)))
        if settled or at >= most:
            return times


def steady(windows: list[Json], span: float) -> bool:
    """Whether nothing changed over the last `span` seconds: every candidate's latency, and the highest temperature."""
    end = windows[-1]["at"]
    older = [window for window in windows if end - span < window["at"] <= end - span / 2]
    newer = [window for window in windows if window["at"] > end - span / 2]
    if end < span or not older or not newer:
        return False

    def middle(part: list[Json], name: str) -> float:
        return float(np.median([window["p50_ms"][name] for window in part]))

    def heat(part: list[Json]) -> float:
        return float(np.mean([max(window["temperatures"].values(), default=0.0) for window in part]))

    latency = all(abs(middle(newer, name) / middle(older, name) - 1) <= STEADY for name in windows[-1]["p50_ms"])
    return latency and abs(heat(newer) - heat(older)) <= STEADY_DEGREES


def run(job: Json, folder: Path, emit: Emit) -> None:
    if len(job["candidates"]) != 1:
        raise Failure(f"mode 'run' takes one candidate, received {len(job['candidates'])}")
    model = load_model(job["candidates"][0], folder, load_inputs(folder / job["inputs"]))
    emit("init", id=model.id, init_ms=model.init_ms)
    outputs: dict[str, list[Any]] = {}
    batches = -(-model.samples // model.batch)
    shown = time.monotonic()
    for index in range(batches):
        model.begin()
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
        if no_numpy is not None:
            raise unusable_numpy(no_numpy)
        job = load_job(path)
        cpus = pin(job.get("cpus"), max(int(each.get("threads", 1)) for each in job["candidates"]))
        roots = Path(job.get("sysfs_root", "/sys")), Path(job.get("proc_root", "/proc"))
        visible = job["mode"] != "probe"
        lock = None
        if visible:
            end_with_stdin()
            wait = float(job.get("wait_seconds", LONGEST_WAIT))
            lock = alone(Path(job["lock"]), emit, wait) if job.get("lock") else None
            emit("facts", when="before", cpus=cpus, **facts(*roots))
        MODES[job["mode"]](job, path.absolute().parent, emit)
        if visible:
            emit("facts", when="after", **facts(*roots))
        if lock is not None:
            lock.close()
    except Failure as error:
        emit("error", id=error.candidate, message=str(error), hint=error.hint)
        return 1
    except MemoryError as error:
        told = f": {error}" if str(error) else ""
        emit("error", id=None, message=f"memory ran out on this machine{told}", hint=OUT_OF_MEMORY)
        return 1
    except BrokenPipeError:  # nobody listens any more
        return 1
    except OSError as error:
        emit("error", id=None, message=str(error), hint=None)
        return 1
    emit("end")
    return 0


def tied(lock: Path, argv: list[str]) -> int:
    """Run a program, alone, that ends as a job does when stdin is closed; its exit status, or death by its signal."""
    end_with_stdin()
    try:
        held = alone(lock, lambda *_, **__: print("waiting for another benchmark here", flush=True))
    except Failure as error:
        print(error, file=sys.stderr)
        return 1
    code = subprocess.call(argv, stdin=subprocess.DEVNULL)
    held.close()
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


def hold_clocks(kept: Path) -> int:
    """jetson_clocks on until stdin is closed, and as they were before after that, even if nobody listens any more.

    kept: where that state is written; one that is there is from a run that could not end, and is what to go back to.
    """
    for name in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)

    def call(*words: str) -> None:
        # Nothing of it goes to a pipe that may be closed by now, which would end it half-way.
        done = subprocess.run(
            ["sudo", "-n", "jetson_clocks", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").strip()
            raise Failure("jetson_clocks {}: {}".format(" ".join(words), said))

    try:
        with alone(kept.with_name("clocks-lock"), lambda *_, **__: print("waiting", flush=True)):
            if not kept.exists():
                call("--store", str(kept))
            try:
                call()
                print("held", flush=True)
                while os.read(0, 1024):
                    pass
            finally:
                call("--restore", str(kept))
                kept.unlink()
    except (OSError, Failure) as error:
        with contextlib.suppress(OSError):  # nobody listens any more
            print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tied"] and sys.argv[3:]:
        sys.exit(tied(Path(sys.argv[2]), sys.argv[3:]))
    if sys.argv[1:2] == ["--hold-clocks"] and len(sys.argv) == 3:
        sys.exit(hold_clocks(Path(sys.argv[2])))
    if sys.argv[1:2] == ["--facts"] and len(sys.argv) <= 3:
        print(json.dumps(facts(*map(Path, sys.argv[2:]))))
        sys.exit()
    if len(sys.argv) != 2:
        sys.exit("usage: python runner.py job.json")
    sys.exit(main(Path(sys.argv[1])))
