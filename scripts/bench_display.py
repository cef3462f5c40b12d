"""What the display costs a loop with steps of a millisecond.

    python scripts/bench_display.py [--windows 21] [--steps 1000]

Windows with the display on a pseudo-terminal of 100 columns and windows without it take turns. A
step is arithmetic of about a millisecond in Python, which shares the interpreter with the thread
that draws: the worst case. A line of metrics comes every fifty steps. Shown is the ratio of the
rates in each pair of neighbouring windows.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from launcher.screen import Screen, table

LINE = {
    "step": 0, "epoch": 0.5, "seconds": 1.0, "train/loss": 1.25, "train/lr": 0.05,
    "train/samples_per_s": 12345.6, "train/data_wait": 0.125,
}  # fmt: skip


@contextmanager
def terminal() -> Iterator[None]:
    """Standard output is a pseudo-terminal that somebody reads."""
    ours, theirs = os.openpty()
    reader = os.fork()
    if not reader:
        os.close(theirs)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # nobody writes any more
            os._exit(0)
    before = sys.stdout
    with os.fdopen(theirs, "w") as sys.stdout:
        try:
            yield
        finally:
            sys.stdout = before
    os.close(ours)
    os.waitpid(reader, 0)


def work(rounds: int) -> int:
    """Arithmetic that holds the interpreter."""
    total = 0
    for number in range(rounds):
        total += number * number
    return total


def calibrated() -> int:
    """Rounds of `work` that take a millisecond here."""
    began = time.perf_counter()
    work(1_000_000)
    return max(1, round(1_000_000 * 0.001 / (time.perf_counter() - began)))


def window(steps: int, rounds: int, *, shown: bool) -> float:
    """Steps per second."""
    screen = Screen(shown=shown)
    screen.start(steps, 0, max(1, steps // 3))
    began = time.perf_counter()
    for step in range(steps):
        work(rounds)
        screen.step(step + 1)
        if step % 50 == 0:
            screen.metrics(LINE, steps)
    rate = steps / (time.perf_counter() - began)
    screen.stop()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--windows", type=int, default=21, help="pairs of windows")
    parser.add_argument("--steps", type=int, default=1000, help="steps in a window")
    asked = parser.parse_args()
    os.environ |= {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    rounds = calibrated()
    ratios = []
    for turn in range(asked.windows):
        rates = {}
        for shown in (True, False) if turn % 2 else (False, True):
            with terminal():
                rates[shown] = window(asked.steps, rounds, shown=shown)
        ratios.append(rates[True] / rates[False])
    quartiles = statistics.quantiles(ratios, n=4)
    table(
        f"Rate with the display over the rate without, {asked.windows} pairs of windows of "
        f"{asked.steps} steps",
        ("median", "quartiles", "least", "most"),
        [(f"{statistics.median(ratios):.4f}", f"{quartiles[0]:.4f} to {quartiles[2]:.4f}",
          f"{min(ratios):.4f}", f"{max(ratios):.4f}")],
    )  # fmt: skip


if __name__ == "__main__":
    main()
