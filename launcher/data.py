"""Batches, where they come from, and how they reach the model.

A source hands out whole micro-batches by sample number. Nothing is shuffled, cached or drawn here:
the plan says which samples, `SampleRng` says what happens to them, so that the same ticket is the
same batch in every process.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from launcher.errors import RecipeError
from launcher.plan import Plan, Ticket
from launcher.rng import Int64s, SampleRng

Batch = dict[str, Tensor]
"""Tensors whose first dimension is the sample: `image` (uint8 or float, N x C x H x W) and `label`
(int64, N), or `target` (float32) for regression."""

Transform = Callable[[Batch, SampleRng], Batch]
Prepare = Callable[[Batch], Batch]


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


def assemble(
    data: Data, split: Split, index: Int64s, rng: SampleRng, device: torch.device
) -> Batch:
    """One micro-batch, ready for the model: gathered, moved, transformed, prepared."""
    batch = split.source[index]
    if device.type != "cpu":
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    if split.transform is not None:
        batch = _checked(split.transform(batch, rng), "a transform", len(index))
    return _checked(data.prepare(batch), "Data.prepare", len(index))


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
    before: Callable[[Ticket], None] | None = None,
) -> Iterator[tuple[Ticket, Batch]]:  # fmt: skip
    """The training micro-batches of one process, from step `start` to the end of the run.

    `before` is called with each ticket before its batch is made: to seed the generators of
    transforms that do not draw from `SampleRng`.
    """
    for ticket in plan.tickets(start, process):
        if before is not None:
            before(ticket)
        rng = SampleRng(plan.seed, ticket.epoch, ticket.samples)
        yield ticket, assemble(data, data.train, ticket.samples, rng, device)
