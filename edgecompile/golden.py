"""golden.npz: inputs, and what the float source and LiteRT's reference kernels make of them; an array is ROLE/NAME."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgecompile.artifact import Signature
from edgecompile.errors import DataError
from edgecompile.npz_file import opened
from edgecompile.ondevice.runner import save_arrays
from edgecompile.task import Array, Arrays

INPUTS, FLOAT, REFERENCE = "inputs", "float", "reference"
DAMAGED = (OSError, ValueError, KeyError)  # what reading a damaged file can raise


def write(path: Path, roles: Mapping[str, Arrays]) -> None:
    """roles: by role, arrays [samples, ...] by the names of tensors."""
    save_arrays(path, {f"{role}/{name}": array for role, arrays in roles.items() for name, array in arrays.items()})


def read(path: Path | str, *wanted: str) -> dict[str, dict[str, Array]]:
    """What `write` was given, of the roles that are wanted; of all where none is named. A role that isn't there is
    empty. Errors: one of DAMAGED."""
    roles: dict[str, dict[str, Array]] = {role: {} for role in wanted or (INPUTS, FLOAT, REFERENCE)}
    with opened(path) as saved:
        if not isinstance(saved, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        for key in saved.files:
            role, _, name = key.partition("/")
            if not wanted or role in wanted:
                roles.setdefault(role, {})[name] = saved[key]
    return roles


def of_model(path: Path, signature: Signature) -> tuple[dict[str, Array], dict[str, Array]]:
    """(inputs, reference outputs) of a model by name, [samples, ...] each; DataError where the file doesn't hold
    them."""
    try:
        arrays = read(path)
    except DAMAGED as problem:
        raise DataError(f"golden.npz can't be read: {problem}") from None
    found = []
    for role, tensors in ((INPUTS, signature.inputs), (REFERENCE, signature.outputs)):
        missing = [f"{role}/{tensor.name}" for tensor in tensors if tensor.name not in arrays[role]]
        if missing:
            raise DataError(f"golden.npz lacks {', '.join(missing)}")
        found.append({tensor.name: arrays[role][tensor.name] for tensor in tensors})
    inputs, stored = found
    if len({len(array) if array.ndim else 0 for array in (*inputs.values(), *stored.values())}) != 1:
        raise DataError("golden.npz: its inputs and outputs are of different numbers of samples")
    return inputs, stored
