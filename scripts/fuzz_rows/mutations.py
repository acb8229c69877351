"""Ways to change an input: bits, cuts, members of archives, fields of JSON and TOML. None knows what reads it."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

# What a field is replaced by: of each type, empty, absurd.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1 << 40, 1 << 70, 0.5, 1e308, float("nan"), "", "x", "../x", "\x00"),
    *([], [1], ["Dense"], [[]], [None] * 50, {}, {"a": 1}, {"class_name": "Dense"}),
)
TEXTS = (*("nan", "inf", "-1", "0", "true", '"x"', "[]", "{}", "[[1]]"), *("1e400", "9" * 20, "2026-01-01", "'"))


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    """One to eight bits."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_early_bits(content: bytes, rng: random.Random) -> bytes:
    """As `flip_bits`, in the first kilobyte, where formats say what comes."""
    return flip_bits(content[:1024], rng) + content[1024:]


def cut(content: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return content[: rng.randrange(len(content))]


def lose_a_part(content: bytes, rng: random.Random) -> bytes:
    """Some bytes in the middle are missing."""
    begin = rng.randrange(len(content))
    return content[:begin] + content[begin + rng.randint(1, 64) :]


def zero_a_part(content: bytes, rng: random.Random) -> bytes:
    """A sector that was never written."""
    begin, size = rng.randrange(len(content)), rng.choice((4, 64, 512))
    part = content[begin : begin + size]
    return content[:begin] + rng.choice((b"\x00", b"\xff")) * len(part) + content[begin + size :]


def swap_parts(content: bytes, rng: random.Random) -> bytes:
    """Two blocks of equal size in each other's place."""
    size = min(rng.choice((4, 16, 128)), len(content) // 2)
    one, other = sorted(rng.randrange(len(content) - size) for _ in range(2))
    changed = bytearray(content)
    changed[one : one + size], changed[other : other + size] = (
        content[other : other + size],
        content[one : one + size],
    )
    return bytes(changed[: len(content)])


def change_a_word(content: bytes, rng: random.Random) -> bytes:
    """An aligned number of 32 bits becomes another."""
    at = 4 * rng.randrange(len(content) // 4)
    word = rng.choice((0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(content), rng.randrange(1 << 16)))
    return content[:at] + word.to_bytes(4, "little") + content[at + 4 :]


def change_field(value: Any, rng: random.Random) -> Any:
    """JSON with one field replaced, taken out, or in another's place."""
    changed = json.loads(json.dumps(value))
    places = list(_places(changed))
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    how = rng.randrange(4)
    if how == 0 and isinstance(holder, dict):
        del holder[key]
    elif how == 1:
        other, at = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[at]))
    else:
        holder[key] = rng.choice(VALUES)
    return changed


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def change_json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(change_field(json.loads(content), rng)).encode()


def nest_json(content: bytes, rng: random.Random) -> bytes:
    """Deeper than any reader goes."""
    levels = rng.choice((500, 5000, 100_000))
    deep = "[" * levels + "]" * levels if rng.random() < 0.5 else '{"a":' * levels + "1" + "}" * levels
    return deep.encode() if rng.random() < 0.5 else content.rstrip().rstrip(b"}") + f', "more": {deep}}}'.encode()


def change_toml(content: bytes, rng: random.Random) -> bytes:
    """A value becomes another."""
    lines = content.decode().splitlines()
    values = [number for number, line in enumerate(lines) if "=" in line]
    number = rng.choice(values)
    key = lines[number].partition("=")[0]
    other = (key, f"{key}x = 1", f"[{key}]", f"{key}= '")
    lines[number] = f"{key}= {rng.choice(TEXTS)}" if rng.random() < 0.8 else rng.choice(other)
    return "\n".join(lines).encode()


# -- archives


def _repacked(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def swap_members(content: bytes, rng: random.Random) -> bytes:
    members = _members(content)
    one, other = rng.sample(sorted(members), 2)
    members[one], members[other] = members[other], members[one]
    return _repacked(members)


def lose_a_member(content: bytes, rng: random.Random) -> bytes:
    members = _members(content)
    del members[rng.choice(sorted(members))]
    return _repacked(members)


def rename_a_member(content: bytes, rng: random.Random) -> bytes:
    members = _members(content)
    name = rng.choice(sorted(members))
    members[rng.choice(("../x.npy", "/x.npy", "", "x", f"{name}.npy", name.upper()))] = members.pop(name)
    return _repacked(members)


def change_a_member(content: bytes, rng: random.Random) -> bytes:
    """Bytes of a member, with the checksum that they then have."""
    members = _members(content)
    name = rng.choice(sorted(members))
    if members[name]:
        change = rng.choice((flip_bits, flip_early_bits, cut, zero_a_part, lose_a_part))
        members[name] = change(members[name], rng)
    return _repacked(members)


def compress_otherwise(content: bytes, rng: random.Random) -> bytes:
    return _repacked(_members(content), rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))


def change_a_directory_field(content: bytes, rng: random.Random) -> bytes:
    """Flags, methods, sizes and offsets, in the local headers and in the directory."""
    headers = [m.start() for m in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", content)]
    at = rng.choice(headers) + rng.randrange(4, 30)
    return content[:at] + bytes([rng.choice((0, 1, 8, 9, 12, 93, 255))]) + content[at + 1 :]


def change_shape(content: bytes, rng: random.Random) -> bytes:
    """The shape or the type in the header of an array."""
    members = _members(content)
    name = rng.choice(sorted(members))
    array = members[name]
    shape = rng.choice((b"(99999999999,)", b"(-1,)", b"()", b"(0, 5)", b"(1,)", b"'x'", b"(1e9,)", b"(" * 200))
    kind = rng.choice((b"'|O'", b"'<U4'", b"'<f2'", b"'<c16'", b"'<M8[s]'", b"'|V9'", b"[('a', '<f4')]", b"7"))
    if rng.random() < 0.5:
        array = re.sub(rb"'shape': \([^)]*\)", lambda _: b"'shape': " + shape, array, count=1)
    else:
        array = re.sub(rb"'descr': '[^']*'", lambda _: b"'descr': " + kind, array, count=1)
    members[name] = array
    return _repacked(members)


def change_config(content: bytes, rng: random.Random) -> bytes:
    """A field of one of the archive's JSON members."""
    members = _members(content)
    name = rng.choice([name for name in sorted(members) if name.endswith(".json")])
    change = nest_json if rng.random() < 0.03 else change_json
    members[name] = change(members[name], rng)
    return _repacked(members)


def change_h5_config(content: bytes, rng: random.Random) -> bytes:
    """A field of the JSON that an .h5 has in its attributes."""
    import h5py

    file = io.BytesIO(content)
    with h5py.File(file, "r+") as opened:
        name = rng.choice([n for n in ("model_config", "keras_version", "backend") if n in opened.attrs])
        if name == "model_config":
            value = json.loads(opened.attrs[name])
            for _ in range(rng.randint(1, 2)):
                value = change_field(value, rng)
            opened.attrs[name] = json.dumps(value)
        else:
            opened.attrs[name] = rng.choice(("", "x", "3", "9.9", 7, [1, 2]))
    return file.getvalue()


def change_h5_tree(content: bytes, rng: random.Random) -> bytes:
    """An array or a group of an .h5 is missing, of another shape, or elsewhere."""
    import h5py
    import numpy as np

    file = io.BytesIO(content)
    with h5py.File(file, "r+") as opened:
        names: list[str] = []
        opened.visit(names.append)
        name = rng.choice(names)
        how = rng.randrange(3)
        if how == 0:
            del opened[name]
        elif how == 1:
            del opened[name]
            opened[name] = np.zeros(rng.choice(((), (0,), (3, 3), (1, 2, 3))), rng.choice(("f4", "i8", "S3")))
        else:
            opened.move(name, f"{name}_moved")
    return file.getvalue()


BYTES: tuple[Mutation, ...] = (flip_bits, flip_early_bits, cut, lose_a_part, zero_a_part, swap_parts, change_a_word)
ARCHIVES: tuple[Mutation, ...] = (swap_members, lose_a_member, rename_a_member, change_a_member, compress_otherwise,
                                  change_a_directory_field)  # fmt: skip
OF_KIND: dict[str, tuple[Mutation, ...]] = {
    "tflite": (*BYTES, flip_bits, change_a_word, change_a_word),
    "npz": BYTES + ARCHIVES + (change_shape,) * 3,
    "golden": BYTES + ARCHIVES + (change_shape,) * 3,
    "keras": BYTES + ARCHIVES + (change_config,) * 10,
    "h5": BYTES + (change_h5_config,) * 8 + (change_h5_tree,) * 3,
    "recipe": BYTES + (change_toml,) * 12,
    "target": BYTES + (change_toml,) * 12,
    "project": BYTES + (change_toml,) * 12,
    "manifest": BYTES + (change_json,) * 14 + (nest_json,),
}
