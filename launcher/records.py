"""The lines of metrics.jsonl, as those take them who only read: what no run has written is passed
over and named, and believed by nobody."""

import json
import os
from pathlib import Path
from typing import Any, Final

_TAIL: Final = 1 << 16
NO_RECORD: Final = "is no record of a run"


def _integer(word: str) -> int:
    if len(word) > _DIGITS:
        raise ValueError(f"{word[:_DIGITS]}... is too long for a count")
    return int(word)


_DIGITS: Final = 15  # a larger one is no step, and no float either
_JSON: Final = json.JSONDecoder(parse_int=_integer)


def record(line: bytes) -> dict[str, Any] | None:
    """A line's record: a step and numbers by name, None for one that was not finite. None for a
    line that no run has written."""
    try:
        found = _JSON.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int or found["step"] < 0:
        return None
    # By type: a JSON true is an int to Python.
    return found if {*map(type, found.values())} <= {int, float, type(None)} else None


def last(path: Path, having: str = "step") -> dict[str, Any]:
    """The last record that has the key `having`; {} when the last 64 KiB hold none."""
    whole, _ = _end(path)
    for line in reversed(whole):
        found = record(line)
        if found is not None and having in found:
            return found
    return {}


def complaint(path: Path, finished: int | None) -> str:
    """What is wrong at the end of metrics.jsonl, in words; nothing when it is as a run leaves it.

    `finished` is the step at which a run ended well: all it has noted is durable. One that was
    killed or goes on may have torn its last line.
    """
    whole, torn = _end(path)
    found, foreign = None, 0
    for line in reversed(whole):
        if found := record(line):
            break
        foreign += 1
    if foreign:
        first = _count(path) - foreign + 1
        return f"{path.name}, line {first}, {NO_RECORD}"
    return "" if finished is None else of_finished(path, found or {}, finished, torn=torn)


def of_finished(path: Path, found: dict[str, Any], step: int, *, torn: bool) -> str:
    """What is missing in the metrics of a run that finished at a step; `found` is the last record
    that is there."""
    if found.get("step", 0) < step:
        return f"{path.name} ends at step {found.get('step', 0)} of {step}"
    return f"{path.name} has a torn line at its end" if torn else ""


def torn(path: Path) -> bool:
    """Whether the last line is not whole."""
    return _end(path)[1]


def _end(path: Path) -> tuple[list[bytes], bool]:
    """The last whole lines, and whether there is something behind them."""
    try:
        with path.open("rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - _TAIL)
            file.seek(start)
            end = file.read(_TAIL)
    except OSError:
        return [], False
    whole, _, rest = end.rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    return lines[1:] if start else lines, bool(rest)  # the first of a tail is half a line


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
