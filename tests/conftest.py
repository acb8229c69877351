"""Shared by all tests: where the data is, and a cache folder of the run's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

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
