"""Sources whose samples are made one by one: files that are decoded, any torch Dataset.

A sample may draw random numbers, as torchvision's transforms do, from the generators that every
program shares: torch's, Python's and numpy's. Here each sample finds them seeded by its own
number, so that its draws do not depend on the batch, the process or the worker that it is made in.
"""

import random
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from launcher import generators
from launcher.data import Batch
from launcher.errors import DataError, LauncherError, listed
from launcher.rng import DECODE, TORCH, Int64s, bits

_BLOCK: Final = 256


class Decoded(ABC):
    """A source whose samples are made one by one; `decode` makes a batch of them."""

    classes: tuple[str, ...] | None
    """Names of the labels 0, 1, ...; None for regression."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one image or input, channels first."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of the content: equal for equal samples, wherever they lie."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, number: int) -> Any:
        """Sample `number`, from 0: what `collate` takes. Usually a dict of tensors without the
        batch dimension."""

    @abstractmethod
    def where(self, number: int) -> str:
        """The file or the name of a sample, for messages."""

    def collate(self, samples: Sequence[Any]) -> Batch:
        """One batch of samples. Here: each tensor stacked, labels as int64."""
        names = samples[0].keys()
        batch = {name: stacked([sample[name] for sample in samples]) for name in names}
        return {key: value.long() if key == "label" else value for key, value in batch.items()}

    def labels(self) -> Tensor:
        """All labels: int64, (N,). Here they are known only by making all samples, once."""
        return self._labels

    @cached_property
    def _labels(self) -> Tensor:
        index: Int64s = np.arange(len(self), dtype=np.int64)
        blocks = np.split(index, range(_BLOCK, len(index), _BLOCK))
        return torch.cat([decode(self, block, 0)["label"] for block in blocks])

    def draw(self, index: Int64s, seed: int, *words: int) -> Batch:
        """A batch whose draws depend on the seed, the words and each sample alone: `decode`."""
        return decode(self, index, seed, *words)

    def __getitem__(self, index: Int64s) -> Batch:
        """The samples as under seed 0: what does not draw is the same under every seed."""
        return decode(self, index, 0)


def decode(source: Decoded, index: Int64s, seed: int, *words: int) -> Batch:
    """The samples of `index` (int64, shape (samples,)) as one batch on the host.

    Before each sample torch's generator for the CPU, Python's `random` and numpy's global generator
    are seeded by (seed, words, the sample's number): give the epoch as a word. Afterwards they are
    as they were. Raises DataError for a sample that cannot be made, with its number and its file,
    and IndexError for a number that there is not.
    """
    if (wrong := index[(index < 0) | (index >= len(source))]).size:
        raise IndexError(f"there is no sample {wrong[0]} among {len(source)}")
    with generators_kept():
        drawn = bits(seed, TORCH, DECODE, *words, index) >> np.uint64(1)
        made = zip(index.tolist(), drawn.tolist(), strict=True)
        samples = [_made(source, number, own) for number, own in made]
        try:
            return source.collate(samples)
        except DataError as error:
            shown = listed(map(int, index), 32)
            raise DataError(
                f"samples {shown} ({source.where(int(index[0]))} ...): {error}"
            ) from error


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Tensors as one, with the sample as its first dimension, as `torch.stack` makes it.

    In a loader process it lies in memory that the training process sees: nothing is copied again.
    """
    shape, dtype = parts[0].shape, parts[0].dtype
    if any(part.shape != shape or part.dtype != dtype for part in parts):
        return torch.stack([*parts])  # of one type in the end, or an error
    room = torch.empty(0, dtype=dtype)
    if get_worker_info() is not None:
        size = len(parts) * shape.numel() * dtype.itemsize
        shared = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
        room = torch.empty(0, dtype=dtype).set_(shared)
    room.resize_(len(parts), *shape)
    if dtype != torch.uint8:
        return torch.stack([*parts], out=room)
    pixels = room.numpy()
    for place, part in enumerate(parts):  # in half of torch's time, where channels come last
        pixels[place] = part.numpy()
    return room


def _made(source: Decoded, number: int, drawn: int) -> Any:
    torch.default_generator.manual_seed(drawn)
    generators.seed(drawn)
    try:
        return source.sample(number)
    except MemoryError:
        raise
    except Exception as error:
        raise _refusal(source, number, error) from error


def _refusal(source: Decoded, number: int, error: Exception) -> DataError:
    """What went wrong with one sample; a refusal of ours has said it in a sentence already."""
    text = str(error) if isinstance(error, LauncherError) else f"{type(error).__name__}: {error}"
    refusal = DataError(
        f"sample {number} ({source.where(number)}) cannot be made: {text.rstrip('.')}."
    )
    if not isinstance(error, LauncherError | OSError):  # perhaps the transform's own mistake
        frames = traceback.extract_tb(error.__traceback__)
        refusal.frames = "".join(traceback.format_list(frames[1:]))
    return refusal


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave torch's generator for the CPU, Python's and numpy's as they were: dropout draws from
    the first of them, and must not notice where the samples of its batch were made."""
    ours: Tensor = torch.default_generator.get_state()
    pythons, numpys = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(ours)
        random.setstate(pythons)
        np.random.set_state(numpys)
