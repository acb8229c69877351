"""Files of ours with the digest of what is in them: one that a disk or a hand changed is found out when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecompile import plain_json
from edgecompile.artifact import sha256_file, sha256_json

_DIGEST = "sha256"


class Damaged(ValueError):
    """Not what was written. The message names the file."""


def seal(data: Mapping[str, Any]) -> str:
    """JSON of `data` with its digest in it."""
    plain = json.loads(json.dumps(data))  # as it is read: tuples are lists, keys are text
    return json.dumps({**plain, _DIGEST: sha256_json(plain)}, indent=1)


def unseal(path: Path) -> dict[str, Any]:
    """What `seal` was given. FileNotFoundError where there is no such file, Damaged where it is another."""
    try:
        found = plain_json.parse(path.read_bytes())
        digest = found.pop(_DIGEST)
        whole = sha256_json(found) == digest
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise Damaged(f"{path} was changed or damaged since it was written")
    data: dict[str, Any] = found
    return data


def unseal_or_none(path: Path) -> dict[str, Any] | None:
    """None where there is no such file, or a damaged one: what a killed stage left, which goes on without it."""
    try:
        return unseal(path)
    except (FileNotFoundError, Damaged):
        return None


def digests(folder: Path) -> dict[str, str]:
    """{name below the folder: sha256} of all files in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def check(folder: Path, expected: Mapping[str, str]) -> None:
    """Damaged where a file isn't what it was when `digests` were taken; FileNotFoundError where it is gone."""
    for name, digest in expected.items():
        try:
            whole = sha256_file(folder / name) == digest
        except IsADirectoryError:
            whole = False
        if not whole:
            raise Damaged(f"{folder / name} was changed or damaged since it was written")
