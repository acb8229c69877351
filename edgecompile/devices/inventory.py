"""The user's boards by name, and groups of them: devices.json in the user's configuration folder."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from edgecompile import plain_json
from edgecompile.cache import write_file
from edgecompile.devices import adb
from edgecompile.devices.ssh import Address
from edgecompile.errors import DeviceError, perhaps

_SCHEMES = ("ssh", "adb")


@dataclass(frozen=True)
class Entry:
    """One board. identity, known_hosts: files to use in place of the user's own. emulated: what is measured there is a
    number of instructions. sysfs_root: a folder there that stands for /sys, to try out heat and throttling: figures are
    simulated. python: the interpreter to use there, a name or an absolute path; None is python3."""

    name: str
    url: str
    target: str | None = None
    identity: str | None = None
    known_hosts: str | None = None
    emulated: bool = False
    sysfs_root: str | None = None
    python: str | None = None

    def check(self) -> None:
        """DeviceError where `url` is no address, or `python` is no program."""
        if self.python is not None and not self.python.startswith("/") and not re.fullmatch(r"[\w.-]+", self.python):
            raise DeviceError(
                f"--python {self.python!r} is neither an absolute path on the board nor a name on its PATH",
                hint="such as /home/pi/venv/bin/python, or python3.11",
            )
        scheme = self.url.partition("://")[0]
        if "://" in self.url and scheme not in _SCHEMES:
            raise DeviceError(
                f"{self.url!r}: {scheme!r} is no way to a board, expected ssh://[user@]host[:port] or adb://SERIAL",
                hint=perhaps(scheme, _SCHEMES),
            )
        if not self.url.startswith(adb.SCHEME):
            _ = self.address
        else:
            adb.serial(self.url)

    @property
    def address(self) -> Address:
        """Of a board behind SSH."""
        return replace(
            Address.parse(self.url),
            identity=Path(self.identity) if self.identity else None,
            known_hosts=Path(self.known_hosts) if self.known_hosts else None,
        )


@dataclass
class Inventory:
    """devices and groups by name; a name is one of either. A change is kept by `save`."""

    path: Path
    devices: dict[str, Entry] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)

    @staticmethod
    def load() -> Inventory:
        """Errors: DeviceError for a file that can't be read."""
        path = folder() / "devices.json"
        if not path.is_file():
            return Inventory(path)
        try:
            data: dict[str, Any] = plain_json.parse(path.read_text(encoding="utf-8"))
            devices = {name: _entry(name, fields) for name, fields in data["devices"].items()}
            groups = {name: [str(member) for member in members] for name, members in data["groups"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise DeviceError(f"{path} can't be read: {problem}", hint="mend it, or move it away") from None
        return Inventory(path, devices, groups)

    def save(self) -> None:
        devices = {name: {k: v for k, v in asdict(e).items() if k != "name"} for name, e in self.devices.items()}
        write_file(self.path, json.dumps({"devices": devices, "groups": self.groups}, indent=1) + "\n")

    def add(self, entry: Entry) -> None:
        """Or replace. DeviceError for a name that can't be one, or an address that is none."""
        self._check(entry.name, self.groups, "group")
        entry.check()
        self.devices[entry.name] = entry

    def group(self, name: str, members: tuple[str, ...]) -> None:
        """Of devices, each by its name."""
        self._check(name, self.devices, "device")
        for member in members:
            if member not in self.devices:
                raise DeviceError(f"there is no device {member!r}", hint=perhaps(member, self.devices))
        self.groups[name] = list(dict.fromkeys(members))

    def remove(self, name: str) -> None:
        """A device (from its groups, too) or a group."""
        if name not in self.devices and name not in self.groups:
            raise self._unknown(name)
        self.devices.pop(name, None)
        self.groups.pop(name, None)
        self.groups = {group: [m for m in members if m != name] for group, members in self.groups.items()}

    def resolve(self, name: str) -> list[Entry]:
        """The boards that --on names: one by its name or address, or those of a group.

        An address that a device of the inventory has means that device, with its keys and all.
        """
        if "://" in name:
            entry = next((known for known in self.devices.values() if known.url == name), Entry(name, name))
            entry.check()
            return [entry]
        if name in self.groups:
            members = [self.devices[member] for member in self.groups[name]]
            if not members:
                raise DeviceError(f"group {name!r} is empty", hint=f"edgecompile devices group {name} NAME...")
            return members
        if name in self.devices:
            return [self.devices[name]]
        raise self._unknown(name)

    def _check(self, name: str, others: dict[str, Any], what: str) -> None:
        if not name or "://" in name or any(c.isspace() or not c.isprintable() for c in name):
            raise DeviceError(f"{name!r} is no name for a board", hint="a word such as rpi4")
        if name in others:
            raise DeviceError(f"{name!r} is a {what} already", hint=f"edgecompile devices remove {name}")

    def _unknown(self, name: str) -> DeviceError:
        known = [*self.devices, *self.groups]
        hint = perhaps(name, known) if known else "edgecompile devices add NAME ssh://USER@HOST"
        return DeviceError(f"there is no device and no group {name!r}", hint=hint)


def _entry(name: str, fields: dict[str, Any]) -> Entry:
    """TypeError where a field isn't of its type: the file may have been edited."""
    entry = Entry(name, **fields)
    for key, value in asdict(entry).items():
        if not isinstance(value, bool if key == "emulated" else str) and (value is not None or key == "url"):
            raise TypeError(f"{key} of {name!r} is {value!r}")
    return entry


def folder() -> Path:
    """EDGECOMPILE_CONFIG, else edgecompile in the user's configuration folder."""
    return Path(os.environ.get("EDGECOMPILE_CONFIG") or click.get_app_dir("edgecompile"))
