"""Faults that need root, a file system of their own, a tracer, limits, or time.

    python scripts/torture_system.py            # all of them, with what each needs
    python scripts/torture_system.py C1 C23     # only these
    python scripts/torture_system.py --count 9  # more of what is drawn at random

Each is one function that runs the real command line on a tiny recipe in a new folder. What this
machine does not allow is skipped, and says why.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher import screen

sys.path.insert(0, str(Path(__file__).resolve().parent))
from torture_machine import Skipped, Violation

Fault = Callable[[Path, random.Random, int], str]
COUNT = 3


@dataclass(frozen=True)
class Row:
    """One line of the report: how often something was done, and how often a promise broke."""

    mode: str
    what: str
    count: int
    violations: int
    result: str


def rows(seed: int, count: int | None, only: tuple[str, ...] = ()) -> list[Row]:
    """Every fault in turn; `count` is how often, for those that are drawn at random."""
    import torture_disk
    import torture_process

    faults: dict[str, Fault] = {**torture_process.FAULTS, **torture_disk.FAULTS}
    return [
        _row(name, fault, seed, count or COUNT)
        for name, fault in faults.items()
        if not only or name in only
    ]


def _row(name: str, fault: Fault, seed: int, count: int) -> Row:
    what = (fault.__doc__ or "").partition(": ")[2].rstrip(".")
    began = time.monotonic()
    try:
        with _folder() as folder:
            result, done, violations = fault(folder, random.Random(seed), count), 1, 0
    except Skipped as why:
        result, done, violations = f"skipped: {why}", 0, 0
    except (Violation, OSError) as broken:
        result, done, violations = " ".join(str(broken).split())[:300], 1, 1
    return Row(name, what, done, violations, f"{result} ({time.monotonic() - began:.0f} s)")


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="launcher-torture-", ignore_cleanup_errors=True) as at:
        yield Path(at)


def main() -> int:
    parser = argparse.ArgumentParser(description="faults of the system")
    parser.add_argument("only", nargs="*", help="names of faults; all when none is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int)
    asked = parser.parse_args()
    found = rows(asked.seed, asked.count, tuple(asked.only))
    columns = ("fault", "what", "runs", "violations", "result")
    cells = [(row.mode, row.what, row.count, row.violations, row.result) for row in found]
    screen.table(f"system faults, seed {asked.seed}, uid {os.getuid()}", columns, cells)
    return 1 if any(row.violations for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
