"""Batch norm's running averages, independent of how a batch is split.

A module's buffers change in every forward pass, each pass from where the last one ended, in each
process from its own samples. Here all micro-batches of a step start from the step's first values,
and the step ends with the mean over all of them, on every process. One micro-batch a step needs
nothing of this.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]


class StepAverage:
    """The buffers of a model over the micro-batches of a step."""

    def __init__(self, model: nn.Module, passes: int, processes: int) -> None:
        """`passes` forward passes of this process in a step, on each of `processes`."""
        needed = passes * processes > 1
        own = list(model.buffers()) if needed else []
        self._floating = [buffer for buffer in own if buffer.is_floating_point()]
        self._counting = [buffer for buffer in own if not buffer.is_floating_point()]
        self._first: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._share = 1 / (passes * processes)

    def begin_step(self) -> None:
        """Remember the values that every micro-batch starts from."""
        if self._floating:
            self._first = [buffer.clone() for buffer in self._floating + self._counting]
            self._sums = [torch.zeros_like(buffer) for buffer in self._floating]

    @torch.no_grad()
    def begin_pass(self) -> None:
        if self._floating:
            for buffer, first in zip(self._floating + self._counting, self._first, strict=True):
                buffer.copy_(first)

    @torch.no_grad()
    def end_pass(self) -> None:
        if self._floating:
            torch._foreach_add_(self._sums, self._floating)

    @torch.no_grad()
    def end_step(self, total: Total | None) -> None:
        """Set the buffers to the mean; `total` is the sum of a tensor over all processes."""
        if not self._floating:
            return
        flat = torch.cat([part.flatten() for part in self._sums])
        flat = (flat if total is None else total(flat)) * self._share
        sizes = [buffer.numel() for buffer in self._floating]
        for buffer, mean in zip(self._floating, torch.split(flat, sizes), strict=True):
            buffer.copy_(mean.view_as(buffer))
