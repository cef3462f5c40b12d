"""Windows of time over one thing each: a loader alone, training with it, the model alone.

A window is one pass of a loader over tickets that all windows share, so that nobody reads again
what another one has just brought into memory. Its first round of micro-batches (one from each
worker) is not timed, and it ends with a whole round. Then no more is asked for, and what the
workers make ahead is thrown away: while another window runs they sleep.
"""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch

from launcher.build import Parts
from launcher.data import Batch, Source, Task, finish
from launcher.errors import DataError
from launcher.loader import PREFETCH, Loader, Origin, check_shared_memory
from launcher.plan import Ticket
from launcher.rng import SampleRng
from launcher.strategy import World
from launcher.train import set_rates

LEAST = 3
"""Rounds in a window, with the one that is not timed."""

Consume = Callable[[Ticket, Batch], None]


@dataclass
class Lane:
    """A way to load: so many workers, each so many micro-batches ahead; and what was measured."""

    workers: int
    prefetch: int
    loader: Loader
    first_batch: float = 0.0
    """Seconds from asking to having it, the start of the workers included."""
    alone: list[float] = field(default_factory=list)
    """Samples per second without the model, over all processes; one number for each window."""
    training: list[float] = field(default_factory=list)
    """The same with the model taking every micro-batch."""
    waits: list[float] = field(default_factory=list)
    """Share of the time that the model waited for data."""
    memory: list[int] = field(default_factory=list)
    """Bytes that each worker shares with nobody."""
    out: str = ""
    """Why it is not measured any more."""
    children: set[int] = field(default_factory=set)


