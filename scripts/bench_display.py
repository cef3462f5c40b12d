"""What the display costs a loop with steps of a millisecond.

    python scripts/bench_display.py [--windows 21] [--steps 1000]

Windows with the display on a pseudo-terminal of 100 columns and windows without it take turns. A
step is arithmetic of about a millisecond in Python, which shares the interpreter with the thread
that draws: the worst case. A line of metrics comes every fifty steps. Shown is the ratio of the
rates in each pair of neighbouring windows, by the clock and by processor time, which a busy machine
disturbs less.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
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


def window(steps: int, rounds: int, *, shown: bool) -> tuple[float, float]:
    """Steps per second, by the clock and by the processor time of all threads."""
    screen = Screen(shown=shown)
    screen.start(steps, 0, max(1, steps // 3))
    began, before = time.perf_counter(), time.process_time()
    for step in range(steps):
        work(rounds)
        screen.step(step + 1)
        if step % 50 == 0:
            screen.metrics(LINE, steps)
    took, worked = time.perf_counter() - began, time.process_time() - before
    screen.stop()
    return steps / took, steps / worked


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--windows", type=int, default=21, help="pairs of windows")
    parser.add_argument("--steps", type=int, default=1000, help="steps in a window")
    asked = parser.parse_args(arguments)
    if asked.windows < 2:
        parser.error(f"--windows {asked.windows}: give at least 2, which quartiles need.")
    if asked.steps < 1:
        parser.error(f"--steps {asked.steps}: give at least 1.")
    os.environ |= {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    rounds = calibrated()
    ratios: dict[str, list[float]] = {"the clock": [], "processor time": []}
    for turn in range(asked.windows):
        rates = {}
        for shown in (True, False) if turn % 2 else (False, True):
            with terminal():
                rates[shown] = window(asked.steps, rounds, shown=shown)
        for found, with_it, without in zip(ratios.values(), rates[True], rates[False], strict=True):
            found.append(with_it / without)
    rows = []
    for name, found in ratios.items():
        quartiles = statistics.quantiles(found, n=4)
        spread = f"{quartiles[0]:.4f} to {quartiles[2]:.4f}"
        rows.append((name, f"{statistics.median(found):.4f}", spread))
    table(
        f"Rate with the display over the rate without, {asked.windows} pairs of windows of "
        f"{asked.steps} steps",
        ("by", "median", "quartiles"),
        rows,
    )


if __name__ == "__main__":
    main()
