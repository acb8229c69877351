"""Git LFS leaves a small text where a large file should be, until it is fetched."""

from __future__ import annotations

from pathlib import Path

_BEGINNING = b"version https://git-lfs.github.com/spec/"
CURE = "git lfs pull fetches the file itself"


def is_pointer(path: Path) -> bool:
    """Whether the file is a pointer of Git LFS in place of its content; False for what can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_BEGINNING)) == _BEGINNING
    except OSError:
        return False
