"""`edgecompile devices`: the inventory, and what it says of a board."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from devices.sshd import Sshd
from devices.test_board import left
from running import Run, command_lines, run_cli, run_until

from edgecompile.errors import INTERRUPTED, ConnectionFailedError, DeviceError, TargetError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


def devices(config: Path, *arguments: str | Path) -> Run:
    return run_cli("devices", *arguments, cwd=config.parent, env={"EDGECOMPILE_CONFIG": str(config)})


def known(config: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(devices(config, "list", "--json").out)
    return found


def add(config: Path, sshd: Sshd, name: str, *more: str) -> Run:
    files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
    return devices(config, "add", name, sshd.address.url, *files, *more)


def test_boards_and_groups_are_kept_under_their_names(config: Path) -> None:
    assert "no boards yet" in devices(config, "list").out
    for name in ("a", "b"):
        done = devices(config, "add", name, f"ssh://pi@{name}:2222", "--target", "rpi4")
        assert done.code == 0, done.err
        assert f"devices probe {name}" in done.out
    assert devices(config, "group", "farm", "a", "b", "a").code == 0
    found = known(config)
    assert [entry["url"] for entry in found["devices"]] == ["ssh://pi@a:2222", "ssh://pi@b:2222"]  # type: ignore[attr-defined,index]
    assert found["groups"] == {"farm": ["a", "b"]}
    assert devices(config, "remove", "a").code == 0
    assert known(config)["groups"] == {"farm": ["b"]}
    assert "farm" in devices(config, "list").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("add", "x", "http://pi"), DeviceError.exit_code, "'http' is no way to a board"),
        (("add", "a b", "ssh://pi"), DeviceError.exit_code, "is no name for a board"),
        (("add", "x", "ssh://pi", "--target", "rpi9"), TargetError.exit_code, "unknown target"),
        (("group", "farm", "nobody"), DeviceError.exit_code, "there is no device 'nobody'"),
        (("remove", "nobody"), DeviceError.exit_code, "no device and no group"),
        (("probe", "nobody"), DeviceError.exit_code, "no device and no group"),
        (("probe", "ssh://127.0.0.1:1"), ConnectionFailedError.exit_code, "can't be reached"),
    ],
)
def test_what_is_wrong_is_said(config: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = devices(config, *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_a_name_is_a_device_or_a_group(config: Path) -> None:
    devices(config, "add", "a", "ssh://a")
    devices(config, "group", "farm", "a")
    assert "is a group already" in devices(config, "add", "farm", "ssh://b").err
    assert "is a device already" in devices(config, "group", "a", "a").err


def test_a_damaged_inventory_is_named(config: Path) -> None:
    config.mkdir()
    (config / "devices.json").write_text("{")
    done = devices(config, "list")
    assert done.code == DeviceError.exit_code
    assert str(config / "devices.json") in done.err


def test_probe_tells_what_a_board_is_and_what_it_lacks(config: Path, sshd: Sshd) -> None:
    add(config, sshd, "loop", "--target", "rpi5")
    done = devices(config, "probe", "loop")
    assert done.code == 0, done.err
    assert "loop (ssh://" in done.out
    assert "WARNING: target rpi5 lets compilers use +neon, +dotprod, +fullfp16, which this board lacks" in done.err
    (facts,) = json.loads(devices(config, "probe", "loop", "--json").out)
    assert facts["cores"] >= 1
    assert facts["glibc"]
    assert facts["lacks"] == ["+neon", "+dotprod", "+fullfp16"]
    home = sshd.folder / "home"
    assert [path.name for path in home.iterdir()] == ["edgecompile"]
    (home / "edgecompile/stages").mkdir()  # of an edgecompile that this user has there
    assert devices(config, "clean", "loop").code == 0
    assert [path.name for path in (home / "edgecompile").iterdir()] == ["stages"]


def test_a_group_is_probed_and_cleaned_without_the_one_that_is_down(config: Path, sshd: Sshd) -> None:
    add(config, sshd, "loop")
    devices(config, "add", "dead", "ssh://127.0.0.1:1")
    devices(config, "group", "farm", "dead", "loop")
    for command, said in (("probe", "loop (ssh://"), ("clean", "loop: ")):
        done = devices(config, command, "farm")
        assert done.code == ConnectionFailedError.exit_code
        assert "ssh://127.0.0.1:1 can't be reached" in done.err
        assert said in done.out


def test_a_target_that_the_board_is_not_is_refused(config: Path, sshd: Sshd) -> None:
    """And a limit that the board's figures can't be judged by, before any work."""
    add(config, sshd, "loop", "--sysfs-root", "/sys")
    for options, message in (
        (("--target", "rpi4"), "loop is x86_64, target rpi4 is aarch64"),
        (("--target", "host", "--max-latency", "5ms"), "figures are simulated: --max-latency can't be judged"),
    ):
        done = run_cli(
            "build", "digits", "--on", "loop", *options, cwd=config.parent, env={"EDGECOMPILE_CONFIG": str(config)}
        )
        assert done.code == TargetError.exit_code, done.err
        assert message in done.err


def test_a_bench_on_several_boards_goes_on_without_one(config: Path, sshd: Sshd, data: Path) -> None:
    add(config, sshd, "loop")
    devices(config, "add", "dead", "ssh://127.0.0.1:1")
    devices(config, "group", "farm", "dead", "loop")
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    options = ("--on", "farm", "--runs", "5", "--warmup", "1", "--json")
    done = run_cli("bench", model, *options, cwd=config.parent, env={"EDGECOMPILE_CONFIG": str(config)})
    assert done.code == ConnectionFailedError.exit_code
    assert "ssh://127.0.0.1:1 can't be reached" in done.err
    group, problem = json.loads(done.out)
    assert problem["device"] == "dead"
    (p50,) = (figure for figure in group["figures"] if figure["name"] == "latency_p50")
    assert p50["device"].endswith("(loop)")
    assert p50["executed_on"] == "LiteRT (provisioned runtime) in a fresh process on loop, over SSH"


def test_a_bench_on_a_board_loads_no_tensorflow(config: Path, sshd: Sshd, data: Path) -> None:
    add(config, sshd, "loop")
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    env = {"EDGECOMPILE_CONFIG": str(config), "PYTHONPROFILEIMPORTTIME": "1"}
    done = run_cli("bench", model, "--on", "loop", "--runs", "1", cwd=config.parent, env=env)
    assert done.code == 0, done.err
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.err.splitlines() if line.startswith("import time:")}
    assert "asyncssh" in imported
    assert not {name for name in imported if name.split(".")[0] in ("tensorflow", "keras", "tf_keras", "tvm")}


def test_an_address_of_a_known_board_means_that_board(config: Path, sshd: Sshd) -> None:
    """Its keys and what is said of it come from the inventory: nothing else would let us in here."""
    add(config, sshd, "loop")
    assert devices(config, "probe", sshd.address.url).code == 0


def test_a_board_that_stops_half_way_leaves_the_others_results(
    config: Path, sshd: Sshd, tmp_path: Path, data: Path
) -> None:
    other = Sshd(tmp_path / "other")
    try:
        add(config, sshd, "a")
        add(config, other, "b")
        devices(config, "group", "farm", "a", "b")
        model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
        for name in ("a", "b"):  # both have their runtime
            assert devices(config, "probe", name).code == 0
        stop = threading.Thread(target=stop_once_it_runs, args=(other,))
        stop.start()
        options = ("--on", "farm", "--sustain", "8s", "--json")
        done = run_cli("bench", model, *options, cwd=config.parent, env={"EDGECOMPILE_CONFIG": str(config)})
        stop.join()
    finally:
        other.stop()
    assert done.code == ConnectionFailedError.exit_code
    assert f"the connection to {other.address.url} was cut" in done.err
    group, problem = json.loads(done.out)
    assert (problem["device"], "was cut" in problem["error"]) == ("b", True)
    assert all(figure["device"].endswith("(a)") for figure in group["figures"])


def until_it_runs(server: Sshd) -> None:
    """Until the runner is at work there."""
    for _ in range(600):
        lines = command_lines()
        if any(str(server.folder).encode() in line and b"job.json" in line for line in lines):
            time.sleep(1)
            return
        time.sleep(0.1)
    pytest.fail("nothing began to run on the board")


def stop_once_it_runs(server: Sshd) -> None:
    until_it_runs(server)
    server.cut()


def test_an_empty_group_is_an_error_and_not_this_machine(config: Path, data: Path) -> None:
    devices(config, "add", "a", "ssh://a")
    devices(config, "group", "farm", "a")
    devices(config, "remove", "a")
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    done = run_cli("bench", model, "--on", "farm", cwd=config.parent, env={"EDGECOMPILE_CONFIG": str(config)})
    assert (done.code, done.out) == (DeviceError.exit_code, "")
    assert "group 'farm' is empty" in done.err


def test_ctrl_c_ends_a_benchmark_on_a_board_at_once(config: Path, sshd: Sshd, data: Path) -> None:
    add(config, sshd, "loop")
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    env = {"EDGECOMPILE_CONFIG": str(config)}
    options = ("--on", "loop", "--sustain", "10m")
    done = run_until("rounds", "bench", model, *options, cwd=config.parent, env=env, send=signal.SIGINT)
    assert done.code == INTERRUPTED
    assert left(sshd) == []
    ours = sshd.folder / "home/edgecompile/board-v1"
    assert not list(ours.rglob("sample.npz"))


@pytest.mark.parametrize("works", [True, False])
def test_a_greeting_of_the_boards_shell(config: Path, sshd: Sshd, works: bool) -> None:
    """It isn't taken for an answer; where it breaks SFTP, as it does with Debian's server, that is said."""
    (sshd.folder / ".bashrc").write_text("echo Welcome to this board\n")
    if works:
        sshd.use_internal_sftp()
    sshd.set_environment(HOME=str(sshd.folder))
    add(config, sshd, "loop")
    done = devices(config, "probe", "loop")
    if works:
        assert done.code == 0, done.err
        assert "loop (ssh://" in done.out
    else:
        assert done.code == DeviceError.exit_code
        assert "print it in interactive shells alone" in done.err


def test_a_key_with_a_passphrase_is_an_error_with_a_cure(config: Path, sshd: Sshd) -> None:
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", sshd.folder / "user"], check=True)
    add(config, sshd, "loop")
    done = devices(config, "probe", "loop")
    assert done.code == ConnectionFailedError.exit_code
    assert "ssh-add" in done.err
