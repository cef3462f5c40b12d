"""The suite `overhead`: what the launcher does in a step beside the network, over a bare loop.

Windows of both take turns, and each pair gives a difference: what else the machine does in these
seconds meets both. The bare loop is the floor: one fancy index, and nothing checked or recorded.
"""

import statistics
from argparse import Namespace
from dataclasses import replace

from benching.clock import Clock
from benching.columns import COLUMNS
from benching.found import Found, middle
from benching.job import Job
from benching.rows import CPU, Row
from benching.speed import ready

_LENET = next(row for row in CPU if row.name == "lenet-4")
_BOTH = ("launcher", "floor")
ROWS: tuple[Row, ...] = (
    replace(_LENET, name="lenet-4-overhead", steps=400, windows=41, columns=_BOTH),
    replace(
        _LENET, name="mlp-4-overhead", title="MLP, Fashion-MNIST, batch 4, one thread",
        network="mlp", dataset="fashion_mnist", steps=1500, windows=41, columns=_BOTH,
    ),
)  # fmt: skip


def overhead(asked: Namespace) -> list[Found]:
    """Microseconds of a step, and what of them is ours."""
    columns = ("workload", "bare loop, us a step", "launcher, us a step",
               "over the bare loop, us [quartiles of the pairs]",
               "of processor time, us [quartiles]")  # fmt: skip
    found = Found(
        "overhead", "the launcher's own work in a step, without lines of metrics", columns
    )
    asked = Namespace(**vars(asked) | {"set": ["log_every=1000000000", *asked.set]})
    for row in ROWS:
        if not asked.only or row.name in asked.only:
            with ready(row, asked) as job:
                _add(found, job)
    return [found]


def _add(found: Found, job: Job) -> None:
    pairs = []
    for number in range(job.row.windows):
        order = _BOTH if number % 2 else _BOTH[::-1]  # neither is always the first
        pairs.append({name: _window(job, name) for name in order})
    median = {name: statistics.median(pair[name][0] for pair in pairs) for name in _BOTH}
    over = [
        middle([pair["launcher"][which] - pair["floor"][which] for pair in pairs], ",.0f")
        for which in (0, 1)
    ]
    found.rows.append(
        (job.row.title, f"{median['floor']:,.0f}", f"{median['launcher']:,.0f}", *over)
    )
    found.raw[job.row.name] = {"clock and processor, us": pairs, "threads": job.threads}


def _window(job: Job, name: str) -> tuple[float, float]:
    clock = Clock(job.row.warmup, job.row.steps, job.device)
    COLUMNS[name](job, 0, clock, None)
    each = 1e6 / job.row.steps
    return clock.seconds * each, clock.used * each
