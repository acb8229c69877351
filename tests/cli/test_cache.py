"""`edgecompile cache`."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from running import command, run_cli

from edgecompile.artifact import TFLITE, Artifact, Signature, StageRecord
from edgecompile.cache import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Two results: one just used, one last used forty days ago."""
    cache = Cache(tmp_path / "cache")
    for key, stage in (("new", "convert"), ("old", "quantize")):
        file = cache.new_folder(key) / "model.tflite"
        file.write_bytes(b"x" * 1000)
        record = StageRecord(stage, key, {}, {}, 1.0, "2025-01-01T00:00:00+00:00")
        cache.put(key, Artifact(TFLITE, {"model": file}, Signature((), ()), (record,)))
    long_ago = time.time() - 40 * 86400
    os.utime(cache.root / "stages" / "old", (long_ago, long_ago))
    return cache


def run(cache: Cache, *arguments: str) -> tuple[int, str, str]:
    done = run_cli("cache", *arguments, cwd=cache.root.parent, env={"EDGECOMPILE_CACHE": str(cache.root)})
    return done.code, done.out, done.err


def test_show_lists_what_is_there(cache: Cache) -> None:
    code, out, _ = run(cache, "show", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["folder"] == str(cache.root)
    assert [stage["stage"] for stage in found["stages"]] == ["quantize", "convert"]
    assert found["bytes"] >= sum(stage["bytes"] for stage in found["stages"]) > 2000
    _, out, _ = run(cache, "show")
    assert "2 results" in out
    assert "quantize" in out


def test_show_of_no_cache_is_empty(tmp_path: Path) -> None:
    code, out, _ = run(Cache(tmp_path / "none"), "show")
    assert code == 0
    assert "0 results" in out


def test_prune_removes_what_is_older(cache: Cache) -> None:
    code, out, _ = run(cache, "prune", "--older-than", "30", "--yes")
    assert code == 0
    assert "freed" in out
    assert [entry.key for entry in cache.entries()] == ["new"]
    assert run(cache, "prune", "--older-than", "0", "--yes")[0] == 0
    assert cache.entries() == []


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("", 130)])
def test_prune_asks_first(cache: Cache, answer: str, code: int) -> None:
    done = subprocess.run(
        command("cache", "prune"),
        input=answer,
        env={**os.environ, "EDGECOMPILE_CACHE": str(cache.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert "remove 1 results and 0 other files" in done.stderr
    assert done.stderr.endswith("nothing removed\n")
    assert "interrupted" not in done.stderr
    assert len(cache.entries()) == 2


def test_prune_of_no_cache(tmp_path: Path) -> None:
    code, out, _ = run(Cache(tmp_path / "none"), "prune", "--yes")
    assert code == 0
    assert out.startswith("0 B freed")
    assert not (tmp_path / "none").exists()
