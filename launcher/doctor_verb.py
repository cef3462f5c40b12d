"""`launcher doctor`: what is here, what would fail, and what to do about it."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from launcher import checkup, layers, screen, settings
from launcher.checkup import Finding
from launcher.errors import LauncherError

USAGE = """\
Usage: launcher doctor [data_dir=PATH] [--json]

Looks at versions, devices, the disk under checkpoints/, shared memory, data sets, the W&B login and
a hidden config of Accelerate, and really lets two processes exchange a number. Nothing is asked of
the network. Takes some seconds.

  ok      as it should be
  note    works, and there is something to know
  fails   would end a run; the exit code is the one that a run would end with

Switches:
  --json                for programs

Example: launcher doctor data_dir=data
"""


def run(given: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """The arguments after `doctor`. Raises the kind of error that a run would end with, when
    something would."""
    if "-h" in given or "--help" in given:
        return screen.text(USAGE)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--json", action="store_true")
    found = parser.parse_intermixed_args(given)
    chosen, _ = settings.resolve_run([layers.from_argument(word) for word in found.words])
    seen = list(checkup.findings(Path("checkpoints"), Path(chosen.data_dir)))
    if found.json:
        screen.text(json.dumps([_plain(one) for one in seen], indent=1))
    else:
        rows = ((one.name, one.verdict, _words(one)) for one in seen)
        screen.table("What is here", ("what", "", "found"), rows)
    failing = [one for one in seen if one.verdict == "fails"]
    if failing:
        error: type[LauncherError] = failing[0].error or LauncherError
        raise error(*(f"{one.name}: {_words(one)}" for one in failing))


def _plain(one: Finding) -> dict[str, object]:
    code = one.error.code if one.error else 0
    return {"name": one.name, "verdict": one.verdict, "found": one.said, "advice": one.advice,
            "code": code}  # fmt: skip


def _words(one: Finding) -> str:
    return f"{one.said.rstrip('.')}; {one.advice}" if one.advice else one.said
