"""edgecompile.toml: a project's own defaults for MODEL and any option of `build`. The command line wins."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgecompile.errors import ProjectFileError
from edgecompile.toml import check_keys, read_toml

FILE = "edgecompile.toml"


def read_project(folder: Path, options: Iterable[str]) -> dict[str, Any]:
    """The file's values by option name as click spells it (max_drop), {} where there is no file.

    `options`: long names without the dashes (max-drop), plus "model".
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    data = read_toml(path, ProjectFileError)
    check_keys(data, options, FILE, ProjectFileError)
    for key, value in data.items():
        if isinstance(value, dict):
            raise ProjectFileError(f"{FILE}: {key}: expected a value, received a table")
        if any("\0" in str(part) for part in (value if isinstance(value, list) else [value])):
            raise ProjectFileError(f"{FILE}: {key}: expected text without NUL, received {value!r}")
    return {key.replace("-", "_"): value for key, value in data.items()}