class Model:
    """The consumer: forward, backward and step as in the loop, without what the loop notes.

    Several processes do not exchange gradients here, so that each can take its own time.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, world = parts, parts.world
        self._model, self._stepper = world.prepare(
            parts.model, parts.optimizer, sync_batchnorm=False
        )
        set_rates(parts, parts.recipe.schedule(parts.hparams, parts.plan.progress(0)))
        self._passes = 0

    def __call__(self, ticket: Ticket, batch: Batch) -> None:
        parts, plan, world = self.parts, self.parts.plan, self.parts.world
        rng = SampleRng(plan.seed, ticket.epoch, ticket.samples)
        batch = finish(parts.data, parts.data.train, dict(batch), rng, world.device)
        with world.no_sync(self._model):
            with world.autocast():
                loss = parts.recipe.loss(self._model, batch)
            world.backward(loss, 1 / plan.accumulation)
        self._passes += 1
        if self._passes % plan.accumulation == 0:
            self._stepper.step()
            for parameter in parts.model.parameters():
                parameter.grad = None


class Bench:
    """Makes lanes over one source and runs windows on them; every process of a run has one."""

    def __init__(self, parts: Parts, source: Source, origin: Origin) -> None:
        self.parts, self.world = parts, parts.world
        self._source, self._origin = source, origin
        self._tickets = self._endless()
        self._lanes: list[Lane] = []
        self.batches = 0
        """Micro-batches that all windows took."""
        self._kept: tuple[Ticket, Batch] | None = None

    def lane(self, workers: int, prefetch: int = PREFETCH) -> Lane:
        """A lane whose workers have begun. Raises DataError when shared memory is short."""
        if self._kept is None:
            ticket = next(self._tickets)
            self._kept = ticket, self._source[ticket.samples]
        check_shared_memory(self._kept[1], workers, prefetch)
        parts = self.parts
        loader = Loader(
            self._source, self._origin, parts.hparams.seed, workers,
            timeout=parts.settings.timeout, prefetch=prefetch,
            pin=self.world.device.type == "cuda",
        )  # fmt: skip
        lane = Lane(workers, prefetch, loader)
        self._lanes.append(lane)
        before = {child.pid for child in multiprocessing.active_children()}
        tickets = [next(self._tickets) for _ in range(max(1, workers))]
        began = time.perf_counter()
        for number, _ in enumerate(loader(Task(t.samples, (t.epoch,)) for t in tickets)):
            lane.first_batch = lane.first_batch if number else time.perf_counter() - began
        now = {child.pid for child in multiprocessing.active_children()}
        lane.children = {pid for pid in now - before if pid is not None}
        return lane

    def end(self, lane: Lane) -> None:
        """End the lane's workers, having noted what memory they took."""
        lane.memory = lane.memory or [own_memory(pid) for pid in sorted(lane.children)]
        lane.loader.close()

    def close(self) -> None:
        """End every lane."""
        for lane in self._lanes:
            lane.loader.close()

    def load(self, lane: Lane, seconds: float) -> None:
        """A window of the loader alone."""
        lane.alone.append(self.window(lane, seconds)[0])

    def train(self, lane: Lane, seconds: float, model: Consume) -> None:
        """A window of training."""
        rate, waited = self.window(lane, seconds, model)
        lane.training.append(rate)
        lane.waits.append(waited)

    def window(
        self, lane: Lane, seconds: float, model: Consume | None = None, most: int | None = None
    ) -> tuple[float, float]:
        """Samples per second over all processes, and the share of the time waiting for data; for
        so many seconds, or until `most` micro-batches were taken."""
        taken: deque[Ticket] = deque()
        going, waited, began, unit = True, 0.0, 0.0, max(1, lane.workers)

        def tasks() -> Iterator[Task]:
            while going:
                taken.append(next(self._tickets))
                yield Task(taken[-1].samples, (taken[-1].epoch,))

        self.total(0.0)  # all processes begin together
        batches = lane.loader(tasks())
        for number in count(1):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            if number % unit == 0:  # from the arrival of a round to that of a later one
                enough = number >= LEAST * unit if most is None else number >= most
                late = time.perf_counter() - began >= seconds
                if number == unit or (enough and late):
                    self._synchronize()
                    elapsed = time.perf_counter() - began
                    if number > unit:
                        break
                    began, waited = time.perf_counter(), 0.0
            if model is not None:
                model(taken.popleft(), batch)
        going = False
        self.batches += number + sum(1 for _ in batches)
        rate = (number - unit) * self._samples / elapsed
        processes = self.world.processes
        return self.total(rate), self.total(min(1.0, waited / elapsed)) / processes

    def consume(self, seconds: float, model: Consume) -> float:
        """A window of the model alone, on one micro-batch that is there: samples per second."""
        assert self._kept is not None, "a lane was made first"
        self.total(0.0)
        model(*self._kept)
        self._synchronize()
        began = time.perf_counter()
        number = 0
        while not number or time.perf_counter() - began < seconds:
            model(*self._kept)
            number += 1
        self._synchronize()
        return self.total(number * self._samples / (time.perf_counter() - began))

    def total(self, value: float) -> float:
        """The sum of a number over all processes: a collective."""
        return total(self.world, value)

    @property
    def _samples(self) -> int:
        return self.parts.plan.micro_batch_size * self.parts.plan.devices

    def _endless(self) -> Iterator[Ticket]:
        while True:
            yield from self.parts.plan.tickets(0, self.world.process)

    def _synchronize(self) -> None:
        if self.world.device.type != "cpu":
            torch.accelerator.synchronize()


def total(world: World, value: float) -> float:
    """The sum of a number over all processes: a collective where there are several."""
    if world.total is None:
        return value
    dtype = torch.float32 if world.device.type == "mps" else torch.float64
    return world.total(torch.tensor(value, dtype=dtype, device=world.device)).item()


def own_memory(pid: int) -> int:
    """Bytes of a process that are its alone; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    own = [line.split() for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))]
    return sum(1024 * int(words[1]) for words in own)


def fits(bench: Bench, workers: int, prefetch: int = PREFETCH) -> Lane | str:
    """A lane, or that there is no shared memory for it."""
    try:
        return bench.lane(workers, prefetch)
    except DataError as error:
        if "shared memory" not in str(error):
            raise
        return str(error)
