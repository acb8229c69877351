"""Reading TOML into frozen dataclasses: an unknown key or a wrong type is an error that says what was meant."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgecompile.errors import EdgecompileError, perhaps

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

_MOST = 1_000_000_000_000


def read_toml(path: Path, error: type[EdgecompileError]) -> dict[str, Any]:
    """The file's content. Every number in it is finite and no larger than any setting may be."""
    if path.exists() and not path.is_file():
        raise error(f"{path}: no file, expected TOML")  # a pipe would be waited for
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: can't be read: {problem}") from None
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{path}: not valid TOML: {problem}") from None
    except (ValueError, RecursionError) as problem:  # numbers of thousands of digits; tables in tables without end
        raise error(f"{path}: not valid TOML: {problem}") from None
    for place, value in _numbers(data, ""):
        if not -_MOST <= value <= _MOST:
            received = value if isinstance(value, float) else "more"
            raise error(f"{path}: {place}: expected a number of {_MOST:,} at most, received {received}")
    return data


def _numbers(value: Any, place: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{place}: {key}" if place else key)
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield from _numbers(item, f"{place} {number}")
    elif isinstance(value, int | float):
        yield place, value


def check_keys(data: Mapping[str, Any], known: Iterable[str], where: str, error: type[EdgecompileError]) -> None:
    options = list(known)
    for key in data:
        if key not in options:
            raise error(f"{where}: unknown key {key!r}", hint=perhaps(key, options))


def build(kind: type[T], data: Mapping[str, Any], where: str, error: type[EdgecompileError]) -> T:
    """An instance of the dataclass `kind` from a TOML table.

    Fields may be dataclasses (from tables), tuples of one type, of dataclasses too (from lists, from [[arrays of
    tables]]), any of these or None, and one value or a tuple. `where` names the place in messages.
    """
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    types_ = typing.get_type_hints(kind)
    check_keys(data, fields, where, error)
    values = {key: _convert(types_[key], value, f"{where}: {key}", error) for key, value in data.items()}
    for name, field in fields.items():
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in values and missing:
            raise error(f"{where}: key {name!r} is missing")
    try:
        return kind(**values)
    except error as problem:  # of its own checks, which don't know where the values came from
        raise error(f"{where}: {problem.message}", hint=problem.hint) from None


def _convert(wanted: Any, value: Any, where: str, error: type[EdgecompileError]) -> Any:
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        if not isinstance(value, dict):
            raise error(f"{where}: expected a table, received {value!r}")
        return build(wanted, value, where, error)
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):  # `X | None`: TOML has no null, so only X can be written
        options = [a for a in args if a is not type(None)]
        lists = [a for a in options if typing.get_origin(a) is tuple and isinstance(value, list)]
        return _convert((lists or options)[0], value, where, error)
    if origin is tuple:
        if not isinstance(value, list):
            raise error(f"{where}: expected a list, received {value!r}")
        return tuple(_convert(args[0], item, f"{where} {n}", error) for n, item in enumerate(value, 1))
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise error(f"{where}: expected {wanted.__name__}, received {value!r}")
    return value
