"""The arithmetic of a run: which samples, in which step, in which micro-batch, in which process.

The micro-batch is the unit. Its samples are a function of (seed, epoch, place in the epoch); the
number of processes only decides who computes it. There is one stream of tickets for the whole run,
without a pause or a state at an epoch's end, so that continuing at a step is starting there.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import numpy as np

from launcher import rng
from launcher.durations import parse
from launcher.errors import SettingsError
from launcher.rng import Int64s

_SEEDS: Final = 1024
"""Made at once; they take some 0.2 ms."""
_BLOCK: Final = 16_384
"""Samples of an order that are copied at once."""


class Ticket(NamedTuple):
    """The order for one forward pass of one process."""

    step: int
    epoch: int
    number: int
    """The micro-batch's place in its step, counted over all processes. With several devices in one
    process the ticket covers the micro-batches `number` to `number + devices - 1`."""
    samples: Int64s
    """Their indices: int64, shape (devices * micro_batch_size,)."""


class Sizes(Protocol):
    """The hyperparameters that a plan is made of."""

    @property
    def seed(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def micro_batch_size(self) -> int | str | None: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a run, checked: every quantity that the loop needs is a property of these."""

    seed: int
    epochs: int
    samples: int
    batch_size: int
    micro_batch_size: int
    processes: int = 1
    devices: int = 1
    """Devices within one process: more than one only under DataParallel."""

    @classmethod
    def of(cls, hparams: Sizes, samples: int, processes: int = 1, devices: int = 1) -> "Plan":
        """The plan for these hyperparameters.

        Raises SettingsError when the sizes do not divide, with the nearest sizes that do.
        """
        parts = processes * devices
        batch, given = hparams.batch_size, hparams.micro_batch_size
        micro = given if isinstance(given, int) else None  # auto begins with the largest
        if batch > samples:
            raise SettingsError(
                f"batch_size={batch} is more than the {samples} training samples: "
                f"an epoch would have no step. Give batch_size={samples} or less."
            )
        unit = parts * (micro or 1)
        if micro is not None and micro > batch:
            raise SettingsError(
                f"micro_batch_size={micro} is more than batch_size={batch}. "
                f"Give micro_batch_size={batch} or less, or leave it out."
            )
        if batch % unit:
            each = f"micro-batches of {micro} on {_machines(parts)}" if micro else _machines(parts)
            raise SettingsError(
                f"batch_size={batch} cannot be split evenly over {each}: it must be a multiple "
                f"of {unit}. The nearest sizes that fit: {_multiples(batch, unit, samples)}."
            )
        return cls(
            seed=hparams.seed,
            epochs=hparams.epochs,
            samples=samples,
            batch_size=batch,
            micro_batch_size=micro or batch // parts,
            processes=processes,
            devices=devices,
        )

    def in_parts_of(self, most: int) -> "Plan":
        """The same plan in the largest micro-batches of at most `most` samples."""
        whole = self.batch_size // (self.processes * self.devices)
        size = next(size for size in range(min(most, whole), 0, -1) if whole % size == 0)
        return replace(self, micro_batch_size=size)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the samples left over differ from epoch to epoch."""
        return self.samples // self.batch_size

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def micro_batches(self) -> int:
        """Micro-batches in one step, over all processes and devices."""
        return self.batch_size // self.micro_batch_size

    @property
    def accumulation(self) -> int:
        """Forward passes of one process in one step."""
        return self.micro_batches // (self.processes * self.devices)

    def progress(self, step: int) -> float:
        """How far the run is in the middle of this step: in (0, 1)."""
        return (step + 0.5) / self.total_steps

    def batch(self, step: int) -> Int64s:
        """The samples of one step: int64, shape (batch_size,)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.samples)
        return order[place * self.batch_size : (place + 1) * self.batch_size].copy()

    def tickets(self, start: int = 0, process: int = 0) -> Iterator[Ticket]:
        """What one process computes, from step `start` to the end of the run."""
        steps, size = self.steps_per_epoch, self.batch_size
        stride, samples = self.processes * self.devices, self.devices * self.micro_batch_size
        most = max(1, _BLOCK // size)
        numbers = range(process * self.devices, self.micro_batches, stride)
        for epoch in range(start // steps, self.epochs):
            order = _order(self.seed, epoch, self.samples)
            if epoch + 1 < self.epochs:  # the next one beside training: it takes 0.1 us a sample
                next_order = (self.seed, epoch + 1, self.samples)
                threading.Thread(target=_order, args=next_order, daemon=True).start()
            for first in range(max(0, start - epoch * steps), steps, most):
                # A copy, since a source may write to its index; of many steps, since it is cheaper.
                block = order[first * size : min(first + most, steps) * size].copy()
                parts = block.reshape(-1, len(numbers) * stride // self.devices, samples)
                for step, part in enumerate(parts, epoch * steps + first):
                    for number in numbers:
                        yield Ticket(step, epoch, number, part[number // self.devices])

    def steps(self, duration: str) -> int:
        """A duration in steps, at least 1: `200`, `1 epoch`, `0.5 epochs`, `5 %` of the run."""
        number, unit = parse(duration)
        scale = {"step": 1.0, "epoch": self.steps_per_epoch, "%": self.total_steps / 100}[unit]
        return max(1, round(number * scale))


class Seeds:
    """`rng.torch_seed` for the micro-batches of tickets, for hundreds of steps at once: a tenth of
    the time, where tickets come in order."""

    def __init__(self, plan: Plan, *purpose: int) -> None:
        """`purpose`: words after the step and the number of the micro-batch."""
        self._plan, self._purpose = plan, purpose
        self._stride = plan.processes * plan.devices
        self._steps = max(1, _SEEDS // (plan.accumulation * plan.devices))
        self._first = -1
        self._table: list[list[list[int]]] = []

    def __call__(self, ticket: Ticket) -> list[int]:
        """One seed for each micro-batch of the ticket: the same on any number of processes."""
        step = ticket.step - self._first
        if not 0 <= step < len(self._table):
            self._look_ahead(ticket)
            step = 0
        return self._table[step][ticket.number // self._stride]

    def _look_ahead(self, ticket: Ticket) -> None:
        plan, self._first = self._plan, ticket.step
        steps = np.arange(self._steps, dtype=np.int64)[:, None, None] + ticket.step
        passes = np.arange(plan.accumulation, dtype=np.int64)[:, None] * self._stride
        devices = np.arange(plan.devices, dtype=np.int64) + ticket.number % self._stride
        bits = rng.bits(plan.seed, rng.TORCH, steps, passes + devices, *self._purpose)
        self._table = (bits >> np.uint64(1)).tolist()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, samples: int) -> Int64s:
    return rng.order(seed, epoch, samples)


def _machines(parts: int) -> str:
    return "1 process" if parts == 1 else f"{parts} processes or devices"


def _multiples(size: int, unit: int, most: int) -> str:
    below, above = size // unit * unit, (size // unit + 1) * unit
    fits = [str(number) for number in (below, above) if 0 < number <= most]
    return " and ".join(fits) or f"none (there are only {most} samples)"
