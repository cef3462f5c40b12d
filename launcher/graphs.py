"""Both passes of a micro-batch as one CUDA graph: recorded once, then started by a single call.

A small model's kernels are shorter than the time it takes to start them one by one. What is
recorded reads its batch from tensors that stay, and adds to gradients that stay; dropout draws by
the generator's seed of the moment, which a graph reads anew in each replay. The optimizer is apart,
since learning rates are numbers of the host.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        self._compute = compute
        self._batch = {name: value.clone() for name, value in batch.items()}
        self._parameters = [p for p in parameters if p.requires_grad]
        self._gradients = [torch.zeros_like(p) for p in self._parameters]
        self._attach()
        self._play, self._loss = record(lambda: compute(self._batch))
        self.forget()

    def __call__(self, batch: Batch) -> Tensor:
        """Add the gradients of a micro-batch; its loss."""
        self.take(batch)
        self._play()
        return self._loss.clone()

    def take(self, batch: Batch) -> None:
        """Put a micro-batch where recordings read it."""
        for name, kept in self._batch.items():
            kept.copy_(batch[name], non_blocking=True)

    @contextmanager
    def fresh(self) -> Iterator[Tensor]:
        """The loss of the batch that was taken; its gradients, for as long as this is entered, are
        tensors of their own, so that nothing was added up: for another recording."""
        for parameter in self._parameters:
            parameter.grad = None
        try:
            yield self._compute(self._batch)
        finally:
            self._attach()

    def _attach(self) -> None:
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

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
    return record_once(function)


def record_once(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record what was called before: nothing is computed now."""
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*CUDA Graph is empty")  # an error says more
        # Threads that copy batches ahead or write a checkpoint go on with what they do.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = function().detach()
    return graph.replay, result
