"""The packed form: smaller, the same every time, and readable by what every system has."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile import packing
from edgecompile.errors import EdgecompileError, MissingDependencyError, ModelError

RESNET = "models/mlperf_tiny/ic/pretrainedResnet_quant.tflite"
STANDARD = ("xz", "gzip")


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=3000), repeat=st.integers(1, 40), form=st.sampled_from(STANDARD))
def test_what_is_packed_comes_back(content: bytes, repeat: int, form: str) -> None:
    packed = packing.compress(content * repeat, form)
    assert packing.decompress(packed, form) == content * repeat
    assert packing.compress(content * repeat, form) == packed


def test_a_model_is_at_least_as_small_as_by_the_usual_settings(data: Path) -> None:
    content = (data / RESNET).read_bytes()
    assert packing.packed_size(data / RESNET, "xz") < len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    assert packing.packed_size(data / RESNET, "gzip") <= len(gzip.compress(content, 9, mtime=0))


def test_weights_of_few_values_pack_well() -> None:
    """Clustered int8 weights: 16 values need 4 bits each."""
    values = np.random.default_rng(0).integers(0, 16, 40_000).astype(np.uint8) * 13
    for form in STANDARD:
        assert len(packing.compress(values.tobytes(), form)) < 4.3 / 8 * values.size


@pytest.mark.parametrize(("form", "tool"), [("xz", "xz"), ("gzip", "gzip")])
def test_the_system_s_own_tool_unpacks_it(data: Path, tmp_path: Path, form: str, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    packed = packing.pack(data / RESNET, form, tmp_path / "model")
    done = subprocess.run([tool, "-dc"], stdin=packed.open("rb"), capture_output=True, check=True)
    assert done.stdout == (data / RESNET).read_bytes()


def test_unpacking_takes_no_more_memory_than_the_file_needs(data: Path) -> None:
    """The dictionary, of which the reader needs as much, is the next power of two."""
    packed = packing.compress((data / RESNET).read_bytes(), "xz")
    lzma.LZMADecompressor(memlimit=1 << 20).decompress(packed)
    usual = lzma.compress((data / RESNET).read_bytes(), preset=9)
    with pytest.raises(lzma.LZMAError):
        lzma.LZMADecompressor(memlimit=1 << 20).decompress(usual)


def test_gzip_holds_no_name_and_no_time(data: Path) -> None:
    packed = packing.compress((data / RESNET).read_bytes(), "gzip")
    flags, time = struct.unpack_from("<BI", packed, 3)
    assert (flags, time) == (0, 0)


@pytest.mark.parametrize("form", STANDARD)
def test_files(tmp_path: Path, form: str) -> None:
    source = tmp_path / "model.tflite"
    source.write_bytes(b"weights " * 1000)
    packed = packing.pack(source, form)
    assert packed == tmp_path / f"model.tflite{packing.SUFFIXES[form]}"
    assert packed.stat().st_size == packing.packed_size(source, form) < 200
    assert packing.unpack(packed, tmp_path / "back").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("form", STANDARD)
def test_damage_is_named(tmp_path: Path, form: str) -> None:
    packed = bytearray(packing.compress(bytes(range(256)) * 40, form))
    path, out = tmp_path / "packed", tmp_path / "out"
    for damaged in (packed[:-9], packed[:20], packed[:-12] + bytes(12)):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=f"not a whole {form} file"):
            packing.unpack(path, out)
    path.write_bytes(b"neither")
    with pytest.raises(ModelError, match="packed with xz, gzip, zstd, received b'neithe'"):
        packing.unpack(path, out)
    assert not out.exists()


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(EdgecompileError, match="unknown packed form 'gzp'") as caught:
        packing.compress(b"", "gzp")
    assert caught.value.hint == "perhaps you meant 'gzip'"


def test_zstd(data: Path, tmp_path: Path) -> None:
    content = (data / RESNET).read_bytes()
    packed = packing.pack(data / RESNET, "zstd", tmp_path / "model.zst")
    assert packed.stat().st_size < len(content)
    assert packing.unpack(packed, tmp_path / "back").read_bytes() == content
    with pytest.raises(ModelError, match="not a whole zstd file"):
        packing.decompress(packed.read_bytes()[:-5], "zstd")


def test_zstd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zstandard", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    with pytest.raises(MissingDependencyError, match="needs the package zstandard") as caught:
        packing.compress(b"weights", "zstd")
    assert caught.value.hint == "pip install zstandard, or take xz or gzip"


def test_a_build_packs_its_model_and_says_what_each_step_bought(tmp_path: Path) -> None:
    done = run_cli("build", "digits", "--recipe", "int8", "--pack", "xz", "--out", "b", cwd=tmp_path)
    assert done.code == 0, done.err
    model, packed = tmp_path / "b" / "model.tflite", tmp_path / "b" / "model.tflite.xz"
    assert lzma.decompress(packed.read_bytes()) == model.read_bytes()
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["files"][packed.name]["bytes"] == packed.stat().st_size
    quantized, slim = manifest["techniques"]
    assert (quantized["stages"], slim["stages"]) == (["quantize"], ["slim"])
    assert slim["bytes"] == model.stat().st_size < quantized["bytes"]
    assert slim["packed"]["xz"] == packed.stat().st_size
    again = run_cli("build", "digits", "--recipe", "int8", "--out", "b", cwd=tmp_path)  # in the place of the first
    assert again.code == 0, again.err
    assert not packed.exists()
