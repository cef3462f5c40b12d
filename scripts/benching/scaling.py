"""The suite `scaling`: what grows with the work, each point in an interpreter of its own."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from benching.found import Found

ROOT = Path(__file__).resolve().parents[2]
POINTS: dict[str, tuple[int, ...]] = {
    "samples": (10**3, 10**4, 10**5, 10**6, 10**7),
    "classes": (10, 1_000, 100_000),
    "processes": (1, 8, 64, 1_024),
    "lines": (10**3, 10**6),
}
QUICK = {"samples": (1_000,), "classes": (10, 2_000), "processes": (1, 4), "lines": (1_000,)}
TITLES = {
    "samples": "samples: plan and batches of 128 tiny images",
    "classes": "classes: averages of an evaluation of 200,000 samples",
    "processes": "processes: the last one's share of a plan of a million samples, batch 8,192",
    "lines": "lines of metrics.jsonl: going on with the run",
}


def scaling(asked: Namespace) -> list[Found]:
    """A table for each kind of growth."""
    return [
        grown(kind, points)
        for kind, points in (QUICK if asked.quick else POINTS).items()
        if not asked.only or kind in asked.only
    ]


def grown(kind: str, points: tuple[int, ...]) -> Found:
    """One kind, at every point."""
    found = Found(f"scaling-{kind}", TITLES[kind], ())
    for number in points:
        taken = probe(kind, number)
        found.columns = (kind, *(name.replace("_", " ") for name in taken))
        found.rows.append((f"{number:,}", *(f"{value:,.4g}" for value in taken.values())))
        found.raw[str(number)] = taken
    return found


def probe(kind: str, number: int) -> dict[str, float]:
    """What one point took."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("probe.py")), kind, str(number)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"scaling of {kind} at {number:,}: {done.stderr}")
    taken: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return taken
