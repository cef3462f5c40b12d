"""The suite `checkpoint`: what a checkpoint every 50 steps takes from the rate, and one alone."""

import statistics
import tempfile
from argparse import Namespace
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from benching.clock import Clock
from benching.columns import EnoughError, Ticking
from benching.found import Found, middle
from benching.job import Job
from benching.rows import CPU, Row
from benching.speed import ready
from launcher.record import Record
from launcher.saver import Saver
from launcher.state import State
from launcher.stop import Stop
from launcher.train import train

EVERY = 50
_START = 30
"""Windows begin here, so that a checkpoint lies in their middle and is durable before they end."""

ROWS: tuple[Row, ...] = (
    replace(
        next(row for row in CPU if row.name == "lenet-128"), name="lenet-128-saved", warmup=10,
        steps=200, windows=9,
    ),
    replace(
        next(row for row in CPU if row.name == "resnet-128"), name="resnet-16-saved", batch_size=16,
        warmup=2, steps=50, windows=9, title="ResNet-34, CIFAR-10, batch 16",
    ),
)  # fmt: skip


def checkpoint(asked: Namespace) -> list[Found]:
    """Windows with and without checkpoints, in turns."""
    columns = ("workload", "without, samples/s", f"every {EVERY} steps, samples/s",
               "of the rate without [quartiles of the pairs]",
               "processor time, of that without [quartiles]")  # fmt: skip
    found = Found("checkpoint", f"a checkpoint every {EVERY} steps", columns)
    for row in ROWS:
        if (asked.only or asked.quick) and row.name not in (asked.only or ROWS[0].name):
            continue
        with ready(row, asked) as job:
            every = 2 if asked.quick else EVERY
            _add(found, job, every)
    return [found]


def _add(found: Found, job: Job, every: int) -> None:
    sides = {"without": 10**9, "with": every}
    pairs: list[dict[str, tuple[float, float]]] = []
    for number in range(job.row.windows + 1):
        order = [*sides] if number % 2 else [*sides][::-1]  # neither is always the first
        pair = {}
        for side in order:
            with tempfile.TemporaryDirectory() as folder:
                pair[side] = _window(job, Path(folder) / "run", sides[side])
        pairs.append(pair)
    pairs = pairs[1:]  # the first warms up
    samples = job.row.steps * job.row.batch_size
    rate = {side: statistics.median(samples / pair[side][0] for pair in pairs) for side in sides}
    found.rows.append((
        job.row.title, f"{rate['without']:,.0f}", f"{rate['with']:,.0f}",
        middle([pair["without"][0] / pair["with"][0] for pair in pairs], ".3f"),
        middle([pair["with"][1] / pair["without"][1] for pair in pairs], ".3f"),
    ))  # fmt: skip
    found.raw[job.row.name] = {"seconds, processor seconds": pairs, "threads": job.threads}


def _window(job: Job, folder: Path, every: int) -> tuple[float, float]:
    """Seconds on the clock and of the processor, of all threads, for one window."""
    clock = Clock(job.row.warmup, job.row.steps, job.device)
    model = job.model(arranged=True)
    parts = replace(
        job.parts, model=model, optimizer=job.parts.recipe.optimizer(job.parts.hparams, model),
        settings=replace(job.parts.settings, checkpoint_every=str(every)),
    )  # fmt: skip
    screen = Ticking(clock)
    record = Record(folder)
    record.begin(b"", {}, 0)
    with closing(record), Stop(1, str) as stop, Saver(parts, record, screen) as saver:
        try:
            train(parts, State(step=_START), saver, screen, stop)
        except EnoughError:
            saver.finish()
    return clock.seconds, clock.used
