"""manifest.json as real builds write it, against the JSON Schema that ships."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from running import run_cli

from edgecompile.manifest import ESTIMATED, SCHEMA_FILE, SCHEMA_VERSION, Figure

VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def read(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))


def problems(manifest: Any) -> list[str]:
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in VALIDATOR.iter_errors(manifest)]


def test_the_schema_itself_is_sound() -> None:
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)
    assert VALIDATOR.schema["properties"]["schema"] == {"const": SCHEMA_VERSION}


@pytest.fixture(scope="module")
def manifest(digits_bundle: Path) -> dict[str, Any]:
    return read(digits_bundle)


def test_the_manifest_of_a_measured_build_is_valid(manifest: dict[str, Any]) -> None:
    assert manifest["measurement"] is not None
    assert problems(manifest) == []


def test_the_manifest_of_a_build_for_a_board_is_valid(digits_bundle: Path, tmp_path: Path) -> None:
    del digits_bundle  # its stages are in the cache
    command = ["build", "digits", "--recipe", "int8", "--target", "rpi4", "--pack", "xz", "--out", "bundle"]
    done = run_cli(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    manifest = read(tmp_path / "bundle")
    assert manifest["measurement"] is None
    assert {row["latency_p50"] for row in manifest["techniques"]} == {None}
    assert manifest["options"]["pack"] == "xz"
    assert "model.tflite.xz" in manifest["files"]
    counted = re.findall(r"^\[(\d+)/(\d+)\] (\S+)$", done.err, re.MULTILINE)
    assert [name for _, _, name in counted] == [step["name"] for step in manifest["steps"]]
    assert [number for number, _, _ in counted] == [str(n + 1) for n in range(len(counted))]
    assert {total for _, total, _ in counted} == {str(len(counted))}
    assert f"Time of {len(counted)} steps" in (tmp_path / "bundle" / "report.html").read_text()
    assert problems(manifest) == []


def test_the_manifest_of_a_build_without_labels_is_valid(digits_bundle: Path, tmp_path: Path) -> None:
    model = digits_bundle / "model.tflite"
    done = run_cli("build", str(model), "--recipe", "float", "--target", "rpi4", "--out", "bundle", cwd=tmp_path)
    assert done.code == 0, done.err
    manifest = read(tmp_path / "bundle")
    assert manifest["data"] is None
    assert manifest["model"]["format"] == "tflite"
    assert manifest["layer_errors"] is None
    assert problems(manifest) == []


def test_a_figure_has_exactly_the_schemas_fields() -> None:
    figure = Figure("latency_p50", "model", 1.5, "ms", ESTIMATED, "a board", "2026-01-02T03:04:05+00:00").to_json()
    assert set(figure) == set(VALIDATOR.schema["$defs"]["figure"]["required"])
    defs = VALIDATOR.schema["$defs"]
    validator = VALIDATOR.evolve(schema={**defs["figure"], "$defs": defs})
    assert validator.is_valid(figure)
    assert not validator.is_valid({**figure, "label": "sure"})


@pytest.fixture
def full(manifest: dict[str, Any]) -> dict[str, Any]:
    """With all that a measured build may have: a search, operators of one model alone, a tensor past the limit."""
    settings = {"channels": 0.5, "rank": 1.0, "sparsity": 1.0, "precision": "int8"}
    trial = {"settings": settings, "accepted": True, "validation": 0.9, "drop": 0.1, "bytes": 9000, "seconds": 2.0,
             "reason": "", "minutes": None, "latency": 0.7, "latency_label": "measured"}  # fmt: skip
    failed = {**trial, "accepted": False, "validation": None, "drop": None, "bytes": None, "reason": "no channel left"}
    lone = {"position": 3, "op": "PAD", "tensor": "pad", "shape": [1, 4], "reason": "no counterpart"}
    found = copy.deepcopy(manifest)
    found["search"] = {
        "metric": "accuracy",
        "budget": 0.6,
        "prefers": ["latency", "size"],
        "first": "int8",
        "untrained": "too few samples",
        "chosen": settings,
        "trials": [trial, failed],
    }
    found["not_described"] = {"layer errors": "the process died"}
    found["sparsity_note"] = "its zeros are in int8 weights"
    errors = found["layer_errors"]
    errors.update(only_a=[lone], only_b=[lone], outputs_alone=["boxes"], first=copy.deepcopy(errors["rows"][-1]))
    return found


def test_a_manifest_with_all_that_a_build_may_find_is_valid(full: dict[str, Any]) -> None:
    assert problems(full) == []


def _technique(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda m: m["techniques"][0].update(changes)


def _tensor(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda m: m["layer_errors"]["rows"][0].update(changes)


def _figure(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda m: m["figures"][0].update({field: value})


WRONG: dict[str, Callable[[dict[str, Any]], None]] = {
    "label": _figure("label", "guessed"),
    "value": _figure("value", "12"),
    "runs": _figure("runs", 0),
    "an extra field of a figure": _figure("remark", "fast"),
    "a figure's date": _figure("date", "yesterday"),
    "an extra key": lambda m: m.update(extra=1),
    "an extra key below": lambda m: m["target"].update(board="x"),
    "the version": lambda m: m.update(schema=2),
    "a short sha256": lambda m: m["files"]["model.tflite"].update(sha256="ab12"),
    "a file that every bundle has": lambda m: m["files"].pop("golden.npz"),
    "the source's digest": lambda m: m["model"].update(sha256="z" * 64),
    "the source's format": lambda m: m["model"].update(format="onnx"),
    "a local date": lambda m: m.update(date="2026-01-02 03:04:05"),
    "a gate's name": lambda m: m["gates"][0].update(name="beauty"),
    "a gate's verdict": lambda m: m["gates"][0].update(passed="yes"),
    "no candidate": lambda m: m.update(candidates=[]),
    "a stage's key": lambda m: m["history"][0].update(key="1"),
    "a fate": lambda m: m["optimization"]["layers"][0].update(fate="optimized"),
    "a share over one": lambda m: m["inspection"]["sparsity"][0].update(zeros=50.0),
    "a distance in LSB": lambda m: next(iter(m["candidates"][0]["parity"].values())).update(lsb_histogram={"one": 1}),
    "io": lambda m: m.update(io="int4"),
    "a packed form": lambda m: m["options"].update(pack="bzip2"),
    "a technique's packed form": lambda m: m["techniques"][0]["packed"].update(rar=12),
    "a technique without stages": _technique(stages=[]),
    "a technique's size": _technique(bytes=0),
    "a technique's latency": _technique(latency_p50="fast"),
    "a technique's extra key": _technique(speedup=2),
    "a tensor's position": _tensor(position=-2),
    "a tensor's cosine": _tensor(cosine=1.5),
    "a tensor's SNR": _tensor(snr_db="high"),
    "a tensor's extra key": _tensor(rank=1),
    "a limit": lambda m: m["layer_errors"]["limit"].update(cosine=0.9),
    "the first tensor past the limit": lambda m: m["layer_errors"].update(first="conv"),
    "an operator alone": lambda m: m["layer_errors"]["only_b"][0].update(index=1),
    "a search without trials": lambda m: m["search"].update(trials=[]),
    "a trial's drop": lambda m: m["search"]["trials"][0].update(drop="1%"),
    "a trial's settings": lambda m: m["search"]["trials"][0].update(settings={"channels": [1]}),
    "an empty note": lambda m: m.update(sparsity_note=""),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(what: str, full: dict[str, Any]) -> None:
    broken = copy.deepcopy(full)
    WRONG[what](broken)
    assert problems(broken)


def _objects(schema: dict[str, Any], value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of required keys in `value`, found by walking schema and value together."""
    if "$ref" in schema:
        schema = VALIDATOR.schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    for option in schema.get("oneOf", ()):
        if value is not None and option != {"type": "null"}:
            return _objects(option, value, path)
    if isinstance(value, list) and value and "items" in schema:
        return _objects(schema["items"], value[0], (*path, 0))
    if not isinstance(value, dict):
        return []
    found = [(*path, key) for key in schema.get("required", ())]
    inner = schema.get("properties", {})
    for key, item in value.items():
        deeper = inner.get(key, schema.get("additionalProperties"))
        if isinstance(deeper, dict):
            found += _objects(deeper, item, (*path, key))
    return found


def _slim(value: Any) -> Any:
    """Lists cut to two items, so that a check takes milliseconds."""
    if isinstance(value, dict):
        return {key: _slim(item) for key, item in value.items()}
    return [_slim(item) for item in value[:2]] if isinstance(value, list) else value


def test_every_required_key_is_missed(full: dict[str, Any]) -> None:
    manifest = _slim(full)
    assert problems(manifest) == []
    paths = _objects(VALIDATOR.schema, manifest)
    assert len(paths) > 250
    for *where, key in paths:
        broken = copy.deepcopy(manifest)
        place: Any = broken
        for step in where:
            place = place[step]
        del place[key]
        assert not VALIDATOR.is_valid(broken), (where, key)
