"""Batches, where they come from, and how they reach the model.

A source hands out whole micro-batches by sample number. Nothing is shuffled, cached or drawn here:
the plan says which samples, `SampleRng` says what happens to them, so that the same ticket is the
same batch in every process.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice, tee
from operator import attrgetter
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from launcher.errors import RecipeError
from launcher.plan import Plan, Ticket
from launcher.rng import Int64s, SampleRng

Batch = dict[str, Tensor]
"""Tensors whose first dimension is the sample: `image` (uint8 or float, N x C x H x W) and `label`
(int64, N), or `target` (float32) for regression."""

Transform = Callable[[Batch, SampleRng], Batch]
_DRAWN_AT_ONCE: Final = 1024
"""Samples: so many draws cost hardly more than one."""
_GATHERED_AT_ONCE: Final = 1 << 19
"""Bytes: what is gathered is still in the processor's cache when its turn comes."""
_MOST_AT_ONCE: Final = 64
"""Micro-batches, however small."""
_PREPARED: Final = 4
"""Times as large: pixels are bytes before they are prepared, and float32 afterwards."""
Prepare = Callable[[Batch], Batch]
"""One whose attribute `each_by_itself` is true looks at every sample alone and draws nothing, so
that several micro-batches can be prepared at once."""


class Source(Protocol):
    """Samples by number: the same numbers, the same samples."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the labels 0, 1, ...; None for regression."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image or input, channels first."""

    @property
    def fingerprint(self) -> str:
        """Of the content, as hexadecimal digits: equal for equal samples, wherever they lie."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Int64s) -> Batch:
        """A micro-batch on the source's device. The index is int64, shape (samples,)."""


@runtime_checkable
class Resident(Protocol):
    """A source in memory, which can live on the device where the model is."""

    @property
    def nbytes(self) -> int: ...
    def to(self, device: torch.device) -> Source: ...


@runtime_checkable
class Drawn(Protocol):
    """A source whose samples are made one by one, with random draws of their own."""

    def draw(self, index: Int64s, seed: int, *words: int) -> Batch:
        """A micro-batch whose draws depend on the seed, the words and each sample alone."""


@dataclass(frozen=True)
class Split:
    """A source and what is done to its micro-batches, on the device, before `Data.prepare`."""

    source: Source
    transform: Transform | None = None


