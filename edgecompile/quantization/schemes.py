"""What each scheme makes of weights and activations, and its recipe in ai-edge-quantizer's own format."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FLOAT = "float"
FLOAT16 = "float16"
DYNAMIC_INT8 = "dynamic_wi8_afp32"
STATIC_INT8 = "static_wi8_ai8"
STATIC_INT16 = "static_wi8_ai16"

_NO_QUANTIZE = "no_quantize"
_FLOAT16_CONFIG = {
    "weight_tensor_config": {"num_bits": 16, "symmetric": True, "granularity": "TENSORWISE", "dtype": "FLOAT"},
    "compute_precision": "FLOAT",
    "explicit_dequantize": True,
    "skip_checks": False,
    "min_weight_elements": 0,
}
# Where the quantizer's name of an operator isn't the schema's.
_OPERATIONS = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}


@dataclass(frozen=True)
class Scheme:
    """weights, activations: the dtypes that weights and results of an operator have in the file.

    explicit: weights are turned back into float32 before the operator, which then computes in float.
    block: how many weights along the inputs share a scale; 0 for one scale an output channel.
    """

    name: str
    weights: str
    activations: str
    explicit: bool = False
    block: int = 0

    @property
    def static(self) -> bool:
        """Activations are integers in the file, so their ranges are calibrated."""
        return self.activations != "float32"


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(FLOAT16, "float16", "float32", explicit=True),
        Scheme(DYNAMIC_INT8, "int8", "float32"),
        Scheme("dynamic_wi4_afp32", "int4", "float32"),
        # One scale a block: of LiteRT's kernels, XNNPACK and the optimized ones compute it, for FULLY_CONNECTED.
        Scheme("dynamic_wi4b32_afp32", "int4", "float32", block=32),
        Scheme("dynamic_wi4b64_afp32", "int4", "float32", block=64),
        Scheme("weight_only_wi8_afp32", "int8", "float32", explicit=True),
        Scheme("weight_only_wi4_afp32", "int4", "float32", explicit=True),
        Scheme(STATIC_INT8, "int8", "int8"),
        Scheme(STATIC_INT16, "int8", "int16"),
    )
}


def is_static(scheme: str) -> bool:
    """Of a scheme's name, FLOAT included."""
    return scheme != FLOAT and SCHEMES[scheme].static


def recipe_entries(scheme: str, io: str, exceptions: Iterable[tuple[str, str, str]] = ()) -> list[dict[str, Any]]:
    """The recipe for a whole model. io: "float" keeps float inputs and outputs.

    exceptions: (scope, operator's name, scheme or FLOAT), a scope being what the quantizer knows one operator by
    (`Place.scope`). Later entries win, so these come last.
    """
    entries = [dict(entry) for entry in _base(scheme)]
    if io == "float" and is_static(scheme):
        entries += [_entry(".*", side, _NO_QUANTIZE, {}) for side in ("INPUT", "OUTPUT")]
    for scope, operator, other in exceptions:
        # An operator's own name and never "*": the pseudo-operators INPUT and OUTPUT have scopes too.
        algorithm, config = (_NO_QUANTIZE, {}) if other == FLOAT else _settings(other)
        entries.append(_entry(_exactly(scope), operation(operator), algorithm, config))
    return entries


def supported(operator: str, scheme: str) -> bool:
    """Whether the quantizer knows how to give operators of this name that scheme: it skips others in silence."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    if scheme == FLOAT:
        return True
    algorithm, config = _settings(scheme)
    try:
        algorithm_manager.check_op_quantization_config(
            algorithm,
            qtyping.TFLOperationName(operation(operator)),
            qtyping.OpQuantizationConfig.from_dict(config),
        )
    except ValueError:  # also for a name that isn't in its list
        return False
    return True


def operation(operator: str) -> str:
    """The quantizer's name of an operator of the schema."""
    return _OPERATIONS.get(operator, operator)


@functools.lru_cache
def _base(scheme: str) -> tuple[dict[str, Any], ...]:
    from ai_edge_quantizer import recipe

    if scheme == FLOAT16:
        return (_entry(".*", "*", "float_casting", _FLOAT16_CONFIG),)
    return tuple(json.loads(json.dumps(getattr(recipe, scheme)(), default=str)))


def _settings(scheme: str) -> tuple[str, dict[str, Any]]:
    (entry,) = _base(scheme)
    return entry["algorithm_key"], entry["op_config"]


def _entry(regex: str, operator: str, algorithm: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"regex": regex, "operation": operator, "algorithm_key": algorithm, "op_config": config}


def _exactly(scope: str) -> str:
    import re

    return f"^{re.escape(scope)}$"
