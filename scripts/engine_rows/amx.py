"""Processes that the kernel refuses AMX, so that a comparison says where a gain comes from."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import edgecompile.ondevice.runner as runner


def has_amx() -> bool:
    return "amx_int8" in runner.cpu_features(Path("/proc"))


def deny_amx() -> None:
    """From here on the kernel refuses this process, and what it starts, AMX's tiles: arch_prctl(ARCH_REQ_XCOMP_PERM)
    gives EPERM (a seccomp filter, x86-64)."""
    arch_prctl, request = 158, 0x1023
    load, equal, give = 0x20, 0x15, 0x06  # BPF: load a word of the call, jump if equal, return
    eperm, allow = 0x00050001, 0x7FFF0000
    program = (
        (load, 0, 0, 0), (equal, 0, 3, arch_prctl),  # the call's number
        (load, 0, 0, 16), (equal, 0, 1, request),  # its first argument
        (give, 0, 0, eperm), (give, 0, 0, allow),
    )  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, by_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, by_filter, header):
        raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")
