"""The layers of settings as plain values: YAML files and `key=value` arguments.

YAML is read with rules of our own: booleans are only `true` and `false` (so that `off` and `no` are
words), `3e-4` is a float, `none` and `null` both mean none, and duplicate keys, tags and aliases
are refused, so that a file can neither hide a value nor run or blow up anything.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import SettingsError, did_you_mean
from launcher.mirrors import redacted

MOST_BYTES = 1 << 20
DEEPEST = 32
"""Brackets within brackets: a YAML parser takes minutes for thousands."""


@dataclass(frozen=True)
class Given:
    """One value that a user gave."""

    key: str
    value: Any
    """As YAML reads it: None, bool, int, float, str, or a list of these."""
    text: str | None
    """As it was typed; None for a list and for a quoted text."""
    source: str
    """`argument`, or `config FILE:LINE`."""

    @property
    def shown(self) -> str:
        return redacted(repr(self.text) if self.text is not None else json.dumps(self.value))


class _Loader(yaml.SafeLoader):
    """SafeLoader with the rules above, built below; it never constructs a Python object."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|Null|NULL|none|None|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.?(?:inf|Inf)|\.?(?:nan|NaN)",
        "-+.0123456789inIN",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def from_argument(argument: str) -> Given:
    """`peak_lr=3e-4` as a value. Raises SettingsError when it is no `key=value`."""
    key, equals, text = argument.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        raise SettingsError(
            f"{redacted(repr(argument))} is neither a switch nor a setting: settings are given as "
            f"key=value."
        )
    try:
        _refuse_references(text, "argument")
        node = yaml.compose(text, _Loader)
        value = _plain(node, "argument") if node is not None else None
    except (SettingsError, yaml.YAMLError, ValueError, OverflowError, RecursionError):
        value = text  # no YAML: a text such as `a: b`, or one that the field's type will refuse
    if isinstance(value, dict):
        value = text
    return Given(key, value, text, "argument")


def from_file(path: Path) -> list[Given]:
    """The values of a config file. Raises SettingsError with the line of what is wrong."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
        text = raw.decode("utf-8-sig") if raw is not None else None
    except OSError as error:
        beside = [str(other) for other in path.parent.glob("*.yaml")]
        near = did_you_mean(str(path), beside)
        raise SettingsError(
            f"cannot read the config file {path}: {error.strerror}.{near}"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"the config file {path} is not text in UTF-8: {error}.") from error
    if text is None:
        raise SettingsError(f"the config file {path} is larger than 1 MiB: give a smaller one.")
    try:
        return list(_entries(text, path))
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark)
        raise SettingsError(f"config {path}:{line}: {error.problem or 'is not YAML'}.") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise SettingsError(f"the config file {path} is not YAML: {error}.") from error


def _entries(text: str, path: Path) -> Iterator[Given]:
    _refuse_references(text, f"config {path}")
    root = yaml.compose(text, _Loader)
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"config {path}:1: a config file is a list of `key: value` lines.")
    seen: dict[str, int] = {}
    for key_node, value_node in root.value:
        line = _line(key_node.start_mark)
        source = f"config {path}:{line}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise SettingsError(f"{source}: a key is a single word.")
        key = str(key_node.value)
        if key in seen:
            raise SettingsError(f"{source}: '{key}' stands here again, first on line {seen[key]}.")
        seen[key] = line
        plain = isinstance(value_node, yaml.ScalarNode) and value_node.style is None
        yield Given(key, _plain(value_node, source), value_node.value if plain else None, source)


def _refuse_references(text: str, source: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        place = f"{source}:{_line(event.start_mark)}"
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise SettingsError(f"{place}: lists within lists, more than {DEEPEST} deep.")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise SettingsError(f"{place}: anchors and aliases are not used here.")
        if tag := getattr(event, "tag", None):
            raise SettingsError(f"{place}: the tag {tag} is not used here.")


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1


def _plain(node: yaml.Node, source: str) -> Any:
    """Scalars and lists of scalars. Raises SettingsError for anything deeper."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, source) for child in node.value]
    if not isinstance(node, yaml.ScalarNode):
        raise SettingsError(f"{source}: a value is a number, a text or a list, not a mapping.")
    text = str(node.value)
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return text == "true"
        case "int":
            try:
                return int(text)
            except ValueError as error:  # over 4300 digits
                raise SettingsError(f"{source}: a number of {len(text)} digits.") from error
        case "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        case _:
            return text


def scalar(value: object) -> str:
    """A value as a user would type it: `none`, `true`, `0.1`, `a,b`."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return "[" + ",".join(scalar(part) for part in value) + "]"
        case _:
            return str(value)
