"""A board: what it tells, what it is given, and what runs there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from devices.sshd import Sshd, left

from edgecompile.backends.litert import LiteRtRunner
from edgecompile.cache import Cache
from edgecompile.devices import provision
from edgecompile.devices.base import BenchCandidate, BenchJob
from edgecompile.devices.benchmark import benchmark, outputs
from edgecompile.devices.board import Board
from edgecompile.devices.local import LocalDevice
from edgecompile.devices.provision import Platform
from edgecompile.devices.ssh import SshConnection
from edgecompile.errors import ConnectionFailedError, DeviceError, ProvisioningError
from edgecompile.tflite_file import read


def board(sshd: Sshd, runtime: str = "provisioned") -> Board:
    return Board(lambda: SshConnection(sshd.address), "loopback", Cache(), runtime)


def keywords(data: Path, **more: object) -> BenchJob:
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    x = np.random.default_rng(0).normal(size=(4, 49, 10, 1)).astype(np.float32)
    return BenchJob((BenchCandidate("kws", model),), {"mfcc": x}, **{"warmup": 2, "runs": 5, **more})  # type: ignore[arg-type]


def test_a_benchmark_there_gives_what_it_gives_here(sshd: Sshd, data: Path) -> None:
    job = keywords(data)
    here = benchmark(LocalDevice(), job, lambda *_: None)
    seen: list[tuple[int, int]] = []
    with board(sshd) as there:
        found = benchmark(there, job, lambda done, total: seen.append((done, total)))
        facts = there.facts()
    assert found.candidates["kws"].outputs_sha256 == here.candidates["kws"].outputs_sha256
    assert len(found.candidates["kws"].times_ms) == 5
    assert seen[-1][0] == seen[-1][1]
    assert found.before["runtime_version"] == here.before["runtime_version"]
    assert facts.identity == LocalDevice().facts().identity
    assert facts.name.endswith("(loopback)")
    assert {path.name for path in (sshd.folder / "home").iterdir()} == {"edgecompile"}
    runtimes = list((sshd.folder / "home/edgecompile/board-v1/runtimes").iterdir())
    assert len(runtimes) == 1
    before = {path: path.stat().st_mtime_ns for path in (sshd.folder / "home").rglob("*") if path.is_file()}
    del before[sshd.folder / "home/edgecompile/board-v1/lock"]  # who has it is written there
    with board(sshd) as there:
        benchmark(there, job, lambda *_: None)
        after = {path: path.stat().st_mtime_ns for path in (sshd.folder / "home").rglob("*") if path.is_file()}
        new = {path.name for path in set(after) - set(before)}
        assert new == {"lock"}
        assert {path: after[path] for path in before} == before  # nothing was sent twice
        there.clean()
    assert not (sshd.folder / "home/edgecompile").exists()


def test_an_interrupt_leaves_nothing_running_there(sshd: Sshd, data: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with board(sshd) as there, pytest.raises(KeyboardInterrupt):
        benchmark(there, keywords(data, runs=10_000_000), interrupt)
    assert left(sshd) == []


def test_a_cut_leaves_nothing_running_there(sshd: Sshd, data: Path) -> None:
    def cut(done: int, _: int) -> None:
        if done > 10:
            sshd.cut()

    there = board(sshd)
    with pytest.raises(ConnectionFailedError, match="was cut") as caught:
        benchmark(there, keywords(data, runs=10_000_000), cut)
    assert "the same command goes on from here" in caught.value.format_message()
    assert left(sshd) == []


def test_a_runner_that_fails_there_says_so(sshd: Sshd, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model")
    job = BenchJob((BenchCandidate("broken", broken),), {"x": np.zeros((1, 4), np.float32)})
    with board(sshd) as there, pytest.raises(DeviceError, match=r"\(loopback\) failed: broken: ") as caught:
        benchmark(there, job, lambda *_: None)
    assert "see that the model runs here" in caught.value.format_message()
    assert left(sshd) == []


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"python": "3.6.9", "machine": "aarch64", "glibc": "2.27"}, "has Python 3.6, 3.8 or newer"),
        ({"python": "3.11.2", "machine": "aarch64", "glibc": None}, "has no glibc"),
    ],
)
def test_a_board_that_no_wheel_can_serve(facts: dict[str, object], message: str) -> None:
    with pytest.raises(ProvisioningError, match=message):
        Platform.of(facts, "rpi")


def test_tags_of_a_platform_are_those_its_glibc_takes() -> None:
    tags = Platform((3, 11), "aarch64", 31).tags
    assert tags[0] == "manylinux_2_31_aarch64"
    assert "manylinux_2_17_aarch64" in tags
    assert "manylinux_2_35_aarch64" not in tags


def test_outputs_of_the_reference_kernels_are_those_of_here(sshd: Sshd, data: Path) -> None:
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    x = {"mfcc": np.random.default_rng(0).normal(size=(7, 49, 10, 1)).astype(np.float32)}
    with board(sshd) as there:
        found = outputs(there, {"id": "kws", "model": str(model), "reference": True}, x, lambda *_: None)
        (array,) = found.values()
        (own,) = (
            LiteRtRunner(model, "reference").run({next(iter(read(model).signature.inputs)).name: x["mfcc"]}).values()
        )
        np.testing.assert_array_equal(array, own)
        assert not list((sshd.folder / "home/edgecompile/board-v1/scratch").iterdir())
    here = outputs(LocalDevice(), {"id": "kws", "model": str(model), "reference": True}, x, lambda *_: None)
    np.testing.assert_array_equal(next(iter(here.values())), own)


def test_the_script_for_hands_measures_what_we_measure(sshd: Sshd, data: Path) -> None:
    """scripts/bench_over_ssh: plain ssh, the runner, and the board's own Python."""
    script = Path(__file__).parents[2] / "scripts" / "bench_over_ssh"
    options = f"-F none -i {sshd.folder / 'user'} -o UserKnownHostsFile={sshd.folder / 'known_hosts'}"
    environment = {
        "SSH": f"ssh {options} -p {sshd.port}", "SCP": f"scp -q {options} -P {sshd.port}",
        "PYTHON": sys.executable, "RUNS": "5", "WARMUP": "1", "PATH": os.environ["PATH"],
    }  # fmt: skip
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    done = subprocess.run([script, "127.0.0.1", model], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events if event["event"] != "progress"] == [
        "facts", "init", "result", "facts", "end",
    ]  # fmt: skip
    assert len(next(event["times_ms"] for event in events if event["event"] == "result")) == 5
    assert "0 kws_ref_model.tflite p50 " in done.stderr
    (sshd.folder / ".bashrc").write_text("echo '** Welcome **'\n")
    sshd.use_internal_sftp()
    sshd.set_environment(HOME=str(sshd.folder))
    again = subprocess.run([script, "127.0.0.1", model], env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    without = subprocess.run([script, "127.0.0.1"], env=environment, capture_output=True, text=True, check=False)
    assert (without.returncode, without.stdout) == (2, "")


def test_inputs_that_were_cut_on_their_way_are_gone_on_with(sshd: Sshd, tmp_path: Path) -> None:
    """And what a run left that could not tidy up is removed once it is old."""
    inputs = tmp_path / "inputs.npz"
    inputs.write_bytes(os.urandom(40_000_000))
    ours = sshd.folder / "home/edgecompile/board-v1"

    def cut() -> None:
        while not (parts := list(ours.glob("lent/*/inputs.npz.part"))) or parts[0].stat().st_size < 5_000_000:
            time.sleep(0.002)
        sshd.cut()

    with board(sshd) as there:
        there.facts()
        cutter = threading.Thread(target=cut)
        cutter.start()
        with pytest.raises(ConnectionFailedError, match="was cut"):
            there.lend(inputs)
        cutter.join()
    (part,) = ours.glob("lent/*/inputs.npz.part")
    begun = part.stat()
    (left_over,) = (ours / "scratch").iterdir()
    week_ago = time.time() - 7 * 86400
    os.utime(left_over, (week_ago, week_ago))
    with board(sshd) as there:
        lent = Path(there.lend(inputs))
        assert lent.read_bytes() == inputs.read_bytes()
        assert lent.stat().st_ino == begun.st_ino  # the same file, gone on with
        assert not left_over.exists()
        there.discard(str(lent))
    assert not list((ours / "scratch").iterdir())
    assert not list((ours / "lent").iterdir())


def test_two_commands_lend_the_same_at_once(sshd: Sshd, tmp_path: Path) -> None:
    """Neither takes the other's away."""
    inputs = tmp_path / "inputs.npz"
    inputs.write_bytes(os.urandom(3_000_000))
    lent: list[bytes] = []

    def lend() -> None:
        with board(sshd) as there:
            for _ in range(5):
                path = Path(there.lend(inputs))
                lent.append(path.read_bytes())
                there.discard(str(path))

    threads = [threading.Thread(target=lend) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(lent) == 10
    assert set(lent) == {inputs.read_bytes()}


def test_a_result_that_was_cut_on_its_way_is_gone_on_with(sshd: Sshd, tmp_path: Path) -> None:
    large, here = tmp_path / "large.bin", tmp_path / "here.bin"
    large.write_bytes(os.urandom(80_000_000))
    part = tmp_path / "here.bin.part"
    sizes: list[int] = []

    def cut() -> None:
        while not part.exists() or part.stat().st_size < 5_000_000:
            time.sleep(0.005)
        sshd.cut()
        sizes.append(part.stat().st_size)

    with board(sshd) as there:
        cutter = threading.Thread(target=cut)
        cutter.start()
        there.get(str(large), here)
        cutter.join()
    assert here.read_bytes() == large.read_bytes()
    assert not part.exists()
    assert 0 < sizes[0] < 80_000_000


def test_the_script_for_hands_needs_no_python_here_and_takes_indices(sshd: Sshd, tmp_path: Path, data: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "bench_over_ssh"
    options = f"-F none -i {sshd.folder / 'user'} -o UserKnownHostsFile={sshd.folder / 'known_hosts'}"
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3").chmod(0o755)
    environment = {
        "SSH": f"ssh {options} -p {sshd.port}", "SCP": f"scp -q {options} -P {sshd.port}", "PYTHON": sys.executable,
        "RUNS": "3", "WARMUP": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path),
    }  # fmt: skip
    text, broken = data / "models/text/sst2_transformer_fp32.tflite", tmp_path / "broken.tflite"
    done = subprocess.run([script, "127.0.0.1", text], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 sst2_transformer_fp32.tflite p50 " in done.stderr
    broken.write_bytes(text.read_bytes()[:1000])
    two = [script, "127.0.0.1", text, broken]
    done = subprocess.run(two, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = [json.loads(line)["message"] for line in done.stdout.splitlines() if json.loads(line)["event"] == "error"]
    assert len(said) == 1
    assert said[0] in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"python3", "broken.tflite"}
    assert left(sshd) == []


def while_unpacking(sshd: Sshd, do: Callable[[Path], None]) -> threading.Thread:
    """Calls it with the folder that wheels are unpacked into there, as soon as something is in it."""
    scratch = sshd.folder / "home/edgecompile/board-v1/scratch"

    def watch() -> None:
        until = time.monotonic() + 120
        while not (found := [path for path in scratch.glob("*") if any(path.iterdir())]) and time.monotonic() < until:
            time.sleep(0.002)
        do(found[0])

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_an_interrupt_ends_the_unpacking_of_a_runtime(sshd: Sshd) -> None:
    """At once, and not only once the connection is closed; nothing of it is left."""
    ours = sshd.folder / "home/edgecompile/board-v1"
    for _ in range(3):
        thread = while_unpacking(sshd, lambda _: os.kill(os.getpid(), signal.SIGINT))
        with board(sshd) as there:
            with pytest.raises(KeyboardInterrupt):
                there.python()
            thread.join()
            assert [each for each in left(sshd) if "sftp-server" not in each] == []  # which serves the connection
            assert list((ours / "scratch").iterdir()) == []
            whole = list((ours / "runtimes").iterdir())
        if not whole:
            return
        shutil.rmtree(whole[0])  # on a busy machine the interrupt came when all was unpacked
    pytest.fail("no interrupt ended the unpacking")


def test_what_a_killed_unpacking_leaves_is_removed_once_it_is_old(sshd: Sshd) -> None:
    def kill(_: Path) -> None:
        subprocess.run(["pkill", "-KILL", "-f", f"zipfile.*{sshd.folder}"], check=True)

    thread = while_unpacking(sshd, kill)
    with board(sshd) as there, pytest.raises(DeviceError, match="signal 9"):
        there.python()
    thread.join()
    (part,) = (sshd.folder / "home/edgecompile/board-v1/scratch").iterdir()
    week_ago = time.time() - 7 * 86400
    os.utime(part, (week_ago, week_ago))
    with board(sshd) as there:
        there.discard(there.scratch("file"))
        assert not part.exists()
        there.python()  # and brings it
        assert list(part.parent.iterdir()) == []


def test_a_file_that_rotted_there_is_brought_again(sshd: Sshd, tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(bytes(1000))
    with board(sshd) as there:
        sent = Path(there.put(model))
    sent.write_bytes(bytes(999) + b"\1")
    with board(sshd) as there:
        assert there.put(model) == str(sent)
    assert sent.read_bytes() == model.read_bytes()


def test_without_pip_here_that_is_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-S: without site-packages, as in an environment that was made without pip."""
    monkeypatch.setattr(provision, "_PIP", (sys.executable, "-S", *provision._PIP[1:]))
    with pytest.raises(ProvisioningError, match=r"pip, .* is not installed here") as caught:
        provision.wheels(Platform((3, 11), "aarch64", 36), Cache(tmp_path))
    assert "-m ensurepip" in caught.value.format_message()
    assert "internet" not in caught.value.format_message()
