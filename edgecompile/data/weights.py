"""What counts how much in the loss, from an .npz: class_weight[/<output>], loss_weight/<output>."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgecompile.errors import DataError, perhaps
from edgecompile.task import REGRESSION, Array, Arrays

CLASS_WEIGHT, LOSS_WEIGHT = WEIGHT_KEYS = ("class_weight", "loss_weight")


_LARGEST = 1e6  # a loss of float32 is to stay a number


def read_weights(
    path: Path, found: Mapping[str, Arrays], kinds: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, Array]]:
    """(loss weights, class weights [classes]) by output, of {key: {output: array}}. kinds: of the labelled outputs.

    DataError for an output without labels, a weight below 0 or none above it, and classes of targets.
    """
    for key in WEIGHT_KEYS:
        for name, array in found.get(key, {}).items():
            what = f"{path}: {key}/{name}" if name else f"{path}: {key}"
            if name not in kinds:
                outputs = ", ".join(map(repr, filter(None, kinds))) or ("the only one" if kinds else "no output")
                if not kinds:
                    hint = "leave it out"
                elif list(kinds) == [""]:
                    hint = f"name it {key}, as labels have no output's name either"
                else:
                    hint = perhaps(name, kinds) if name else f"name it {key}/<output>"
                raise DataError(f"{what} is for an output without labels; {outputs} has some", hint=hint)
            shape = "one number" if key == LOSS_WEIGHT else "a number for each class"
            if array.ndim != (0 if key == LOSS_WEIGHT else 1) or not _are_weights(array):
                raise DataError(
                    f"{what} is {array.tolist()}, expected {shape} from 0 to {_LARGEST:,.0f}, not all of them 0"
                )
            if key == CLASS_WEIGHT and kinds[name] == REGRESSION:
                raise DataError(f"{what} is for targets, which have no classes", hint="leave it out")
    losses = {name: float(array) for name, array in found.get(LOSS_WEIGHT, {}).items()}
    return losses, {name: array.astype(np.float32) for name, array in found.get(CLASS_WEIGHT, {}).items()}


def _are_weights(array: Array) -> bool:
    if array.dtype.kind not in "uif" or not array.size:
        return False
    return bool((array >= 0).all() and (array <= _LARGEST).all() and array.any())
