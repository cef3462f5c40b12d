"""Plain values as typed ones, strictly, with every reason why not."""

import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from launcher.errors import did_you_mean
from launcher.layers import Given, from_argument


def read(
    hints: Mapping[str, Any], given: Iterable[Given], known: Iterable[str]
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Values, origins and problems by name: the last value given for a name wins."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: dict[str, str] = {}
    for item in given:
        if item.key not in hints:
            nearest = did_you_mean(item.key, [*hints, *known])
            problems[item.key] = f"unknown setting '{item.key}' (from {item.source}).{nearest}"
            continue
        earlier = origins.get(item.key)
        origins[item.key] = f"{item.source}, over {earlier}" if earlier else item.source
        problems.pop(item.key, None)
        try:
            values[item.key] = _validate(item, hints[item.key])
        except ValueError as error:
            problems[item.key] = f"{item.key}: {error}; got {item.shown} (from {item.source})."
    return values, origins, problems


def wrong_default(name: str, default: Any, annotation: Any) -> dict[str, str]:
    """A sentence for a default that is no value of its own field's type; {} if it is one."""
    if not _finite(default):
        return {name: f"{name}: must be a finite number; got {default!r} (the class's default)."}
    try:
        TypeAdapter(annotation).validate_python(default)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input ")
        return {name: f"{name}: {reason}; got {default!r} (from the class's default)."}
    return {}


def _validate(item: Given, annotation: Any) -> Any:
    """The value as its type. Raises ValueError with the reason.

    Validation goes through JSON, in strict mode: lists may be tuples and whole numbers may be
    floats, but a float is no int, a bool is no number and a number is no text.
    """
    members = _members(annotation)
    absent = item.value is None and type(None) in members
    as_typed = str in members and not absent
    value = item.text if as_typed and item.text is not None else item.value
    lists = any(get_origin(member) is tuple for member in members)
    if item.text and not isinstance(value, list) and lists and not absent:
        value = from_argument(f"{item.key}=[{item.text}]").value  # widths=64,32
    if not _finite(value):
        raise ValueError("must be a finite number")
    try:
        valid = TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        reasons = {detail["msg"].removeprefix("Input ") for detail in error.errors()}
        raise ValueError(" or ".join(sorted(reasons))) from None
    if not _finite(valid):  # a whole number too large for a float
        raise ValueError("must be a finite number")
    return valid


def _finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, without their bounds."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]
