"""`launcher runs`: a table of the runs that lie here, and what to do with each."""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from launcher import asked, overview, screen
from launcher.errors import SettingsError, did_you_mean
from launcher.overview import STATES, Summary

USAGE = """\
Usage: launcher runs [DIR] [--sort KEY] [--state STATE]... [--json]

Every run under DIR (checkpoints): its state, its step, its best score, when it was last written to,
and what to do next.

  running     a process holds the run's lock, here or on another machine
  dead        it says that it runs, but nobody holds its lock: killed, or the machine went down
  preempted   stopped in good order
  failed      ended with an error, which is shown
  finished    at the end of its plan
  empty       nothing was begun
  damaged     a file is missing or not as a run leaves it

Switches:
  --sort KEY            age (newest first, the default), name, state, step, best (best first)
  --state STATE         only runs in this state; can be given more than once
  --json                for programs: one object for each run, with the command that continues it

Example: launcher runs --state dead --state failed --sort best
"""
_AGES: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_MOST_COMMANDS: Final = 5


def run(given: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """The arguments after `runs`. Raises SettingsError."""
    if "-h" in given or "--help" in given:
        return screen.text(USAGE)
    parser.add_argument("folder", nargs="?", type=asked.path, metavar="DIR")
    parser.add_argument("--sort", default="age")
    parser.add_argument("--state", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    found = parser.parse_intermixed_args(given)
    _known("--sort", [found.sort], tuple(_ORDERS))
    _known("--state", found.state, STATES)
    root = found.folder or Path("checkpoints")
    if found.folder is not None and not root.is_dir():
        raise SettingsError(f"there is no folder {root}: launcher runs [DIR], where runs lie.")
    runs = [one for one in overview.summaries(root) if one.state in (found.state or STATES)]
    runs.sort(key=_ORDERS[found.sort])
    if found.json:
        screen.text(json.dumps([dataclasses.asdict(one) for one in runs], indent=1))
    elif runs:
        table(root, runs)
    else:
        what = f" that is {' or '.join(found.state)}" if found.state else ""
        screen.text(f"There is no run{what} under {root}.")


def table(root: Path, runs: Sequence[Summary]) -> None:
    """What `runs` prints for a person; below it the commands that continue what is not finished,
    and what is wrong with metrics."""
    now = time.time()
    rows = [
        (one.name, one.state, _step(one), _best(one), age(now - one.updated), _advice(one))
        for one in runs
    ]
    screen.table(f"Runs under {root}", ("run", "state", "step", "best", "age", "next"), rows)
    waiting = [one for one in runs if one.command and one.state in ("dead", "preempted", "failed")]
    for one in waiting[:_MOST_COMMANDS]:
        screen.text(f"{one.name} continues with: {one.command}")
    for one in runs:
        if one.remark:
            screen.text(f"{one.remark}.")


def age(seconds: float) -> str:
    """`3 min`: a span of time for people, in its largest unit."""
    for length, unit in _AGES:
        if seconds >= length:
            return f"{int(seconds / length)} {unit}"
    return "now"


def _step(one: Summary) -> str:
    if one.total_steps is None:
        return f"{one.step}" if one.step else "-"
    return f"{one.step}/{one.total_steps}"


def _best(one: Summary) -> str:
    if one.best is None:
        return "-"
    return f"{screen.shown(one.monitor, one.best)} at {one.best_step}"


def _advice(one: Summary) -> str:
    reason = one.reason.split("\n")[0] if one.state in ("failed", "damaged") else ""
    if len(reason) > 100:
        reason = f"{reason[:100]}..."
    return f"{one.next}. {reason}" if reason else one.next


def _known(switch: str, words: Sequence[str], known: Sequence[str]) -> None:
    problems = [
        f"{switch} {word}: give one of {', '.join(known)}.{did_you_mean(word, known)}"
        for word in words
        if word not in known
    ]
    if problems:
        raise SettingsError(*problems)


def _by_best(one: Summary) -> tuple[str, float]:
    if one.best is None or math.isnan(one.best):
        return one.monitor, math.inf
    return one.monitor, one.best if one.smaller else -one.best


_ORDERS: Final[dict[str, Callable[[Summary], Any]]] = {
    "age": lambda one: (-one.updated, one.name),
    "name": lambda one: one.name,
    "state": lambda one: (STATES.index(one.state), -one.updated),
    "step": lambda one: (-one.step, one.name),
    "best": _by_best,
}
