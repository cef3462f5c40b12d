"""Faults that need root, a file system of their own, a tracer, limits, or time.

    python scripts/torture.py system [--count 9]         # all; more of what is drawn at random
    cd scripts && python -m faults.system C1 C23        # only these

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
from pathlib import Path

from faults.machine import Skipped, Violation
from faults.rows import COLUMNS, Row
from launcher import screen

Fault = Callable[[Path, random.Random, int], str]
COUNT = 3


def rows(seed: int, count: int | None, only: tuple[str, ...] = ()) -> list[Row]:
    """Every fault in turn; `count` is how often, for those that are drawn at random."""
    from faults import disks, processes

    faults: dict[str, Fault] = {**processes.FAULTS, **disks.FAULTS}
    return [
        _row(name, fault, seed, count or COUNT)
        for name, fault in faults.items()
        if not only or name in only
    ]


def _row(name: str, fault: Fault, seed: int, count: int) -> Row:
    what = f"{name}: {(fault.__doc__ or '').partition(': ')[2].rstrip('.')}"
    began = time.monotonic()
    try:
        with _folder() as folder:
            found, violations = fault(folder, random.Random(seed), count), 0
    except Skipped as why:
        return Row("system", what, skipped=str(why))
    except (Violation, OSError) as broken:
        found, violations = " ".join(str(broken).split())[:300], 1
    return Row("system", what, 1, violations, f"{found} ({time.monotonic() - began:.0f} s)")


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
    title = f"system faults, seed {asked.seed}, uid {os.getuid()}"
    screen.table(title, COLUMNS, (row.cells() for row in found))
    return 1 if any(row.violations for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
