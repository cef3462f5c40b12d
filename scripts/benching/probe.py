"""One point of the suite `scaling`, in an interpreter of its own: what it took, as JSON.

    python probe.py samples|classes|processes|lines NUMBER

Seconds on the clock, and the growth of the process's largest memory in MB.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from launcher import data, evaluate, sources
from launcher.plan import Plan, Ticket
from launcher.record import Record
from launcher.sources.arrays import Arrays

_SHAPE = (1, 2, 2)


@dataclass(frozen=True)
class _Sizes:
    seed: int
    epochs: int
    batch_size: int
    micro_batch_size: int | None = None


def memory() -> float:
    """The largest that this process has been, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def samples(number: int) -> dict[str, float]:
    """The plan and feed over so many tiny images: until the first batch, and a batch's time."""
    source = sources.synthetic("train", number, _SHAPE)
    both = data.Split(source)
    plan = Plan.of(_Sizes(0, 10**6, min(128, number // 4)), number)
    before, began = memory(), time.perf_counter()
    batches = data.feed(data.Data(train=both, test=both), plan, torch.device("cpu"))
    next(batches)
    first = time.perf_counter() - began
    times = _times(batches, 500)
    grown = memory() - before
    time.sleep(min(2.0, number * 1e-6))  # what trains meanwhile; of an epoch a small part
    later = data.feed(data.Data(train=both, test=both), plan, torch.device("cpu"),
                      start=max(0, plan.steps_per_epoch - 70))  # fmt: skip
    next(later)
    time.sleep(min(4.0, 2 * number * 1e-6))
    end = _times(later, 80)
    return {"seconds_to_first": first, "batch_us": 1e6 * statistics.median(times),
            "epoch_end_us": 1e6 * max(end), "memory_mb": grown}  # fmt: skip


def _times(items: object, number: int) -> list[float]:
    found = []
    for _ in range(number):
        began = time.perf_counter()
        next(items)  # type: ignore[call-overload]
        found.append(time.perf_counter() - began)
    return found


def classes(number: int) -> dict[str, float]:
    """The averages of an evaluation of 200,000 samples of so many classes."""
    tested = 200_000
    label = torch.arange(tested) % number
    source = Arrays(torch.zeros(tested, 1, 1, 1, dtype=torch.uint8), label,
                    tuple(map(str, range(number))))  # fmt: skip
    both = data.Split(source)
    before, began = memory(), time.perf_counter()
    found = {"accuracy": (label % 3 == 0).float(), "loss": torch.ones(tested)}
    line = evaluate.averages(found, data.Data(train=both, test=both))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "record_kb": len(json.dumps(line)) / 1024,
            "memory_mb": memory() - before}  # fmt: skip


def processes(number: int) -> dict[str, float]:
    """The last of so many processes, none of which is started: its share of the plan."""
    plan = Plan.of(_Sizes(0, 2, 8192), 1_000_000, number)
    before, began = memory(), time.perf_counter()
    tickets = plan.tickets(0, number - 1)
    next(tickets)
    first = time.perf_counter() - began
    times = _times(tickets, 100 * plan.accumulation)
    grown = memory() - before
    alone = replace(plan, epochs=1)  # or each would make the next epoch's order, beside
    step = [ticket.samples for process in range(number) for ticket in _one_step(alone, process)]
    whole = np.array_equal(np.sort(np.concatenate(step)), np.sort(plan.batch(0)))
    assert whole, "the processes' shares are not the batch"
    return {"seconds_to_first": first,
            "step_us": 1e6 * plan.accumulation * statistics.median(times),
            "memory_mb": grown}  # fmt: skip


def _one_step(plan: Plan, process: int) -> list[Ticket]:
    tickets = plan.tickets(0, process)
    return [next(tickets) for _ in range(plan.accumulation)]


def lines(number: int) -> dict[str, float]:
    """Going on with a run whose metrics.jsonl has so many lines."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        line = {"step": 0, "epoch": 0.5, "seconds": 1.5, "train/loss": 0.1234567890123,
                "train/lr": 0.1, "train/grad_norm": 1.2345678, "train/samples_per_s": 12345.678,
                "train/data_wait": 0.0123}  # fmt: skip
        with (run / "metrics.jsonl").open("w") as file:
            for step in range(number):
                file.write(json.dumps(line | {"step": step}) + "\n")
        before, began = memory(), time.perf_counter()
        record = Record(run)
        seconds = record.begin(b"", {}, number)
        took = time.perf_counter() - began
        assert seconds == 1.5
        record.close()
    return {"seconds": took, "memory_mb": memory() - before}


if __name__ == "__main__":
    kinds = {"samples": samples, "classes": classes, "processes": processes, "lines": lines}
    sys.stdout.write(json.dumps(kinds[sys.argv[1]](int(sys.argv[2]))) + "\n")
