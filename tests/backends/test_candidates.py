"""Several engines in one build: all are checked, measured side by side and packaged, and the fastest wins."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from backends.compiled import own_isa
from backends.operators import OneOperator
from devices.sshd import Sshd, left
from devices.test_board import board
from devices.test_provision import wheel
from running import Run, edit_manifest, patch_sha256, run_cli
from test_manifest_schema import problems

from edgecompile.artifact import TFLITE, Artifact, Signature, TensorInfo
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.backends.choice import choose
from edgecompile.cache import Cache
from edgecompile.devices.benchmark import outputs
from edgecompile.devices.board import PROVISIONED, SYSTEM, Board
from edgecompile.devices.local import LocalDevice
from edgecompile.devices.ssh import SshConnection
from edgecompile.errors import ConversionError, DeviceError, MissingDependencyError, ProvisioningError
from edgecompile.loaders.base import LoadOptions
from edgecompile.ondevice import runner
from edgecompile.ondevice.runner import save_arrays
from edgecompile.report import roofline
from edgecompile.stages.base import Context
from edgecompile.stages.evaluate import Test
from edgecompile.target import load_target
from edgecompile.task import REGRESSION, Metric, Split, Task
from edgecompile.tflite_file import read
from edgecompile.verify_on import verify_on
from edgecompile.worker import Worker

ENGINES = ("litert-xnnpack", "litert-builtin", "onnx", "openvino", "tvm", "tvm-reference")


@pytest.fixture(scope="module")
def bundle(cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits in int8, by all engines that this machine has."""
    del cache_folder
    own_isa()
    folder = tmp_path_factory.mktemp("engines")
    done = build(folder, "--recipe", "int8", "--out", "b")
    assert done.code == 0, done.err
    return folder / "b"


def build(folder: Path, *more: str) -> Run:
    return run_cli("build", "digits", "--backends", "litert,onnx,openvino,tvm", *more, cwd=folder)


def won_by(winner: str, bundle: Path, folder: Path) -> Path:
    """A copy of the bundle with another winner."""
    path = folder / f"won-by-{winner}"
    shutil.copytree(bundle, path)
    chosen = {"id": winner, "backend": winner.split("-")[0], "threads": 1, "why": "the test's choice"}
    edit_manifest(path, lambda manifest: manifest.update(winner=chosen))
    return path


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = Worker(tmp_path_factory.mktemp("worker") / "log")
    yield started
    started.close()


