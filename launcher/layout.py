"""How a network's convolutions lie in memory, and who computes them.

The numbers are the same but for rounding; the time is not. LeNet on two cores takes 0.81 of the
time of a step of 128 images with channels last, and 0.79 of that of 4 images on one core when
oneDNN, whose preparation takes longer than such convolutions, is left out (docs/speed.md).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Literal

import torch
from torch import nn

Layout = Literal["contiguous", "channels_last", "native"]

FEW_IMAGES: Final = 4
"""Micro-batches of at most so many are small."""
SMALL: Final = 100_000
"""Parameters of a network whose convolutions of few images are short."""
LARGE: Final = 4_000_000
"""Parameters above which a GPU is taken to compute for longer than it waits for the host: with up
to so many it replays what was recorded, with more another layout pays."""


def choose(
    asked: Layout | Literal["auto"], model: nn.Module, device: torch.device, threads: int,
    micro_batch_size: int,
) -> Layout:  # fmt: skip
    """The layout that is asked for; `auto` chooses by sizes, never by a clock, so that the same
    command gives the same bits."""
    if asked != "auto":
        return asked
    if not any(isinstance(part, nn.Conv2d) for part in model.modules()):
        return "contiguous"
    if device.type == "cpu":
        alone = threads == 1 and tiny(model, micro_batch_size)
        return "native" if alone else "channels_last"
    return "channels_last" if device.type == "cuda" and size(model) > LARGE else "contiguous"


def tiny(model: nn.Module, micro_batch_size: int) -> bool:
    """Whether a pass is so short that a second thread takes longer than it helps."""
    return micro_batch_size <= FEW_IMAGES and size(model) <= SMALL


def arrange(model: nn.Module, layout: Layout) -> list[nn.Parameter]:
    """Put the filters in channels-last memory if that is the layout. Returns those that lay
    otherwise before: what a recipe arranged itself, and what shares its memory with another tensor
    of the model, stays as it is."""
    if layout != "channels_last":
        return []
    tensors = {t for t in (*model.parameters(), *model.buffers()) if t.layout == torch.strided}
    users = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors)
    moved = []
    for weight in _filters(model):
        arranged = weight.data.to(memory_format=torch.channels_last)
        alone = users[weight.untyped_storage().data_ptr()] == 1
        # By strides: filters of one channel or one pixel are in both orders, and count as the last.
        if alone and weight.is_contiguous() and weight.stride() != arranged.stride():
            weight.data = arranged
            moved.append(weight)
    return moved


def _filters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The four-dimensional parameters of its two-dimensional convolutions."""
    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            yield from (parameter for parameter in part.parameters() if parameter.ndim == 4)


def restore(filters: Iterable[nn.Parameter]) -> None:
    """Put those that `arrange` moved where they lay before: a network or a loss needs them so, or
    another layout was chosen."""
    for weight in filters:
        weight.data = weight.data.to(memory_format=torch.contiguous_format)


def computing(layout: Layout) -> AbstractContextManager[None]:
    """For training passes."""
    return _without_onednn() if layout == "native" else _AS_IT_IS


@contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before[0])  # type: ignore[no-untyped-call]


_AS_IT_IS: Final = nullcontext()


def size(model: nn.Module) -> int:
    """Its parameters, each counted once."""
    return sum(p.numel() for p in model.parameters())