def _as_it_is(batch: Batch) -> Batch:
    return batch


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a recipe learns from, and what it is tested on."""

    train: Split
    test: Split
    prepare: Prepare = _as_it_is
    """Runs on the device after every split's transform, in training, evaluation and prediction
    alike: normalisation lives here and nowhere else."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for regression."""
        return self.train.source.classes or ()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image or input, channels first."""
        return tuple(self.train.source.shape)

    def on(self, device: torch.device, *, resident: bool) -> "Data":
        """The same data with its in-memory sources on the device, if asked to and possible."""
        if not resident:
            return self
        return Data(train=_moved(self.train, device), test=_moved(self.test, device),
                    prepare=self.prepare)  # fmt: skip


def _moved(split: Split, device: torch.device) -> Split:
    if not isinstance(split.source, Resident):
        return split
    return Split(split.source.to(device), split.transform)


class First:
    """The first samples of a source."""

    def __init__(self, source: Source, samples: int) -> None:
        self.source = source
        self.samples = min(samples, len(source))
        self.classes = source.classes
        self.shape = source.shape
        self.fingerprint = f"{source.fingerprint}-{self.samples}"

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: Int64s) -> Batch:
        return self.source[index]


class Task(NamedTuple):
    """An order for one micro-batch of a source, as it is before it reaches the device."""

    samples: Int64s
    words: tuple[int, ...] = ()
    """What the draws of a per-sample transform depend on, beside the seed and the sample."""


Gather = Callable[[Iterable[Task]], Iterator[Batch]]
"""From tasks to micro-batches, in order: a `loader.Loader`, or `gathered` in this process."""


def gathered(source: Source, tasks: Iterable[Task], seed: int = 0) -> Iterator[Batch]:
    """The micro-batches of some tasks, made here and now."""
    if isinstance(source, Drawn):
        for task in tasks:
            yield source.draw(task.samples, seed, *task.words)
    elif isinstance(source, Resident):
        yield from _several(source, source.nbytes, (task.samples for task in tasks))
    else:
        for task in tasks:
            yield source[task.samples]


def _several(
    source: Source, nbytes: int, indices: Iterator[Int64s], prepare: Prepare | None = None
) -> Iterator[Batch]:
    """Micro-batches in memory, small ones several at once: most of the time that one takes passes
    before its first byte is there."""
    sample_bytes = nbytes / max(1, len(source)) * (1 if prepare is None else _PREPARED)
    for first in indices:
        most = int(_GATHERED_AT_ONCE / max(1, sample_bytes * len(first)))
        some = [first, *islice(indices, max(1, min(most, _MOST_AT_ONCE)) - 1)]
        lengths = [len(index) for index in some]
        whole = source[np.concatenate(some)]
        if prepare is not None:
            whole = _checked(prepare(whole), "Data.prepare", sum(lengths))
        if len(some) == 1:
            yield whole
            continue
        parts = {name: torch.split(part, lengths) for name, part in whole.items()}
        for number in range(len(some)):
            # `data`, so that autograd sees no view: each may be changed in place.
            yield {name: part[number].data for name, part in parts.items()}


def assemble(
    data: Data, split: Split, index: Int64s, rng: SampleRng, device: torch.device
) -> Batch:
    """One micro-batch, ready for the model: gathered, moved, transformed, prepared."""
    return finish(data, split, split.source[index], rng, device)


def finish(data: Data, split: Split, batch: Batch, rng: SampleRng, device: torch.device) -> Batch:
    """What happens to a micro-batch after it was gathered."""
    samples = len(rng)
    if device.type != "cpu":
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    if split.transform is not None:
        batch = _checked(split.transform(batch, rng), "a transform", samples)
    return _checked(data.prepare(batch), "Data.prepare", samples)


def _checked(batch: Batch, function: str, samples: int) -> Batch:
    if not isinstance(batch, dict):
        kind = type(batch).__name__
        raise RecipeError(f"{function} must return a batch, a dict of tensors; it returned {kind}.")
    for name, value in batch.items():
        if len(value) != samples:
            raise RecipeError(
                f"{function} must keep all {samples} samples; {name!r} has {len(value)}."
            )
    return batch


def feed(
    data: Data, plan: Plan, device: torch.device, *, start: int = 0, process: int = 0,
    before: Callable[[Ticket], None] | None = None, gather: Gather | None = None,
) -> Iterator[tuple[Ticket, Batch]]:  # fmt: skip
    """The training micro-batches of one process, from step `start` to the end of the run.

    `before` is called with each ticket before its batch is transformed: to seed the generators of
    transforms that do not draw from `SampleRng`. `gather` makes the batches, perhaps ahead and
    elsewhere; left out, here.
    """
    source, transform = data.train.source, data.train.transform
    ahead, tickets = tee(plan.tickets(start, process))
    together = getattr(data.prepare, "each_by_itself", False) and device.type == "cpu"
    if together and transform is None and isinstance(source, Resident):
        indices = (ticket.samples for ticket in ahead)
        yield from zip(tickets, _several(source, source.nbytes, indices, data.prepare), strict=True)
        return
    tasks = (Task(ticket.samples, (ticket.epoch,)) for ticket in ahead)
    batches = gather(tasks) if gather else gathered(source, tasks, plan.seed)
    for (ticket, rng), batch in zip(_with_draws(tickets, plan), batches, strict=True):
        if before is not None:
            before(ticket)
        yield ticket, finish(data, data.train, batch, rng, device)


def _with_draws(tickets: Iterator[Ticket], plan: Plan) -> Iterator[tuple[Ticket, SampleRng]]:
    """Every ticket and its samples' draws, which small micro-batches share the making of."""
    most = max(1, _DRAWN_AT_ONCE // (plan.micro_batch_size * plan.devices))
    for epoch, all_of_it in groupby(tickets, key=attrgetter("epoch")):
        while some := list(islice(all_of_it, most)):
            samples = [ticket.samples for ticket in some]
            rngs = SampleRng.each(plan.seed, epoch, samples, plan.devices)
            yield from zip(some, rngs, strict=True)
