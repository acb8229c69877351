"""Mixed precision where plain int8 loses more than 2 points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compression_rows.common import Row, build, data_folder, recipe

SEED, SPREAD = 0, 2.5
TASK = "scripts.compression_rows.tasks:imagenet200"


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
    changed = rescale_channels(whole, SEED, SPREAD)
    changed.save(folder / "rescaled.h5")
    x = np.random.default_rng(SEED).uniform(-1, 1, (8, 224, 224, 3)).astype(np.float32)
    a, b = whole.predict(x, verbose=0), changed.predict(x, verbose=0)
    common = ("--data", TASK, "--max-drop", "off", "--io", "float")
    plain = build(folder / "rescaled.h5", "int8", out.parent / f"{out.name}-int8", *common)
    made = build(folder / "rescaled.h5", recipe("mixed"), out, *common)
    chosen = made.stage("mixed-precision")
    return {
        "rescaling": {"seed": SEED, "spread": SPREAD, "float_output_changed_by": float(np.ptp(a) and abs(a - b).max())},
        "int8": {"test": plain.figure("accuracy"), "drop": plain.stage("test")["drop"]},
        "mixed": {"test": made.figure("accuracy"), "drop": made.stage("test")["drop"]},
        "kept": [row for row in chosen["sensitivity"] if row["kept"]],
        "operators": chosen["operators"],
        "evaluations": chosen["evaluations"],
        **made.summary(),
    }


ROWS = {"mixed-mobilenet": Row("MobileNetV2, channels rescaled: mixed precision against plain int8", _rescaled)}
