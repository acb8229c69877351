"""What goes wrong on boards: each a named error with its cure, and nothing is left there outside the cache folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from devices.sshd import Sshd, left
from devices.test_board import board, keywords
from running import run_cli

from edgecompile.cache import Cache
from edgecompile.devices import benchmark as benchmarking
from edgecompile.devices import board as board_module
from edgecompile.devices.base import BenchResult
from edgecompile.devices.benchmark import benchmark, outputs
from edgecompile.devices.board import Board
from edgecompile.devices.local import LocalDevice
from edgecompile.devices.ssh import SshConnection, SshProcess
from edgecompile.errors import DeviceError, DeviceTimeoutError, ProvisioningError

TOOLS = ("sh", "bash", "env", "mkdir", "mv", "rm", "sha256sum", "sed")


class Disk:
    """A file system in memory, of which as much can be left free as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def leave(self, free: int) -> None:
        """free: bytes. What others write meanwhile may be in the way of a smaller size, so once more then."""
        for _ in range(20):
            found = os.statvfs(self.folder)
            size = (found.f_blocks - found.f_bfree) * found.f_frsize + free
            options = ["-o", f"remount,size={size}", str(self.folder)]
            if subprocess.run(["mount", *options], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                return
        pytest.fail(f"{self.folder} can't be made smaller")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Large enough for a runtime."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def tools(sshd: Sshd) -> Path:
    """The board's PATH from now on: a folder with what every board has, and no Python."""
    folder = sshd.folder / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(f"/bin/{name}")
    sshd.set_environment(PATH=str(folder))
    return folder


def stand_in(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_no_python(sshd: Sshd, tools: Path) -> None:
    del tools
    with board(sshd) as there, pytest.raises(ProvisioningError, match="has no usable python3") as caught:
        there.facts()
    assert "Python 3.8 or newer" in caught.value.format_message()
    assert left(sshd) == []


def test_too_old_a_python(sshd: Sshd, tools: Path) -> None:
    stand_in(tools, "python3", "echo 3.6")
    expected = r"has Python 3\.6, 3\.8 or newer is needed"
    with board(sshd) as there, pytest.raises(ProvisioningError, match=expected) as caught:
        there.facts()
    assert "a newer python3 on the board" in caught.value.format_message()
    assert left(sshd) == []


def test_a_full_disk(sshd: Sshd, disk: Disk, data: Path) -> None:
    """Looked for before anything is sent, and all that was sent can be removed."""
    sshd.set_environment(XDG_CACHE_HOME=str(disk.folder))
    with board(sshd) as there:
        there.facts()  # the runner is there
        disk.leave(32 * 1024)
        for use in (there.python, lambda: there.put(data / "models/text/sst2_transformer_fp32.tflite")):
            with pytest.raises(ProvisioningError, match=r"free under .*, .* takes ") as caught:
                use()
            assert "XDG_CACHE_HOME" in caught.value.format_message()
        there.clean()
    assert list(disk.folder.iterdir()) == []
    assert left(sshd) == []


def test_a_disk_that_becomes_full_while_a_runtime_is_unpacked(sshd: Sshd, disk: Disk) -> None:
    class Filling(SshConnection):
        def exec(self, argv: Sequence[str]) -> SshProcess:
            if board_module._UNPACK in argv:
                disk.leave(1 << 20)
            return super().exec(argv)

    sshd.set_environment(XDG_CACHE_HOME=str(disk.folder))
    with Board(lambda: Filling(sshd.address), "loopback", Cache()) as there:
        with pytest.raises(ProvisioningError, match="became full while a runtime was unpacked") as caught:
            there.python()
        assert "make space, or set XDG_CACHE_HOME" in caught.value.format_message()
        assert list((disk.folder / "edgecompile/board-v1/runtimes").iterdir()) == []
    disk.leave(1 << 30)
    with board(sshd) as there:  # and goes on once there is room
        there.python()
    assert [path.name for path in disk.folder.iterdir()] == ["edgecompile"]
    assert left(sshd) == []


def test_a_disk_that_becomes_full_during_a_run(sshd: Sshd, disk: Disk, data: Path) -> None:
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    x = {"mfcc": np.zeros((20_000, 49, 10, 1), np.int8)}  # for a second or more, and over a megabyte of outputs
    seen: list[int] = []

    def fill(done: int, total: int) -> None:
        if not seen:
            disk.leave(64 * 1024)
        seen.append(total - done)

    sshd.set_environment(XDG_CACHE_HOME=str(disk.folder))
    with board(sshd) as there:
        with pytest.raises(DeviceError, match=r"failed: .*No space left on device") as caught:
            outputs(there, {"id": "kws", "model": str(model)}, x, fill)
        assert "make space there, or set XDG_CACHE_HOME" in caught.value.format_message()
        assert list((disk.folder / "edgecompile/board-v1/scratch").iterdir()) == []
    assert seen[0] > 0
    assert [path.name for path in disk.folder.iterdir()] == ["edgecompile"]
    assert left(sshd) == []


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
    go_on(stopped)


def go_on(stopped: list[int]) -> None:
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_board_that_is_heard_of_no_more(sshd: Sshd, data: Path, impatient: list[int]) -> None:
    def hang(done: int, _: int) -> None:
        if done > 10 and not impatient:
            impatient.extend(runners(sshd.folder))
            for pid in impatient:
                os.kill(pid, signal.SIGSTOP)

    expected = r"nothing was heard from ssh://.* for 1 s"
    with board(sshd) as there, pytest.raises(DeviceTimeoutError, match=expected) as caught:
        benchmark(there, keywords(data, runs=10_000_000), hang)
    assert "see whether the board is busy, or swaps" in caught.value.format_message()
    assert len(sshd.processes()) >= len(impatient)  # a program that is stopped can't end itself
    go_on(impatient)
    assert left(sshd) == []


def test_a_runner_here_that_is_heard_of_no_more(data: Path, impatient: list[int]) -> None:
    def hang(done: int, _: int) -> None:
        if done > 10 and not impatient:
            impatient.extend(runners(Path(benchmarking.__file__).parents[1] / "ondevice"))
            for pid in impatient:
                os.kill(pid, signal.SIGSTOP)

    with pytest.raises(DeviceTimeoutError, match="nothing was heard from this machine"):
        benchmark(LocalDevice(), keywords(data, runs=10_000_000), hang)
