"""Models that compute in 16 or 64 bits, rebuilt in float32: what converters, TF-MOT and calibration take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

OTHER = frozenset({"float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"})
PLAIN = "float32"


def in_float32(model: Any, *, allow_unsafe: bool = False) -> tuple[Any, tuple[str, ...]]:
    """(`model`, a Keras 3 or tf-keras model, or its twin in float32 with the same weights, what was done).

    Dtypes and policies of all layers, nested ones too, of inputs and of casts become float32. The note says what they
    were; there is none where nothing was to do. allow_unsafe: the model may hold Lambda layers.
    """
    found: set[str] = set()
    config = plain(model.get_config(), found)
    if not found:
        return model, ()
    with _safe_mode(model, not allow_unsafe):
        twin = type(model).from_config(config)
    if not twin.built and model.inputs:
        twin.build(model.input_shape)
    arrays = [np.asarray(weight) for weight in model.weights]
    converted = [a.dtype != np.float32 and _is_float(w) for a, w in zip(arrays, model.weights, strict=True)]
    twin.set_weights([a.astype(np.float32) if other else a for a, other in zip(arrays, converted, strict=True)])
    policies = sorted(name for name in found if name.startswith("mixed_")) or sorted(found)
    weights = "its weights too" if any(converted) else "which its weights are already"
    return twin, (f"computed in {' and '.join(policies)}: rebuilt in float32, {weights}",)


def _safe_mode(model: Any, on: bool) -> Any:
    """The library's own scope in which Lambda layers are refused, or made again."""
    if type(model).__module__.startswith("tf_keras"):
        from tf_keras.src.saving.serialization_lib import SafeModeScope
    else:
        from keras.src.saving.serialization_lib import SafeModeScope
    return SafeModeScope(on)


def plain(value: Any, found: set[str]) -> Any:
    """A copy of a configuration with float32 for other floating-point dtypes, whose names are added to `found`."""
    if isinstance(value, Mapping):
        return {key: _plain_item(key, item, found) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item, found) for item in value)
    return value


def _plain_item(key: Any, value: Any, found: set[str]) -> Any:
    named = isinstance(value, Mapping) and str(value.get("class_name", "")).endswith("Policy")
    inner = value["config"] if named and isinstance(value.get("config"), Mapping) else {}
    if named and inner.get("name") in OTHER:
        found.add(inner["name"])
        return {**value, "config": {**inner, "name": PLAIN}}
    if key == "dtype" and isinstance(value, str) and value in OTHER:
        found.add(value)
        return PLAIN
    return plain(value, found)


def _is_float(weight: Any) -> bool:
    name = weight.dtype if isinstance(weight.dtype, str) else weight.dtype.name
    return "float" in str(name)
