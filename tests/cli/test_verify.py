"""`edgecompile verify`: a whole bundle passes, and each damage is found by the check that is made for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import edit_manifest, patch_sha256, run_cli

from edgecompile.errors import BundleError, DataError, VerifyError
from edgecompile.tflite_file import read
from edgecompile.verify import Verification, verify
from edgecompile.worker import Worker

Check = Callable[..., Verification]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Check]:
    """`verify` with one worker process for all tests here."""
    worker = Worker(tmp_path_factory.mktemp("log") / "worker.log")
    yield lambda path, **options: verify(path, worker, report=lambda _: None, **options)
    worker.close()


@pytest.fixture
def bundle(digits_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_bundle, tmp_path / "bundle"))


def flip_weight(bundle: Path) -> None:
    """The top bit of the middle byte of the first convolution's weights."""
    path = bundle / "model.tflite"
    model = read(path)
    kernels = [t for t in model.main.tensors if t.is_constant and t.dtype == "int8" and len(t.shape) == 4]
    stored = bytes(model.buffers[kernels[0].buffer])
    content = bytearray(path.read_bytes())
    assert content.count(stored) == 1
    content[content.index(stored) + len(stored) // 2] ^= 0x80
    path.write_bytes(content)


def texts(found: Verification) -> dict[str, str]:
    return {c.name: c.text for c in found.checks}


def test_a_whole_bundle_passes_every_check(bundle: Path) -> None:
    done = run_cli("verify", bundle, "--json", cwd=bundle.parent)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["passed"]
    assert [(c["name"], c["passed"]) for c in found["checks"]] == [
        ("files", True), ("model", True), ("golden outputs", True), ("parity", True), ("accuracy", True),
    ]  # fmt: skip
    manifest = json.loads((bundle / "manifest.json").read_text())
    promised = next(f for f in manifest["figures"] if f["name"] == "accuracy" and f["of"] == "model")
    (figure,) = found["figures"]
    assert (figure["value"], figure["samples"]) == (pytest.approx(promised["value"], abs=1e-6), promised["samples"])


def test_one_flipped_weight_byte_fails_and_says_which_check(bundle: Path) -> None:
    flip_weight(bundle)
    done = run_cli("verify", bundle, cwd=bundle.parent)
    assert done.code == VerifyError.exit_code
    assert "failed: files\n" in done.err
    assert "FAILED files: changed since the build: model.tflite" in done.out
    assert "-      parity: not checked: model.tflite is not loaded, as it was changed" in done.out
    assert "Traceback" not in done.err


def test_a_flipped_weight_byte_with_its_sha256_patched_still_fails(bundle: Path, check: Check) -> None:
    flip_weight(bundle)
    patch_sha256(bundle, "model.tflite")
    found = check(bundle)
    assert "files" not in found.failed
    assert {"golden outputs", "parity"} <= set(found.failed)
    with pytest.raises(VerifyError, match="golden outputs, parity"):
        found.enforce()


def test_changed_golden_outputs_fail(bundle: Path, check: Check) -> None:
    path = bundle / "golden.npz"
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in saved.files}
    arrays["reference/scores"] = arrays["reference/scores"] + np.float32(1 / 256)
    np.savez(path, **arrays)
    patch_sha256(bundle, "golden.npz")
    assert check(bundle).failed == ["golden outputs"]


def test_golden_outputs_that_are_no_archive_fail(bundle: Path, check: Check) -> None:
    (bundle / "golden.npz").write_bytes(b"not an archive")
    patch_sha256(bundle, "golden.npz")
    found = check(bundle)
    assert found.failed == ["golden outputs"]
    assert texts(found)["parity"].startswith("not checked")


def test_golden_outputs_that_lack_one_fail(bundle: Path, check: Check) -> None:
    np.savez(bundle / "golden.npz", **{"inputs/image": np.zeros((2, 8, 8, 1), np.float32)})
    patch_sha256(bundle, "golden.npz")
    assert texts(check(bundle))["golden outputs"] == "golden.npz lacks reference/scores"


