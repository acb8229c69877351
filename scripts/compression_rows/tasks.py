"""Tasks of the benchmark's own, for `--data scripts.compression_rows.tasks:<function>`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import data, metrics
from edgecompile.task import CLASSIFICATION, Split, Task

_SIZE = 96
_SHIFT = 9  # pixels of 96, what 3 of 32 are


def _root() -> Path:
    return Path(os.environ["EDGECOMPILE_DATA"])


def cifar96() -> Task:
    """CIFAR-10 resized to 96x96 (bilinear), uint8 0..255: the built-in task resnet8 at MobileNet's size."""
    small = data.load(data.resolve("resnet8"))
    assert small.train is not None
    assert small.test is not None
    return dataclasses.replace(
        small,
        name="cifar96",
        train=Split({"": _resized(small.train.x[""])}, small.train.y),
        test=Split({"": _resized(small.test.x[""])}, small.test.y),
        augment=_augment,
        fingerprint=f"cifar96 {small.fingerprint}",
    )


def _resized(images: Any) -> Any:
    import tensorflow as tf

    out = np.empty((len(images), _SIZE, _SIZE, 3), np.uint8)
    for start in range(0, len(images), 1000):
        part = tf.image.resize(images[start : start + 1000], (_SIZE, _SIZE))
        out[start : start + 1000] = np.clip(np.round(part), 0, 255).astype(np.uint8)
    return out


def _augment(x: dict[str, Any], seed: Any) -> dict[str, Any]:
    """Flipped half the time; the batch shifted as one, since a shift an image would cost more than training does."""
    import tensorflow as tf

    flip, shift = tf.unstack(tf.random.split(seed, 2))
    images = tf.image.stateless_random_flip_left_right(x[""], flip)
    padded = tf.pad(images, [[0, 0], [_SHIFT, _SHIFT], [_SHIFT, _SHIFT], [0, 0]], "SYMMETRIC")
    by = tf.random.stateless_uniform([2], shift, 0, 2 * _SHIFT + 1, tf.int32)
    moved = tf.slice(padded, [0, by[0], by[1], 0], tf.shape(images))
    return {"": tf.ensure_shape(moved, images.shape)}


def vww() -> Task:
    """Visual wake words' test set; to calibrate with, unlabelled photographs: crops of 64 COCO and 400 ImageNet images
    (MLPerf's training images aren't there).

    A fifth of these validate, with the float model's own answers for labels: the metric between stages is how often
    the compressed model agrees with it, and settings can be chosen by that without a look at the test set.
    """
    import tf_keras
    from PIL import Image

    test = data.load(data.resolve("mobilenet_v1_025_96"))
    assert test.test is not None
    crops = []
    for path in [*sorted((_root() / "coco64/images").iterdir()), *sorted((_root() / "imagenet400/images").iterdir())]:
        image = Image.open(path).convert("RGB")
        width, height = image.size
        boxes = [(0, 0, width, height)]
        if "coco" in str(path):  # what the test set was cut from: more of these
            boxes += [(x, y, x + width // 2, y + height // 2) for x in (0, width // 2) for y in (0, height // 2)]
        for box in boxes:
            crop = image.crop(box).resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)
            crops.append(np.asarray(crop, np.float32) / np.float32(255))
    x = np.stack(crops)[np.random.default_rng(0).permutation(len(crops))]
    held = len(x) // 5
    model = tf_keras.models.load_model(_root() / "models/mlperf_tiny/vww/vww_96.h5", compile=False)
    answers = model.predict(x[:held], verbose=0).argmax(-1)
    return dataclasses.replace(
        test,
        name="vww",
        train=Split({"": x[held:]}),
        validation=Split({"": x[:held]}, {"": answers}),
        fingerprint="",
    )


def imagenet200() -> Task:
    """MobileNetV2's 400 images: 200 calibrate and validate, the other 200 test."""
    whole = data.load(data.resolve("mobilenet_v2"))
    assert whole.test is not None
    order = np.random.default_rng(0).permutation(len(whole.test))
    first, second = whole.test.take(np.sort(order[:200])), whole.test.take(np.sort(order[200:]))
    return Task("imagenet200", CLASSIFICATION, first, second, metrics.accuracy, fingerprint="", validation=first)


def breast_cancer() -> Task:
    """Wisconsin's diagnostic data set, as scikit-learn brings it: 30 measurements, 2 classes; 284 of the 569 samples
    train, calibrate and validate, the other 285 test."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(found.target))
    x, y = found.data[order].astype(np.float32), found.target[order].astype(np.int64)
    first, second = Split({"": x[:284]}, {"": y[:284]}), Split({"": x[284:]}, {"": y[284:]})
    return Task("breast_cancer", CLASSIFICATION, first, second, metrics.accuracy, fingerprint="", validation=first)
