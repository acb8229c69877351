"""What goes wrong on boards: each a named error with its cure, and nothing is left there outside the cache folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from devices.sshd import Sshd
from devices.test_board import board, keywords, left
from running import run_cli

from edgecompile.devices import benchmark as benchmarking
from edgecompile.devices.base import BenchResult
from edgecompile.devices.benchmark import benchmark
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import DeviceError, DeviceTimeoutError, ProvisioningError

TOOLS = ("sh", "bash", "env", "mkdir", "mv", "rm", "sha256sum", "sed")


@pytest.fixture
def tools(sshd: Sshd) -> Path:
    """The board's PATH from now on: a folder with what every board has, and no Python."""
    folder = sshd.folder / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(f"/bin/{name}")
    sshd.set_environment(PATH=str(folder), HOME=str(sshd.folder))  # HOME: a ~/.bashrc may add to the PATH
    return folder


def stand_in(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_no_python(sshd: Sshd, tools: Path) -> None:
    del tools
    with board(sshd) as there, pytest.raises(ProvisioningError, match="has no usable python3") as caught:
        there.facts()
    assert "Python 3.8 or newer" in caught.value.format_message()


def test_too_old_a_python(sshd: Sshd, tools: Path) -> None:
    stand_in(tools, "python3", "echo 3.6")
    with board(sshd) as there, pytest.raises(ProvisioningError, match=r"has Python 3\.6, 3\.8 or newer is needed"):
        there.facts()


def test_a_full_disk(sshd: Sshd, full_disk: Path, data: Path) -> None:
    """Looked for before anything is sent, and all that was sent can be removed."""
    sshd.set_environment(XDG_CACHE_HOME=str(full_disk))
    with board(sshd) as there:
        for use in (there.python, lambda: there.put(data / "models/text/sst2_transformer_fp32.tflite")):
            with pytest.raises(ProvisioningError, match=r"free under .*, .* takes ") as caught:
                use()
            assert "XDG_CACHE_HOME" in caught.value.format_message()
        there.clean()
    assert list(full_disk.iterdir()) == []


def test_all_that_was_brought_can_be_removed_without_python(sshd: Sshd, tools: Path, tmp_path: Path) -> None:
    """And through the command, as a user whose board is stuck does."""
    ours = sshd.folder / "home/edgecompile/board-v1"
    ours.mkdir(parents=True)
    (ours / "file").touch()
    (tools / "rmdir").symlink_to("/bin/rmdir")
    env = {"EDGECOMPILE_CONFIG": str(tmp_path / "config")}
    files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
    run_cli("devices", "add", "loop", sshd.address.url, *files, cwd=tmp_path, env=env)
    done = run_cli("devices", "clean", "loop", cwd=tmp_path, env=env)
    assert done.code == 0, done.err
    assert str(ours) in done.out
    assert not list((sshd.folder / "home").iterdir())


def test_two_benchmarks_there_wait_for_each_other(sshd: Sshd, data: Path) -> None:
    """Also of the same job: neither takes away the other's files."""
    waited: list[str] = []
    found: list[BenchResult] = []

    def run(name: str) -> None:
        with board(sshd) as there:
            job = keywords(data, runs=20, min_seconds=2.0)
            found.append(benchmark(there, job, lambda *_: None, lambda: waited.append(name)))

    with board(sshd) as there:
        there.python()  # brings the runtime
    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 2
    assert len(set(waited)) == 1


def test_wheels_of_another_machine(sshd: Sshd, tools: Path, data: Path) -> None:
    """A board that says it's an ARM one: what is brought there can't be loaded."""
    told = f'{sys.executable} "$@" | sed s/x86_64/aarch64/'
    stand_in(tools, "python3", f'case "$*" in *--facts*) {told} ;; *) exec {sys.executable} "$@" ;; esac')
    with board(sshd) as there, pytest.raises(DeviceError, match="NumPy can't be loaded on this machine"):
        benchmark(there, keywords(data), lambda *_: None)
    assert left(sshd) == []


def runners(folder: Path) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"{folder}.*runner.py"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def test_killed_as_the_kernel_does_where_memory_runs_out(sshd: Sshd, data: Path) -> None:
    def kill(done: int, _: int) -> None:
        if done > 10:
            for pid in runners(sshd.folder):
                os.kill(pid, signal.SIGKILL)

    with board(sshd) as there, pytest.raises(DeviceError, match=r"died with signal SIGKILL.*where memory runs out"):
        benchmark(there, keywords(data, runs=10_000_000), kill)
    assert left(sshd) == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Waits for events for a second; the processes in the list go on when the test is over."""
    monkeypatch.setattr(benchmarking, "_QUIET", 1.0)
    stopped: list[int] = []
    yield stopped
    for pid in stopped:
        subprocess.run(["kill", "-CONT", str(pid)], stderr=subprocess.DEVNULL, check=False)


def test_a_board_that_is_heard_of_no_more(sshd: Sshd, data: Path, impatient: list[int]) -> None:
    def hang(done: int, _: int) -> None:
        if done > 10 and not impatient:
            impatient.extend(runners(sshd.folder))
            for pid in impatient:
                os.kill(pid, signal.SIGSTOP)

    with board(sshd) as there, pytest.raises(DeviceTimeoutError, match=r"nothing was heard from ssh://.* for 1 s"):
        benchmark(there, keywords(data, runs=10_000_000), hang)


def test_a_runner_here_that_is_heard_of_no_more(data: Path, impatient: list[int]) -> None:
    def hang(done: int, _: int) -> None:
        if done > 10 and not impatient:
            impatient.extend(runners(Path(benchmarking.__file__).parents[1] / "ondevice"))
            for pid in impatient:
                os.kill(pid, signal.SIGSTOP)

    with pytest.raises(DeviceTimeoutError, match="nothing was heard from this machine"):
        benchmark(LocalDevice(), keywords(data, runs=10_000_000), hang)
