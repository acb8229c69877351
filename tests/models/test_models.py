"""Built-in models: they train, they are the references' networks, and their data is read as the references read it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile import catalog
from edgecompile.data import fingerprint, load, resolve
from edgecompile.errors import DataError, ModelError
from edgecompile.task import Task

IDS = ["digits", "ds_cnn", "fashion_cnn", "fc_autoencoder", "mobilenet_v1_025_96", "mobilenet_v2", "resnet8"]

# id: (file, step through the test set, the score measured on all, how far a part of them may be off)
REFERENCES = {
    "ds_cnn": ("mlperf_tiny/kws/kws_ref_model", 1, 0.919, 1e-6),
    "fc_autoencoder": ("mlperf_tiny/ad/ad01.h5", 1, 0.880, 5e-4),
    "mobilenet_v1_025_96": ("mlperf_tiny/vww/vww_96.h5", 1, 0.853, 1e-6),
    "mobilenet_v2": ("imagenet/mobilenet_v2_1.0_224_imagenet1001.h5", 10, 0.8675, 0.1),
    "resnet8": ("mlperf_tiny/ic/pretrainedResnet.h5", 5, 0.8719, 0.015),
}


def predict(model: Any, x: np.ndarray) -> np.ndarray:
    return np.concatenate([model(x[i : i + 250].astype(np.float32)).numpy() for i in range(0, len(x), 250)])


def score(task: Task, model: Any, every: int = 1) -> float:
    assert task.test is not None
    assert task.metric is not None
    test = task.test if every == 1 else task.test.take(slice(None, None, every))
    assert test.y is not None
    return task.metric.score(test.y, {"out": predict(model, test.x[""])}, test.x)


def test_ids_are_the_folders() -> None:
    assert catalog.ids() == IDS


def test_an_unknown_model_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ModelError) as caught:
        catalog.get("resnet9")
    assert "perhaps you meant 'resnet8'" in caught.value.format_message()


@pytest.mark.parametrize("model", IDS)
def test_a_module_has_what_others_rely_on(model: str) -> None:
    module = catalog.get(model)
    assert module.SUMMARY
    assert "\n" not in module.SUMMARY
    assert module.REFERENCE
    assert isinstance(module.TRAINING, catalog.Training)


@pytest.mark.parametrize("model", IDS)
def test_a_built_network_is_always_the_same(model: str) -> None:
    first, second = catalog.get(model).build(), catalog.get(model).build()
    assert first.name == model
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # No two layers of equal shape may begin equal: a seed used twice would do that.
    kernels = [w for w in first.get_weights() if w.ndim > 1]
    assert len({k.tobytes() for k in kernels}) == len(kernels)


def test_data_without_a_folder_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"EDGECOMPILE_DATA is not set .*cifar10/train_\*\.webp"):
        catalog.get("resnet8").task(None)
    with pytest.raises(DataError, match=r"lacks kws/speech_commands_v2_test_rest3890_mfcc\.npz, kws/kws01"):
        catalog.get("ds_cnn").fingerprint_files(tmp_path)
    monkeypatch.setenv(catalog.DATA_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"gone', which is not a folder"):
        catalog.data_root()
    monkeypatch.delenv(catalog.DATA_VARIABLE)
    assert catalog.data_root() is None
    with pytest.raises(DataError, match="EDGECOMPILE_DATA is not set"):
        fingerprint(resolve("ds_cnn"))


def test_damaged_data_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "kws").mkdir()
    for pattern in (catalog.get("ds_cnn").TRAIN, catalog.get("ds_cnn").TEST):
        (tmp_path / pattern).write_bytes(b"PK\3\4 broken")
    with pytest.raises(DataError, match=r"rest3890_mfcc\.npz can't be read"):
        catalog.get("ds_cnn").task(tmp_path)


def test_digits_train_to_97_percent() -> None:
    import tf_keras

    module = catalog.get("digits")
    task = load(resolve("digits"))
    assert task.train is not None
    assert task.train.y is not None
    assert (len(task.train), len(task.test or ())) == (1437, 360)
    assert np.bincount(task.test.y[""]).min() >= 34  # type: ignore[union-attr,index]
    tf_keras.utils.set_random_seed(0)
    model = module.build()
    assert 5_000 <= model.count_params() <= 15_000
    training = module.TRAINING
    model.compile(tf_keras.optimizers.Adam(training.learning_rate), "sparse_categorical_crossentropy")
    model.fit(task.train.x[""], task.train.y[""], training.batch_size, training.epochs, verbose=0)
    assert score(task, model) >= 0.97


@pytest.fixture(scope="module")
def tasks(data: Path) -> dict[str, Task]:
    return {model: catalog.get(model).task(data) for model in REFERENCES}


@pytest.mark.parametrize("model", REFERENCES)
def test_the_references_weights_load_and_score_as_measured(data: Path, tasks: dict[str, Task], model: str) -> None:
    import tf_keras

    file, every, measured, tolerance = REFERENCES[model]
    path = data / "models" / file
    if not path.exists():
        pytest.skip(f"no {path}")
    reference = tf_keras.models.load_model(path, compile=False)
    ours = catalog.get(model).build()
    ours.set_weights(reference.get_weights())
    task = tasks[model]
    assert task.test is not None
    few = task.test.x[""][:4].astype(np.float32)
    np.testing.assert_array_equal(ours(few), reference(few))
    assert score(task, ours, every) == pytest.approx(measured, abs=tolerance)
    assert task.fingerprint == catalog.fingerprint(model, data)


def test_cifar_stays_bytes_and_test_only_tasks_say_so(tasks: dict[str, Task]) -> None:
    cifar = tasks["resnet8"]
    assert cifar.train is not None
    assert cifar.train.x[""].dtype == np.uint8
    assert (len(cifar.train), len(cifar.test or ())) == (46_000, 10_000)
    for model in ("mobilenet_v1_025_96", "mobilenet_v2"):
        with pytest.raises(DataError, match="no training samples to calibrate with"):
            _ = tasks[model].representative


def test_windows_follow_the_references_formula(data: Path, tasks: dict[str, Task]) -> None:
    (clip,) = np.load(data / "ad/normal90_train.npz")["logmel"][:1]
    expected = np.concatenate([clip[k : 196 + k] for k in range(5)], 1)
    np.testing.assert_array_equal(tasks["fc_autoencoder"].representative.x[""][:196], expected)


def test_augmentation_repeats_with_its_seed_and_moves_images_whole() -> None:
    augment = catalog.get("resnet8").augment
    x = np.arange(64 * 32 * 32 * 3, dtype=np.float32).reshape(64, 32, 32, 3)
    first = augment({"image": x}, np.array([1, 2], np.int32))["image"].numpy()
    np.testing.assert_array_equal(first, augment({"image": x}, np.array([1, 2], np.int32))["image"])
    assert not np.array_equal(first, augment({"image": x}, np.array([1, 3], np.int32))["image"])
    moves = set()
    for before, after in zip(x, first, strict=True):
        found = [
            (flip, down, right)
            for flip in (1, -1)
            for down in range(-3, 4)
            for right in range(-3, 4)
            if np.array_equal(after, shifted(before[:, ::flip], down, right))
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 30  # each image has its own
    assert {down for _, down, _ in moves} == {right for _, _, right in moves} == set(range(-3, 4))


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    rows, columns = (np.clip(np.arange(32) + by, 0, 31) for by in (down, right))
    return image[rows][:, columns]


def test_a_fingerprint_follows_the_data_files(tmp_path: Path) -> None:
    module = catalog.get("fashion_cnn")
    (tmp_path / "fashion_mnist").mkdir()
    for pattern in (module.TRAIN, module.TEST):
        np.savez(tmp_path / pattern, x=np.zeros((3, 28, 28), np.uint8), y=np.arange(3))
    before = catalog.fingerprint("fashion_cnn", tmp_path)
    task = module.task(tmp_path)
    assert task.fingerprint == before
    assert dataclasses.replace(task, fingerprint="").train.x[""].shape == (3, 28, 28, 1)
    np.savez(tmp_path / module.TEST, x=np.ones((3, 28, 28), np.uint8), y=np.arange(3))
    assert catalog.fingerprint("fashion_cnn", tmp_path) != before
