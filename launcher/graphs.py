"""Both passes of a micro-batch as one CUDA graph: recorded once, then started by a single call.

A small model's kernels are shorter than the time it takes to start them one by one. What is
recorded reads its batch from tensors that stay, and adds to gradients that stay; dropout draws by
the generator's seed of the moment, which a graph reads anew in each replay. The optimizer is apart,
since learning rates are numbers of the host.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from launcher.data import Batch

WARMUP: Final = 3
"""Passes before recording, in which libraries allocate and choose."""

Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""From a function to what plays it back, and the tensor in which its result then lies."""


class Graph:
    """Stands in the place of `Passes.compute`."""

    def __init__(
        self, compute: Callable[[Batch], Tensor], parameters: Sequence[nn.Parameter], batch: Batch,
        record: Record,
    ) -> None:  # fmt: skip
        """`compute` leaves its gradients in the parameters; `batch` is one like all that follow.

        Raises RuntimeError, as CUDA does, for what cannot be recorded: a wait of the host.
        """
        self._batch = {name: value.clone() for name, value in batch.items()}
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        self._gradients = [p.grad for p in parameters if p.grad is not None]
        self._play, self._loss = record(lambda: compute(self._batch))
        self.forget()

    def __call__(self, batch: Batch) -> Tensor:
        """Add the gradients of a micro-batch; its loss."""
        for name, kept in self._batch.items():
            kept.copy_(batch[name], non_blocking=True)
        self._play()
        return self._loss.clone()

    def forget(self) -> None:
        """Set the gradients to zero where they are."""
        torch._foreach_zero_(self._gradients)


def record(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Warm up beside, as CUDA asks for, and record. The default generator is part of it."""
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARMUP):
            function()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function().detach()
    return graph.replay, result
