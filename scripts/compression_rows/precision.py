"""Mixed precision where plain int8 loses more than 2 points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compression_rows import networks
from compression_rows.common import Row, build, data_folder, recipe

SPREAD = 2.5
IMAGENET = "scripts.compression_rows.tasks:imagenet200"
CONVNEXT = "convnext-fashion"
EPOCHS, LEARNING_RATE, BATCH = 12, 0.002, 64


def _rescaled(out: Path) -> dict[str, Any]:
    """MobileNetV2 whose channels are rescaled: the same function, and far worse in int8."""
    import numpy as np
    import tf_keras
    from rescaling import rescale_channels

    folder = out.parent / f"{out.name}-source"
    folder.mkdir(parents=True, exist_ok=True)
    whole = tf_keras.models.load_model(
        data_folder() / "models/imagenet/mobilenet_v2_1.0_224_imagenet1001.h5", compile=False
    )
    changed = rescale_channels(whole, networks.SEED, SPREAD)
    changed.save(folder / "rescaled.h5")
    x = np.random.default_rng(networks.SEED).uniform(-1, 1, (8, 224, 224, 3)).astype(np.float32)
    a, b = whole.predict(x, verbose=0), changed.predict(x, verbose=0)
    rescaling = {"seed": networks.SEED, "spread": SPREAD, "float_output_changed_by": float(abs(a - b).max())}
    return {"rescaling": rescaling, **_against_int8(folder / "rescaled.h5", IMAGENET, out)}


def _convnext(out: Path) -> dict[str, Any]:
    """A small ConvNeXt (Liu et al., "A ConvNet for the 2020s" (2022), figure 4): its LayerNorms are sums of squares
    over channels, for which 8 bits are few."""
    from edgecompile.training import Schedule

    schedule = Schedule(EPOCHS, LEARNING_RATE, BATCH)
    made = networks.train(CONVNEXT, _small_convnext, "fashion_cnn", schedule)
    trained = {**made, "schedule": f"Adam, {LEARNING_RATE} by cosine, batches of {BATCH}", "seed": networks.SEED}
    return {"trained": trained, **_against_int8(networks.path_of(CONVNEXT), "fashion_cnn", out)}


def _small_convnext() -> Any:
    from itertools import count

    import tf_keras
    from tf_keras import layers

    seed = count(1)

    def init() -> Any:
        return tf_keras.initializers.GlorotUniform(seed=next(seed))

    x = image = layers.Input((28, 28, 1), name="image")
    for stage, (size, width) in enumerate([(2, 24), (2, 48)], start=1):
        x = layers.Conv2D(width, size, strides=size, kernel_initializer=init(), name=f"down{stage}")(x)
        x = layers.LayerNormalization(epsilon=1e-6, name=f"down{stage}_norm")(x)
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            y = layers.DepthwiseConv2D(7, padding="same", depthwise_initializer=init(), name=f"{name}_depthwise")(x)
            y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")(y)
            y = layers.Dense(4 * width, "gelu", kernel_initializer=init(), name=f"{name}_expand")(y)
            y = layers.Dense(width, kernel_initializer=init(), name=f"{name}_project")(y)
            x = layers.Add(name=f"{name}_add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.LayerNormalization(epsilon=1e-6, name="head_norm")(x)
    scores = layers.Dense(10, "softmax", kernel_initializer=init(), name="scores")(x)
    return tf_keras.Model(image, scores, name="convnext")


def _against_int8(model: Path, data: str, out: Path) -> dict[str, Any]:
    common = ("--data", data, "--max-drop", "off", "--io", "float")
    plain = build(model, "int8", out.parent / f"{out.name}-int8", *common)
    made = build(model, recipe("mixed"), out, *common)
    chosen = made.stage("mixed-precision")
    return {
        "int8": {"test": plain.figure("accuracy"), "drop": plain.stage("test")["drop"]},
        "mixed": {"test": made.figure("accuracy"), "drop": made.stage("test")["drop"]},
        "kept": [row for row in chosen["sensitivity"] if row["kept"]],
        "operators": chosen["operators"],
        "evaluations": chosen["evaluations"],
        **made.summary(),
    }


ROWS = {
    "mixed-mobilenet": Row("MobileNetV2, channels rescaled: mixed precision against plain int8", _rescaled),
    "mixed-convnext": Row("a ConvNeXt trained here: mixed precision against plain int8", _convnext),
}
