"""Shared by all tests: where the data is, and a cache folder of the run's own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

# Builds with every engine there is take long: tests of engines name them with --backends.
os.environ["EDGECOMPILE_WITHOUT"] = "tvm,onnx,openvino"

# A shell starts what it runs in the background without Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
if "EDGECOMPILE_DATA" not in os.environ and DATA.is_dir():
    os.environ["EDGECOMPILE_DATA"] = str(DATA)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets and models; tests that need it skip where it is absent."""
    folder = os.environ.get("EDGECOMPILE_DATA")
    if not folder:
        pytest.skip("EDGECOMPILE_DATA is not set: no real data sets here")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole run: the digits weights are trained once."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["EDGECOMPILE_CACHE"] = str(folder)
    return folder


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A board: an OpenSSH server on loopback (tests/devices/sshd.py)."""
    from devices.sshd import Sshd, missing

    if package := missing():
        pytest.skip(f"the Debian package {package} is not installed")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two.keras, a small Keras 3 model with two inputs and a residual block, and its two.npz."""
    import keras
    import numpy as np
    from keras import layers
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(0)
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    left, right, y = images[order, :, :4], images[order, :, 4:], digits.target[order]

    def block(x: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.Conv2D(12, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = [layers.Input((8, 4, 1), name=name) for name in ("left", "right")]
    x = layers.Concatenate(axis=2)([block(inputs[0]), block(inputs[1])])
    inner = layers.BatchNormalization()(layers.Conv2D(12, 3, padding="same", use_bias=False)(block(x)))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, inner])))
    digit = layers.Dense(10, activation="softmax", name="digit")(layers.Dropout(0.1)(x))
    model = keras.Model(inputs, digit, name="two")
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    n = 1400
    model.fit([left[:n], right[:n]], y[:n], epochs=6, verbose=0)
    folder = tmp_path_factory.mktemp("two")
    model.save(folder / "two.keras")
    arrays = {"x_train/left": left[:n], "x_train/right": right[:n], "y_train": y[:n]}
    arrays |= {"x_test/left": left[n:], "x_test/right": right[n:], "y_test": y[n:]}
    np.savez_compressed(folder / "two.npz", **arrays)
    return folder


@pytest.fixture(scope="session")
def digits_bundle(cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `edgecompile build digits --recipe int8`; copy it before you change it."""
    from running import run_cli

    del cache_folder  # set before the command runs
    folder = tmp_path_factory.mktemp("digits")
    done = run_cli("build", "digits", "--recipe", "int8", "--out", "bundle", cwd=folder)
    assert done.code == 0, done.err
    return folder / "bundle"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
