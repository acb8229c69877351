"""Does plain data fit a JSON Schema? The keywords that the schemas of this package use, and no more.

jsonschema does all of it, with a dozen packages that a user of edgecompile has no other use for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_SHOWN = 60  # characters of a value in a message
_MOST = sys.float_info.max
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


def first_problem(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Where `value` (parsed JSON) doesn't fit, what was expected there and received; None where it fits.

    schema: its "$ref" name its own "$defs". Values may be nested as deep as the schema is, however deep the data.
    """
    return next(_problems(value, schema, "", schema.get("$defs", {})), None)


def _problems(value: Any, schema: Any, at: str, defs: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{at or 'it'} is not expected"
        return
    if "$ref" in schema:
        yield from _problems(value, defs[schema["$ref"].rpartition("/")[2]], at, defs)
    if "oneOf" in schema and not any(_fits(value, each, at, defs) for each in schema["oneOf"]):
        # The form that the value's type is of says what is wrong inside it.
        forms = [each for each in schema["oneOf"] if _fits(value, _kind(each, defs), at, defs)]
        yield from _problems(value, forms[0], at, defs) if forms else [_unlike(at, "one of its forms", value)]
    wanted = schema.get("type", [])
    kinds = wanted if isinstance(wanted, list) else [wanted]
    if kinds and not any(_TYPES[kind](value) for kind in kinds):
        yield _unlike(at, " or ".join(kinds), value)
        return
    if "const" in schema and value != schema["const"]:
        yield _unlike(at, repr(schema["const"]), value)
    if "enum" in schema and value not in schema["enum"]:
        yield _unlike(at, f"one of {schema['enum']}", value)
    if isinstance(value, dict):
        yield from _in_object(value, schema, at, defs)
    elif isinstance(value, list):
        yield from _in_array(value, schema, at, defs)
    elif isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield _unlike(at, "a text", value)
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield _unlike(at, f"what matches {schema['pattern']}", value)
    elif _TYPES["number"](value):
        yield from _bounds(value, schema, at)


def _in_object(value: dict[str, Any], schema: Mapping[str, Any], at: str, defs: Mapping[str, Any]) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{name!r} is missing{f' in {at}' if at else ''}"
    if len(value) < schema.get("minProperties", 0):
        yield _unlike(at, f"{schema['minProperties']} or more keys", value)
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in value.items():
        place = f"{at}/{name}" if at else name
        if "propertyNames" in schema:
            yield from _problems(name, schema["propertyNames"], place, defs)
        yield from _problems(item, known.get(name, others), place, defs)


def _in_array(value: list[Any], schema: Mapping[str, Any], at: str, defs: Mapping[str, Any]) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield _unlike(at, f"{schema.get('minItems', 0)} items or more", value)
    if schema.get("uniqueItems") and any(item in value[:index] for index, item in enumerate(value)):
        yield _unlike(at, "each item once", value)
    for index, item in enumerate(value):
        yield from _problems(item, schema.get("items", True), f"{at}/{index}", defs)


def _bounds(value: float, schema: Mapping[str, Any], at: str) -> Iterator[str]:
    if abs(value) > _MOST or value != value:
        yield _unlike(at, "a finite number", value)
    elif value < schema.get("minimum", value):
        yield _unlike(at, f"{schema['minimum']} or more", value)
    elif "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        yield _unlike(at, f"more than {schema['exclusiveMinimum']}", value)
    elif value > schema.get("maximum", value):
        yield _unlike(at, f"{schema['maximum']} at most", value)


def _fits(value: Any, schema: Any, at: str, defs: Mapping[str, Any]) -> bool:
    return next(_problems(value, schema, at, defs), None) is None


def _kind(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The type alone that a form asks for."""
    if "$ref" in schema:
        return _kind(defs[schema["$ref"].rpartition("/")[2]], defs)
    return {"type": schema["type"]} if "type" in schema else {}


def _unlike(at: str, expected: str, value: Any) -> str:
    if isinstance(value, dict | list):  # its text may be too deep for Python, and is of no use
        received = f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    else:
        received = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    received = received if len(received) <= _SHOWN else f"{received[:_SHOWN]}..."
    return f"{at or 'it'}: expected {expected}, received {received}"
