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
    """The buffers of a model over the micro-batches of a step.

    Buffers are looked up by name each time, since a module may put a new tensor in an old one's
    place. What is averaged is the change, so that a buffer that does not change keeps its bits.
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
        self._changes: dict[str, Tensor] = {}
        self._infinite: set[str] | None = None

    def begin_step(self) -> None:
        """Remember the values that every micro-batch starts from."""
        if self._needed:
            self._first = {name: b.clone() for name, b in self._model.named_buffers()}
            self._changes = {
                name: torch.zeros_like(b)
                for name, b in self._first.items()
                if b.is_floating_point() or b.is_complex()
            }
            if self._infinite is None:  # looked at once, since a device has to be waited for
                self._infinite = {n for n in self._changes if self._first[n].isinf().any()}

    def begin_pass(self) -> None:
        if self._needed:
            self.undo()

    @torch.no_grad()
    def undo(self) -> None:
        """Set every buffer to the step's first value."""
        for name, buffer in self._model.named_buffers():
            buffer.copy_(self._first[name])

    def end_pass(self) -> None:
        if self._needed:
            with torch.no_grad():
                now, infinite = dict(self._model.named_buffers()), self._infinite or ()
                for name, change in self._changes.items():
                    first = self._first[name]
                    moved = now[name] - first
                    if name in infinite:  # as a mask: minus infinity less itself is NaN
                        moved.masked_fill_(now[name] == first, 0)
                    change += moved

    def end_step(self, total: Total | None) -> None:
        """Set the buffers to the mean; `total` is the sum of a tensor over all processes."""
        if self._changes:
            self._set_mean(total)

    @torch.no_grad()
    def _set_mean(self, total: Total | None) -> None:
        real = {
            name: torch.view_as_real(change) if change.is_complex() else change
            for name, change in self._changes.items()
        }
        flat = torch.cat([change.flatten() for change in real.values()])
        flat = (flat if total is None else total(flat)) * self._share
        parts = torch.split(flat, [change.numel() for change in real.values()])
        now = dict(self._model.named_buffers())
        for (name, change), part in zip(real.items(), parts, strict=True):
            change.copy_(part.view_as(change))
            now[name].copy_(self._first[name] + self._changes[name])
