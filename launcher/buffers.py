"""Batch norm's running averages, independent of how a batch is split.

A module's buffers change in every forward pass, each pass from where the last one ended, in each
process from its own samples. Here all micro-batches of a step start from the step's first values,
and the step ends with the mean over all of them, on every process. One micro-batch a step needs
nothing of this.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]


class StepAverage:
    """The buffers of a model over the micro-batches of a step.

    Buffers are looked up by name each time, since a module may put a new tensor in an old one's
    place. What is averaged is the change, so that a buffer that does not change keeps its bits; of
    an element that begins the step as infinity, as a running minimum does before anything was seen,
    it is the new value, since infinity less itself is no number.
    """

    def __init__(
        self, model: nn.Module, passes: int, processes: int, *, remember: bool = False
    ) -> None:
        """`passes` forward passes of this process in a step, on each of `processes`; `remember`
        what `undo` needs even where one pass needs nothing."""
        self._model = model
        self._needed = (remember or passes * processes > 1) and any(True for _ in model.buffers())
        self._share = 1 / (passes * processes)
        self._first: dict[str, Tensor] = {}
        self._kinds: list[list[str]] | None = None
        """The names of the buffers of each type that has means."""
        self._bases: list[Tensor] = []
        """What their changes are counted from: for each type all elements in a row."""
        self._changes: list[Tensor] = []
        """The sums of these, which are as long."""

    def begin_step(self) -> None:
        """Remember the values that every micro-batch starts from."""
        if self._needed:
            self._first = {name: b.clone() for name, b in self._model.named_buffers()}
            if self._kinds is None:
                self._kinds = _kinds(self._first)
            # Of all elements, and not of those that are infinite: to know these, a device has to be
            # waited for.
            rows = self._rows(self._first)
            self._bases = [torch.nan_to_num(row, torch.nan, 0.0, 0.0) for row in rows]
            self._changes = []

    def begin_pass(self) -> None:
        if self._needed:
            self.undo()

    @torch.no_grad()
    def undo(self) -> None:
        """Set every buffer to the step's first value."""
        now = dict(self._model.named_buffers())
        torch._foreach_copy_([*now.values()], [self._first[name] for name in now])

    def end_pass(self) -> None:
        if self._bases:
            with torch.no_grad():
                rows = self._rows(dict(self._model.named_buffers()))
                moved = [row - base for row, base in zip(rows, self._bases, strict=True)]
                for change, part in zip(self._changes, moved, strict=False):
                    change += part
                self._changes = self._changes or moved

    def end_step(self, total: Total | None) -> None:
        """Set the buffers to the mean; `total` is the sum of a tensor over all processes."""
        if self._changes:
            self._set_mean(total)

    def _rows(self, buffers: Mapping[str, Tensor]) -> list[Tensor]:
        """For each type all its elements, to be read."""
        return [_row([_real(buffers[name]) for name in names]) for names in self._kinds or ()]

    @torch.no_grad()
    def _set_mean(self, total: Total | None) -> None:
        row = torch.cat(self._changes) if len(self._changes) > 1 else self._changes[0]
        row = (row if total is None else total(row)) * self._share
        means = torch.split(row, [change.numel() for change in self._changes])
        now = dict(self._model.named_buffers())
        for base, mean, names in zip(self._bases, means, self._kinds or (), strict=True):
            places = [_real(now[name]) for name in names]
            parts = torch.split(base + mean.to(base.dtype), [place.numel() for place in places])
            torch._foreach_copy_(places, [*map(Tensor.view_as, parts, places)])


def _kinds(buffers: Mapping[str, Tensor]) -> list[list[str]]:
    kinds: dict[torch.dtype, list[str]] = {}
    for name, value in buffers.items():
        if value.is_floating_point() or value.is_complex():
            kinds.setdefault(value.dtype, []).append(name)
    return [*kinds.values()]


def _row(values: list[Tensor]) -> Tensor:
    """Of one tensor no copy: it may be long, as a queue is."""
    return values[0].flatten() if len(values) == 1 else torch.cat([v.flatten() for v in values])


def _real(value: Tensor) -> Tensor:
    """The same memory as real numbers."""
    return torch.view_as_real(value) if value.is_complex() else value
