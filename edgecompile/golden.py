"""golden.npz: inputs, and what the float source and LiteRT's reference kernels make of them; an array is ROLE/NAME."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgecompile.ondevice.runner import save_arrays
from edgecompile.task import Array, Arrays

INPUTS, FLOAT, REFERENCE = "inputs", "float", "reference"
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # what reading a damaged file can raise


def write(path: Path, roles: Mapping[str, Arrays]) -> None:
    """roles: by role, arrays [samples, ...] by the names of tensors."""
    save_arrays(path, {f"{role}/{name}": array for role, arrays in roles.items() for name, array in arrays.items()})


def read(path: Path | str, *wanted: str) -> dict[str, dict[str, Array]]:
    """What `write` was given, of the roles that are wanted; of all where none is named. A role that isn't there is
    empty. Errors: one of DAMAGED."""
    roles: dict[str, dict[str, Array]] = {role: {} for role in wanted or (INPUTS, FLOAT, REFERENCE)}
    with np.load(path, allow_pickle=False) as saved:
        for key in saved.files:
            role, _, name = key.partition("/")
            if not wanted or role in wanted:
                roles.setdefault(role, {})[name] = saved[key]
    return roles
