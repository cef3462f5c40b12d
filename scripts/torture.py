"""Everything that may happen to a checkpoint, done to it: what is promised, and how often it held.

    python scripts/torture.py                              # every mode
    python scripts/torture.py calls power                  # these two
    python scripts/torture.py flips --count 100000 --seed 3 --json torture.json

Where Accelerate's own `save_state` can be put through the same, it is, for comparison. The exit
code is 1 when a promise of the launcher was broken, or when a mode has done nothing at all.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import cast

import torch
from faults.rows import COLUMNS, Row

from launcher import screen

MODES = {
    "calls": "calls.calls",
    "power": "calls.power",
    "flips": "damage.flips",
    "foreign": "damage.foreign",
    "kills": "kills.rows",
    "system": "system.rows",
}
"""Each mode with its function in `faults`, whose file is imported when the mode is asked for."""

Mode = Callable[[int, int | None], list[Row]]


def rows_of(mode: str, seed: int, count: int | None) -> list[Row]:
    """What a mode has found."""
    module, _, function = MODES[mode].partition(".")
    run = cast(Mode, getattr(import_module(f"faults.{module}"), function))
    return run(seed, count)


def main(given: Sequence[str] | None = None) -> int:
    """Run the modes, show one table, and say whether every promise held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)}")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--count", type=int, help="of rounds, where they can be chosen")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    asked = parser.parse_args(given)
    if unknown := set(asked.modes) - MODES.keys():
        parser.error(f"no such mode: {', '.join(sorted(unknown))}")
    if asked.count is not None and asked.count < 1:
        parser.error("--count is at least 1")
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    rows: list[Row] = []
    for mode in asked.modes or MODES:
        began = time.monotonic()
        found = rows_of(mode, asked.seed, asked.count)
        rows += found
        tried = sum(row.count for row in found)
        screen.text(f"{mode}: {tried:,} times in {time.monotonic() - began:.0f} s")
    screen.table(f"torture, seed {asked.seed}", COLUMNS, (row.cells() for row in rows))
    if asked.json:
        document = [asdict(row) | {"verdict": row.verdict} for row in rows]
        asked.json.write_text(json.dumps(document, indent=1))
    return int(any(row.broken for row in rows))


if __name__ == "__main__":
    sys.exit(main())
