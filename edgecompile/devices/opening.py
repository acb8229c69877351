"""From a device's name, or its address, to the device."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgecompile.cache import Cache
from edgecompile.devices.adb import SCHEME, AdbConnection
from edgecompile.devices.base import Device
from edgecompile.devices.board import PROVISIONED, Board
from edgecompile.devices.inventory import Entry, Inventory
from edgecompile.devices.local import LocalDevice
from edgecompile.devices.matching import best_target, is_jetson, is_member, lacking
from edgecompile.devices.ssh import SshConnection
from edgecompile.errors import DeviceError, TargetError
from edgecompile.manifest import MEASURED
from edgecompile.request import BuildRequest
from edgecompile.target import family, load_target, target_ids


def open_board(entry: Entry, runtime: str = PROVISIONED) -> Board:
    """A board of the inventory, connected. The caller closes it."""
    android = entry.url.startswith(SCHEME)
    return Board(
        lambda: AdbConnection(entry.url) if android else SshConnection(entry.address),
        entry.name,
        Cache(),
        runtime,
        emulated=entry.emulated,
        sysfs_root=entry.sysfs_root,
        python=entry.python,
        over="adb" if android else "SSH",
    )


def one(name: str) -> Entry:
    """The board of that name or address. DeviceError for a group: it is more than one."""
    entries = Inventory.load().resolve(name)
    if len(entries) != 1:
        raise DeviceError(
            f"{name!r} names {len(entries)} boards, a build takes one", hint="`bench --on` takes them all"
        )
    return entries[0]


@contextmanager
def device_for(
    request: BuildRequest, *, named: str | None, say: Callable[[str], None]
) -> Iterator[tuple[BuildRequest, Device]]:
    """(the request with the target that it will have, the device to measure on), the device open as long as this is.

    named: the target asked for; where none was, a board's own is taken, from the inventory or by what it tells. So is
    the member of a family that was asked for; without a board its default is taken.
    Errors: TargetError for a target that is another machine's.
    """
    members = family(named) if named else []
    if request.on is None:
        if members:
            others = ", ".join(target.id for target in members[1:])
            say(f"target {members[0].id}: no board says which of the family {named} it is (--on, or --target {others})")
            request = dataclasses.replace(request, target=members[0].id)
        yield request, LocalDevice()
        return
    entry = one(request.on)
    with open_board(entry, request.runtime) as board:
        facts = board.facts().details
        chosen = None if members else named or entry.target
        if chosen is None:
            best = best_target(facts, members or [load_target(name) for name in target_ids()])
            if best is None:
                of = f"of the family {named} " if members else ""
                known = f"; its members: {', '.join(member.id for member in members)}" if members else ""
                raise TargetError(
                    f"no target {of}is a board like {entry.name} ({facts['cpu']})",
                    hint=f"name one with --target{known}",
                )
            chosen = best.id
            say(f"target {chosen}: what {entry.name} is ({facts['cpu']})")
        target = load_target(chosen)
        arch = platform.machine() if target.local else target.cpu.arch
        if arch != facts["machine"]:
            raise TargetError(
                f"{entry.name} is {facts['machine']}, target {chosen} is {arch}",
                hint="`edgecompile devices probe` names the target that fits",
            )
        if request.max_latency_ms is not None and board.facts().label != MEASURED:
            raise TargetError(
                f"{entry.name}'s figures are {board.facts().label}: --max-latency can't be judged by those",
                hint="name a board that measures, or leave --max-latency out",
            )
        shipped = chosen in target_ids()  # one of the user's own is what its file says
        if shipped and target.gpu is not None and is_jetson(facts) and not is_member(target, facts):
            raise TargetError(
                f"{entry.name} is {facts['nvidia']['jetson']}, target {chosen} is {target.name}",
                hint="--target jetson takes the member that the board is",
            )
        best = best_target(facts, [load_target(name) for name in target_ids()])
        if shipped and not target.local and best is not None and best.id != chosen:
            say(f"{entry.name} is more like target {best.id}: figures for {chosen} are what this board gives")
        if missing := lacking(target, facts):
            raise TargetError(
                f"{entry.name} lacks {', '.join(missing)}, which code for {chosen} may use: it would die there",
                hint="`edgecompile devices probe` names the target that fits",
            )
        yield dataclasses.replace(request, target=chosen), board
