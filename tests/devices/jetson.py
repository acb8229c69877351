"""What makes a board look like a Jetson: stand-ins for trtexec, TensorRT's Python package and CUDA's library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

STUB = Path(__file__).parent / "jetson_stub"
MODEL = "NVIDIA Jetson Orin Nano Developer Kit"


def stand_ins(folder: Path, compiler: str = "gcc") -> None:
    """In `folder`: trtexec, tensorrt.py with its metadata, libcudart.so, and sysfs/; not the engine's model.tflite."""
    if shutil.which(compiler) is None:
        pytest.skip(f"the Debian package {'gcc' if compiler == 'gcc' else 'gcc-aarch64-linux-gnu'} is not installed")
    folder.mkdir()
    shutil.copy(STUB / "trtexec", folder)
    shutil.copy(STUB / "tensorrt.py", folder)
    info = folder / "tensorrt-10.3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.3.0\n")
    library = folder / "libcudart.so"
    flags = ("-shared", "-fPIC", "-nostdlib", "-Wno-builtin-declaration-mismatch")
    subprocess.run([compiler, *flags, "-o", library, STUB / "cudart.c"], check=True)
    tree = folder / "sysfs/firmware/devicetree/base"
    tree.mkdir(parents=True)
    (tree / "model").write_text(f"{MODEL}\0")
