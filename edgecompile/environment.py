"""Do the installed packages fit together? Each says what it needs of others, and one that was replaced by hand may not
do: then imports fail somewhere deep in a library, and the package that is to blame isn't named.

Runs on the standard library alone.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass

# One package beside the other: tensorflow 2.21.0 needs protobuf >=6.31.1,<8 and protobuf 3.20.3 is there.
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?$", re.DOTALL)
_CONDITIONAL = re.compile(r"extra\s*==|platform|sys_platform|implementation|os_name")


@dataclass(frozen=True)
class Misfit:
    """installed: None where the package isn't there at all."""

    package: str
    version: str
    needs: str
    range: str
    installed: str | None

    def __str__(self) -> str:
        there = f"{self.installed} is installed" if self.installed else "it is not installed"
        return f"{self.package} {self.version} needs {self.needs}{self.range}, {there}"

    @property
    def cure(self) -> str:
        return f"pip install '{self.needs}{self.range}'"


def misfits(*, ours: bool = True, root: str = "edgecompile") -> list[Misfit]:
    """What the packages that `root` needs, and those that they need, lack of each other. Requirements that hold on some
    platforms alone, or for an extra, aren't looked at. ours: whether those of `root` itself are."""
    from edgecompile.doctor import satisfies

    found: list[Misfit] = []
    seen, waiting = set[str](), [root]
    while waiting:
        name = waiting.pop()
        if _plain(name) in seen:
            continue
        seen.add(_plain(name))
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in package.requires or []:
            match = _REQUIREMENT.match(text.strip())
            if match is None or _is_conditional(match[3] or ""):
                continue
            needs, bounds = match[1], ",".join(part.strip() for part in match[2].split(","))
            installed = _version(needs)
            waiting.append(needs)
            if (ours or name != root) and (installed is None or not satisfies(installed, bounds.replace("~=", ">="))):
                found.append(Misfit(name, package.version, needs, bounds, installed))
    return found


def _is_conditional(marker: str) -> bool:
    from edgecompile.doctor import for_this_python

    return bool(_CONDITIONAL.search(marker)) or not for_this_python(marker)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
