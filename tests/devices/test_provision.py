"""Which wheels a board is given, from a folder in place of the package index; and boards with an old Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from devices.sshd import Sshd, left
from running import run_cli

from edgecompile.cache import Cache
from edgecompile.devices.provision import Platform, engine, wheels
from edgecompile.errors import ProvisioningError

KWS = "models/mlperf_tiny/kws/kws_ref_model.tflite"


def wheel(folder: Path, name: str, version: str, tag: str, *needs: str) -> None:
    """One that holds nothing but what pip reads of it. tag: Python, ABI and platform."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {each}\n" for each in needs))
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip can find. As on PyPI: an older runtime for older Pythons, and NumPy 1 and 2."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    for machine in ("x86_64", "aarch64"):
        wheel(folder, "ai_edge_litert", "2.1.0", f"cp311-cp311-manylinux_2_27_{machine}", "numpy>=1.23")
        for python in ("cp38", "cp311"):
            wheel(folder, "tflite_runtime", "2.14.0", f"{python}-{python}-manylinux2014_{machine}", "numpy>=1.22")
            wheel(folder, "numpy", "1.24.4", f"{python}-{python}-manylinux2014_{machine}")
        wheel(folder, "numpy", "2.2.0", f"cp38-cp38-manylinux2014_{machine}")  # is taken where nothing is against it
        wheel(folder, "numpy", "2.3.0", f"cp311-cp311-manylinux_2_27_{machine}")
    return folder


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        (Platform((3, 11), "x86_64", 36), ["ai_edge_litert-2.1.0", "numpy-2.3.0"]),
        (Platform((3, 11), "aarch64", 36), ["ai_edge_litert-2.1.0", "numpy-2.3.0"]),
        (Platform((3, 8), "aarch64", 31), ["numpy-1.24.4", "tflite_runtime-2.14.0"]),
        (Platform((3, 11), "aarch64", 17), ["numpy-1.24.4", "tflite_runtime-2.14.0"]),  # too old a C library
    ],
    ids=["newest", "of its architecture", "older Python", "older C library"],
)
def test_the_newest_runtime_that_fits(index: Path, tmp_path: Path, platform: Platform, expected: list[str]) -> None:
    del index
    files = wheels(platform, Cache(tmp_path / "cache")).files
    assert ["-".join(path.name.split("-")[:2]) for path in files] == expected
    assert all(path.name.endswith(f"{platform.machine}.whl") for path in files)


def test_wheels_are_kept_and_not_asked_for_again(index: Path, tmp_path: Path) -> None:
    platform, cache = Platform((3, 8), "x86_64", 31), Cache(tmp_path / "cache")
    found = wheels(platform, cache)
    shutil.rmtree(index)
    assert wheels(platform, cache) == found


def test_the_newest_engine_that_takes_the_runtimes_numpy(index: Path, tmp_path: Path) -> None:
    """And nothing else of what it asks for, which running a model doesn't take."""
    wheel(index, "sympy", "1.0", "py3-none-any")
    for version, numpy in (("1.20.0", ">=1.21"), ("1.21.0", ">=1.21"), ("1.22.0", ">=2.9")):
        wheel(index, "onnxruntime", version, "cp311-cp311-manylinux_2_27_aarch64", f"numpy{numpy}", "sympy")
    platform, cache = Platform((3, 11), "aarch64", 36), Cache(tmp_path / "cache")
    runtime = wheels(platform, cache)
    found = engine("onnx", runtime, platform, cache)
    assert [path.name for path in found.files] == ["onnxruntime-1.21.0-cp311-cp311-manylinux_2_27_aarch64.whl"]
    assert (found.version("onnxruntime"), found.what) == ("1.21.0", "onnxruntime")
    shutil.rmtree(index)
    assert engine("onnx", runtime, platform, cache) == found


def test_no_engine_for_a_platform(index: Path, tmp_path: Path) -> None:
    wheel(index, "onnxruntime", "1.21.0", "cp311-cp311-manylinux_2_28_aarch64")
    platform, cache = Platform((3, 11), "aarch64", 27), Cache(tmp_path / "cache")
    message = r"no onnxruntime was found for Python 3\.11, aarch64, glibc 2\.27: onnxruntime: No matching distribution"
    with pytest.raises(ProvisioningError, match=message) as caught:
        engine("onnx", wheels(platform, cache), platform, cache)
    assert caught.value.hint == "leave it out (--without onnx)"
    assert len(list((cache.root / "wheels").iterdir())) == 1  # the runtime's


def test_no_runtime_at_all(index: Path, tmp_path: Path) -> None:
    del index
    with pytest.raises(ProvisioningError, match=r"Python 3\.11, riscv64.*ai-edge-litert: .*tflite-runtime: ") as caught:
        wheels(Platform((3, 11), "riscv64", 36), Cache(tmp_path / "cache"))
    assert "--runtime system" in caught.value.format_message()


def test_an_index_that_can_not_be_asked_is_no_reason_for_an_older_runtime(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a folder would have here."""
    for path in index.glob("ai_edge_litert*"):
        path.unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(ProvisioningError, match="no runtime was found") as caught:
        wheels(Platform((3, 11), "x86_64", 36), cache)
    assert "tflite-runtime" not in caught.value.message
    assert "with internet here once they are kept" in caught.value.format_message()
    assert not list((cache.root / "wheels").iterdir())


def old_python(version: str) -> Path:
    """The program; the test skips where there is none that works."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    code = "import sys, ctypes, zlib; print(sys.executable)"
    for program in filter(None, candidates):
        done = subprocess.run([program, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return Path(done.stdout.strip())
    pytest.skip(f"there is no Python {version} here, on the PATH or of pyenv's")


@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_a_board_with_an_old_python(version: str, sshd: Sshd, tmp_path: Path, data: Path) -> None:
    """It is brought a runtime from the package index, and measured."""
    tools = sshd.folder / "bin"
    tools.mkdir()
    (tools / "python3").write_text(f'#!/bin/sh\nexec {old_python(version)} "$@"\n')
    (tools / "python3").chmod(0o755)
    sshd.set_environment(PATH=f"{tools}:/usr/bin:/bin")
    env = {"EDGECOMPILE_CONFIG": str(tmp_path / "config")}
    files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
    assert run_cli("devices", "add", "old", sshd.address.url, *files, cwd=tmp_path, env=env).code == 0
    options = ("--kernels", "both", "--on", "old", "--runs", "5", "--warmup", "1", "--json")
    done = run_cli("bench", data / KWS, *options, cwd=tmp_path, env=env)
    assert done.code == 0, done.err
    (group,) = json.loads(done.out)
    told = group["environment"]["before"]
    assert told["python"].startswith(f"{version}.")
    assert told["runtime"] == {"3.8": "tflite-runtime", "3.9": "ai-edge-litert"}[version]
    p50 = {figure["of"]: figure["value"] for figure in group["figures"] if figure["name"] == "latency_p50"}
    # tflite-runtime's XNNPACK takes no integers: what it does without is no time of XNNPACK's.
    measured = {"3.8": {"builtin"}, "3.9": {"xnnpack", "builtin"}}[version]
    assert set(p50) == {f"{data / KWS} {kernels}" for kernels in measured}
    assert min(p50.values()) > 0
    assert left(sshd) == []