def test_all_are_checked_measured_and_packaged(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    found = {c["id"]: c for c in manifest["candidates"]}
    assert set(found) == set(ENGINES)
    for candidate in found.values():
        assert candidate["passed"]
        assert candidate["latency_p50_ms"] > 0
        assert (bundle / candidate["file"]).stat().st_size == candidate["bytes"]
    assert all(verdict["exact"] for verdict in found["tvm-reference"]["parity"].values())
    fastest = min(candidate["latency_p50_ms"] for candidate in found.values())
    assert found[manifest["winner"]["id"]]["latency_p50_ms"] <= 1.03 * fastest
    figures = [f for f in manifest["figures"] if f["name"] == "latency_p50"]
    for engine in ("onnx", "openvino", "tvm"):
        (how,) = {f["executed_on"] for f in figures if f["of"] == engine}
        assert how == f"{engine} {found[engine]['config']['version']} in a fresh process on this machine"


def test_the_report_says_where_the_time_of_compiled_code_goes(bundle: Path) -> None:
    """Each call with its share, schedule, tile, instruction and what bounds it, which no call is faster than."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    page = (bundle / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<h2 id="steps">') :].partition("</section>")[0]
    tables = roofline.tables(manifest)
    assert {table["label"] for table in tables} == {"tvm", "tvm-reference"}
    shown = re.findall(r"<tbody>(.*?)</tbody>", section, re.DOTALL)
    for table, body in zip(tables, shown, strict=True):
        assert f"<h3>{table['label']}</h3>" in section
        told = [[html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
                for row in re.findall(r"<tr>(.*?)</tr>", body)]  # fmt: skip
        rows = table["rows"]
        assert [(cells[0], cells[1], cells[2]) for cells in told] == [
            (", ".join(map(str, row["operators"])), row["what"], row["note"]) for row in rows
        ]
        shares = [float(cells[4].rstrip("%")) for cells in told]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.06 * len(shares))
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        for cells in told:
            assert cells[6] in ("multiply-accumulates", "memory")
            assert int(cells[7].rstrip("%") or 0) <= 120
        operators = {index for row in rows for index in row["operators"]}
        known = {op.index: op.name for op in read(bundle / "model.tflite").main.operators}
        assert operators <= set(known)
        assert {i for i, name in known.items() if name in ("CONV_2D", "FULLY_CONNECTED")} <= operators
        (first,) = (row for row in rows if row["operators"] == [1])
        assert re.fullmatch(rf"\d+x\d+ tile, {own_isa().dot}", first["note"])


@pytest.mark.parametrize("winner", ["onnx", "openvino", "tvm", "tvm-reference"])
def test_the_bundle_is_verified_and_timed_whoever_won(bundle: Path, winner: str, tmp_path: Path) -> None:
    path = won_by(winner, bundle, tmp_path)
    done = run_cli("verify", path, cwd=bundle.parent)
    assert done.code == 0, done.out + done.err
    assert f"{winner} is within" in done.out
    timed = run_cli("bench", path, "--runs", "5", "--json", cwd=bundle.parent)
    assert timed.code == 0, timed.err
    (group,) = json.loads(timed.out)
    assert {figure["of"] for figure in group["figures"]} == {f"{path} {winner.removeprefix('tvm-')}"}


@pytest.mark.parametrize(
    ("winner", "runtime"),
    [
        ("onnx", SYSTEM),
        ("openvino", SYSTEM),
        pytest.param("openvino", PROVISIONED, marks=pytest.mark.slow),
        ("tvm", PROVISIONED),
        ("tvm-reference", PROVISIONED),
    ],
)
def test_a_board_verifies_the_bundle_whoever_won(
    bundle: Path, winner: str, runtime: str, sshd: Sshd, worker: Worker, tmp_path: Path
) -> None:
    # HOME, too: a .bashrc there may put another Python first.
    sshd.set_environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", HOME=str(sshd.folder))
    with board(sshd, runtime) as there:
        found = verify_on(won_by(winner, bundle, tmp_path), there, worker, samples=100, report=lambda _: None)
    assert found.failed == []
    (parity,) = (check for check in found.checks if check.name == "parity")
    assert f"{winner} on" in parity.text
    assert "(0 LSB " in parity.text
    assert found.figures[0].samples == 100


def test_a_library_that_is_to_be_exact_is_judged_so_there(
    bundle: Path, sshd: Sshd, worker: Worker, tmp_path: Path
) -> None:
    """In its place lies the one that rounds as XNNPACK does, whose outputs parity by XNNPACK's distance lets pass."""
    path = won_by("tvm-reference", bundle, tmp_path)
    files = {c["id"]: path / c["file"] for c in json.loads((path / "manifest.json").read_text())["candidates"]}
    shutil.copy(files["tvm"], files["tvm-reference"])
    patch_sha256(path, str(files["tvm-reference"].relative_to(path)))
    with board(sshd) as there:
        found = verify_on(path, there, worker, samples=None, report=lambda _: None)
    assert found.failed == ["parity"]


def test_each_engine_competes_with_each_number_of_threads(bundle: Path, tmp_path: Path) -> None:
    """A library of its own for each; the float model is compared at the winner's number."""
    del bundle  # the network is trained
    options = ("--backends", "litert,tvm", "--recipe", "float", "--threads", "2,1", "--out", "b")
    done = run_cli("build", "digits", *options, cwd=tmp_path)
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    found = {c["id"]: c for c in manifest["candidates"]}
    ids = [f"{engine}-{n}" for n in ("2-threads", "1-thread") for engine in ("litert-xnnpack", "litert-builtin", "tvm")]
    assert list(found) == ids
    assert {c["id"]: c["threads"] for c in found.values()} == {name: int(name.split("-")[-2]) for name in ids}
    one, two = (runner.Library(tmp_path / "b" / found[f"tvm-{n}"]["file"], 1) for n in ("1-thread", "2-threads"))
    assert Path(found["tvm-2-threads"]["file"]).name == "tvm-2-threads.so"
    assert any("2 threads" in step["note"] for step in two.known["steps"])
    assert not any("threads" in step["note"] for step in one.known["steps"])
    winner = manifest["winner"]
    assert winner["threads"] == found[winner["id"]]["threads"]
    assert re.search(r" of 6( \(.*\))?$", winner["why"])
    figures = {(f["of"], f["threads"]): f["value"] for f in manifest["figures"] if f["name"] == "latency_p50"}
    assert {of for of, _ in figures} == {"source", "model", *ids}
    assert {threads for of, threads in figures if of in ("source", "model")} == {winner["threads"]}
    measured = manifest["measurement"]
    decided = {name: median(times) for name, times in measured["run_off"].items()}
    decided = decided or {name: measured["results"][name]["p50"] for name in ids}
    assert min(decided.values()) * 1.031 >= decided[winner["id"]]
    assert manifest["options"]["threads"] == [2, 1]
    assert problems(manifest) == []
    page = (tmp_path / "b" / "report.html").read_text()
    assert "1 and 2 threads" in page
    assert run_cli("verify", "b", cwd=tmp_path).code == 0
    timed = run_cli("bench", "b", "--runs", "5", "--json", cwd=tmp_path)
    (told,) = {(f["of"], f["threads"]) for f in json.loads(timed.out)[0]["figures"]}
    assert told == (f"b {re.sub('^litert-|-[12]-threads?$', '', winner['id'])}", winner["threads"])


def compilations(bundle: Path) -> dict[str, dict[str, Any]]:
    """By candidate, what its compiler told, in the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    return {c["id"]: c["compiled"] for c in manifest["candidates"] if c["compiled"]}


def test_what_compiling_took_is_told_with_the_candidate(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert problems(manifest) == []
    found = compilations(bundle)
    assert set(found) == {"tvm", "tvm-reference"}
    weights = manifest["inspection"]["totals"]["weight_bytes"]
    figures = {(f["name"], f["of"]): f for f in manifest["figures"]}
    for name, told in found.items():
        assert 0 < told["seconds"] < 600
        assert 0 < told["kernels"] < 100
        assert told["weight_bytes"] >= 0.9 * weights
        time = figures["compile_time", name]
        assert (time["value"], time["unit"], time["runs"]) == (told["seconds"], "s", 1)
        assert (time["device"], time["date"]) == (told["device"], told["date"])
        assert time["executed_on"].startswith("tvm ")
        assert figures["arena_size", name]["value"] == told["arena_bytes"]
        assert figures["weight_size", name]["value"] == told["weight_bytes"]
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert page.count("distinct functions") == 2


def test_a_build_that_was_done_compiles_nothing(bundle: Path) -> None:
    """And tells what compiling took when it was."""
    before = compilations(bundle)
    done = build(bundle.parent, "--recipe", "int8", "--out", "b")
    assert "nothing to do" in done.out, done.out
    assert compilations(bundle) == before


def test_an_engine_that_nothing_measures_says_so(tmp_path: Path) -> None:
    done = run_cli("build", "digits", "--backends", "litert,onnx", "--target", "rpi4", cwd=tmp_path)
    assert done.code == MissingDependencyError.exit_code, done.err
    assert "'onnx' can't be used: it is measured on a board (--on), or on this machine (--target host)" in done.err
    chosen = choose(load_target("rpi4"), (), (), None)
    assert all("on a board (--on)" in chosen.left_out[name] for name in ("onnx", "openvino"))
    assert choose(load_target("host"), (), (), None).names == ("litert", "tvm", "onnx", "openvino")


class Loop:
    """A board on loopback, in an inventory of its own."""

    def __init__(self, sshd: Sshd, folder: Path, cwd: Path) -> None:
        self.cwd = cwd
        self.environment = {"EDGECOMPILE_CONFIG": str(folder / "config")}
        files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
        added = run_cli("devices", "add", "loop", sshd.address.url, *files, cwd=folder, env=self.environment)
        assert added.code == 0, added.err

    def build(self, *options: str | Path, **environment: str) -> Run:
        words = ("build", "digits", "--recipe", "int8", "--target", "host", "--on", "loop", *options)
        return run_cli(*words, cwd=self.cwd, env={**self.environment, **environment})


@pytest.fixture
def other_onnx_runtime(cache_folder: Path, tmp_path: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """Called with a pip requirement: environment variables by which boards are brought such a one, for this test."""

    def forget() -> None:
        for path in cache_folder.glob("wheels/*/onnxruntime-*.whl"):
            shutil.rmtree(path.parent)

    def only(requirement: str) -> dict[str, str]:
        forget()
        (tmp_path / "constraint").write_text(requirement)
        return {"PIP_CONSTRAINT": str(tmp_path / "constraint")}

    yield only
    forget()


def test_an_engine_is_brought_to_a_board_judged_and_measured_there(
    bundle: Path, sshd: Sshd, other_onnx_runtime: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """Of another version than here, which is what figures name."""
    loop, here = Loop(sshd, tmp_path, bundle.parent), version("onnxruntime")
    out = tmp_path / "b"
    options = ("--backends", "onnx", "--out", out)
    done = loop.build(*options, **other_onnx_runtime(f"onnxruntime<{here}"))
    assert done.code == 0, done.err
    manifest = json.loads((out / "manifest.json").read_text())
    (found,) = manifest["candidates"]
    there = found["config"]["version"]
    assert there != here
    assert manifest["measurement"]["environment"]["before"]["engines"] == {"onnxruntime": there}
    figures = {(f["name"], f["of"]): f for f in manifest["figures"]}
    how = f"onnx {there} in a fresh process on loop, over SSH"
    assert figures["latency_p50", "onnx"]["executed_on"] == how
    assert how in (out / "report.html").read_text()
    accuracy = figures["accuracy", "model"]
    assert accuracy["device"] == manifest["measurement"]["device"]
    assert accuracy["value"] > 0.9
    assert (found["passed"], manifest["winner"]["id"]) == (True, "onnx")
    ours = sshd.folder / "home/edgecompile/board-v1"
    assert len(list((ours / "runtimes").iterdir())) == 2
    assert not list((ours / "scratch").iterdir())
    (wheel,) = ours.glob("files/*/onnxruntime-*.whl")
    assert wheel.name.split("-")[1] == there
    assert "nothing to do" in loop.build(*options).out
    assert left(sshd) == []


def test_integers_that_a_board_gave_are_judged_as_what_they_stand_for(tmp_path: Path) -> None:
    given, before = tmp_path / "given.npz", tmp_path / "before.npz"
    real = np.array([[1.0], [2.0], [4.0]], np.float32)
    save_arrays(before, {"y": real})
    save_arrays(given, {"y": (real / 0.5 - 3).astype(np.int8)})
    metric = Metric("mse", lambda y, outputs, _: float(np.mean((y["y"] - outputs["y"]) ** 2)), higher_is_better=False)
    task = Task("t", REGRESSION, None, Split({"x": real}, {"y": real}), metric, fingerprint="")
    x, y = TensorInfo("x", (1, 1), "float32"), TensorInfo("y", (1, 1), "int8", 0.5, -3)
    stage = Test(Candidate("onnx", "onnx", given, 1), str(before), str(given))
    ctx = Context(tmp_path, tmp_path, task, "int8", LoadOptions(), 0, None, None, lambda _: None)
    assert stage.run(Artifact(TFLITE, {}, Signature((x,), (y,))), ctx).metrics["value"] == 0


@pytest.mark.slow
def test_an_engine_that_fails_on_the_board_is_left_out_unless_it_was_asked_for(
    bundle: Path, sshd: Sshd, other_onnx_runtime: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """One of before NumPy 2, which asks for no older one."""
    loop, environment = Loop(sshd, tmp_path, bundle.parent), other_onnx_runtime("onnxruntime==1.16.3")
    done = loop.build("--without", "tvm,openvino", "--out", tmp_path / "b", **environment)
    assert done.code == 0, done.err
    assert "onnx left out: the runner on " in done.err
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    assert {c["backend"] for c in manifest["candidates"]} == {"litert"}
    (gate,) = (gate for gate in manifest["gates"] if gate["name"] == "backends")
    assert "onnx left out: the runner on " in gate["text"]
    asked = loop.build("--backends", "litert,onnx", "--out", tmp_path / "c", **environment)
    assert asked.code == DeviceError.exit_code
    assert not (tmp_path / "c").exists()


def test_an_engine_that_there_is_no_wheel_of_for_the_board(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel(tmp_path, "ai_edge_litert", "2.1.0", "py3-none-any", "numpy")
    wheel(tmp_path, "numpy", "2.3.0", "py3-none-any")
    host = load_target("host")
    with Board(lambda: SshConnection(sshd.address), "loop", Cache(tmp_path / "cache")) as there:
        chosen = choose(host, (), ("tvm",), there)
        assert chosen.names == ("litert",)
        assert "no onnxruntime was found for Python" in chosen.left_out["onnx"]
        assert "no openvino was found for Python" in chosen.left_out["openvino"]
        with pytest.raises(ProvisioningError, match="no onnxruntime was found for Python"):
            choose(host, ("litert", "onnx"), (), there)
    system = board(sshd, SYSTEM)
    with system as there, pytest.raises(ProvisioningError, match="python3 on loopback has no onnxruntime") as caught:
        choose(host, ("litert", "onnx"), (), there)
    assert "--runtime provisioned brings one along" in caught.value.format_message()


def test_another_version_than_figures_would_name_is_an_error(bundle: Path) -> None:
    (found,) = (c for c in json.loads((bundle / "manifest.json").read_text())["candidates"] if c["id"] == "onnx")
    job = Candidate("onnx", "onnx", bundle / found["file"], 1, {**found["config"], "version": "9.9"}).job()
    x = {found["config"]["inputs"][0]["name"]: np.zeros((1, 8, 8, 1), np.float32)}
    with pytest.raises(DeviceError, match=r"onnxruntime [\d.]+ is on this machine, expected 9\.9"):
        outputs(LocalDevice(), job, x, lambda *_: None)


@pytest.mark.parametrize("name", ["onnx", "openvino", "tvm"])
def test_packages_that_are_not_installed_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    reason = BACKENDS[name].unavailable_reason(load_target("host"))
    assert f"pip install 'edgecompile[{name}]'" in str(reason)


@pytest.mark.parametrize("package", ["apache-tvm", "apache-tvm-ffi"])
def test_another_tvm_than_the_one_this_was_made_for_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own_isa()
    host = load_target("host")
    assert BACKENDS["tvm"].unavailable_reason(host) is None
    there_is = version(package)
    monkeypatch.setattr("edgecompile.backends.tvm.version", lambda name: "9.9" if name == package else version(name))
    reason = str(BACKENDS["tvm"].unavailable_reason(host))
    assert f"{package} 9.9 is installed, and it works with {there_is} alone" in reason
    assert "pip install 'edgecompile[tvm]'" in reason


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_an_engine_that_refuses_the_model_is_named(name: str, tmp_path: Path) -> None:
    """An operator of LiteRT's that neither knows."""
    made = OneOperator()
    for _ in range(2):
        made.tensor((1, 8), "float32")
    model = made.write("RELU_N1_TO_1", "NONE", None, tmp_path / "m.tflite", 1)
    done = run_cli("build", model, "--backends", f"litert,{name}", "--recipe", "float", "--out", "b", cwd=tmp_path)
    assert done.code == ConversionError.exit_code, done.err
    assert "RELU_N1_TO_1" in done.err
    assert "--backends litert leaves" in done.err
    assert not (tmp_path / "b").exists()