def test_a_truncated_model_fails_without_being_run(bundle: Path, check: Check) -> None:
    path = bundle / "model.tflite"
    path.write_bytes(path.read_bytes()[:-4000])
    patch_sha256(bundle, "model.tflite")
    found = check(bundle)
    assert found.failed == ["model"]
    assert texts(found)["accuracy"] == "not checked: the model can't be read"


def test_another_model_in_its_place_fails(bundle: Path, check: Check) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest["models"]["model"]["signature"]["inputs"][0]["name"] = "picture"

    edit_manifest(bundle, rename)
    found = check(bundle)
    assert found.failed == ["model"]
    assert "'image' (float32)" in texts(found)["model"]
    assert "'picture' (float32)" in texts(found)["model"]


def test_a_manifest_that_claims_more_accuracy_fails(bundle: Path, check: Check) -> None:
    def boast(manifest: dict[str, Any]) -> None:
        figure = next(f for f in manifest["figures"] if f["name"] == "accuracy" and f["of"] == "model")
        figure["value"] += 0.01

    edit_manifest(bundle, boast)
    assert check(bundle).failed == ["accuracy"]


@pytest.mark.parametrize(("shift", "failed"), [(0.001, []), (0.05, ["accuracy"])])
def test_another_machine_may_be_worse_within_the_interval(
    bundle: Path, check: Check, shift: float, failed: list[str]
) -> None:
    def elsewhere(manifest: dict[str, Any]) -> None:
        manifest["environment"]["cpu"]["model"] = "another processor"
        next(f for f in manifest["figures"] if f["name"] == "accuracy" and f["of"] == "model")["value"] += shift
        test = next(record for record in manifest["history"] if record["stage"] == "test")
        test["metrics"]["before"] += shift

    edit_manifest(bundle, elsewhere)
    found = check(bundle)
    assert found.failed == failed
    assert "95% interval" in texts(found)["accuracy"]


def test_other_data_fail(bundle: Path, check: Check, tmp_path: Path) -> None:
    x, y = np.zeros((20, 8, 8, 1), np.float32), np.arange(20) % 10
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    found = check(bundle, data_spec=str(tmp_path / "other.npz"))
    assert found.failed == ["accuracy"]
    assert "is not the data of the build" in texts(found)["accuracy"]


def test_data_that_is_not_here_is_not_checked_and_says_so(bundle: Path, check: Check) -> None:
    edit_manifest(bundle, lambda manifest: manifest["data"].update(source="elsewhere.npz"))
    found = check(bundle)
    assert not found.failed
    assert texts(found)["accuracy"].startswith("not checked: --data: there is no file elsewhere.npz")


def test_data_that_the_user_names_must_be_there(bundle: Path, check: Check) -> None:
    with pytest.raises(DataError, match=r"elsewhere\.npz"):
        check(bundle, data_spec="elsewhere.npz")


def test_a_bundle_without_data_says_that_accuracy_is_not_checked(bundle: Path, check: Check) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update(data=None))
    found = check(bundle)
    assert not found.failed
    assert texts(found)["accuracy"] == "not checked: the bundle was built without data"


def test_what_is_no_bundle_is_a_clear_error(bundle: Path, check: Check) -> None:
    damages: dict[str, Callable[[], object]] = {
        "lacks golden.npz": lambda: (bundle / "golden.npz").unlink(),
        "is damaged": lambda: (bundle / "manifest.json").write_text('{"schema": 1'),
        "is not a bundle": lambda: (bundle / "manifest.json").unlink(),
        "no such bundle": lambda: shutil.rmtree(bundle),
    }
    for message, damage in damages.items():
        damage()
        with pytest.raises(BundleError, match=message):
            check(bundle)


@pytest.mark.parametrize("key", ["candidates", "history", "data", "models", "environment"])
def test_a_manifest_that_lacks_a_part_is_a_clear_error(bundle: Path, check: Check, key: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest.pop(key) and None)
    with pytest.raises(BundleError, match=r"is damaged|is missing"):
        check(bundle)
