"""Micro-batches of data in the host's memory, made ahead for a device that does not hold it.

A thread gathers them, brings them into memory that a device copies from by itself, and copies them
on a stream of its own, while the device computes. Which samples come next is read by the thread
that trains: only the source is used by the other one.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

import torch

from launcher.data import Batch, Source, Task, gathered

DEPTH: Final = 2
"""Micro-batches that are made ahead of the one that is taken."""


class _Copied(NamedTuple):
    batch: Batch
    event: torch.cuda.Event | None
    """Passed when the copy is done; None where nothing is copied."""


class Ahead:
    """Makes the micro-batches of one split for one device: a `data.Gather`."""

    def __init__(self, source: Source, device: torch.device, depth: int = DEPTH) -> None:
        """`source`: in the host's memory. On a device of another kind than CUDA they are made ahead
        too, and stay on the host."""
        self._source, self._device, self._depth = source, device, depth
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Batch]:
        """The micro-batches of some tasks, in order. Raises what the source raises, from where it
        raised it."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        waiting: deque[Future[_Copied]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(self._make, task))
                if len(waiting) > self._depth:
                    yield self._take(waiting.popleft())
            while waiting:
                yield self._take(waiting.popleft())
        finally:
            for one in waiting:  # nobody will take them
                one.cancel()

    def close(self) -> None:
        """End the thread, once it has made what it is making."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _make(self, task: Task) -> _Copied:
        batch = next(gathered(self._source, [task]))
        if self._stream is None:
            return _Copied(batch, None)
        # Pinned memory may go as soon as the copy is asked for: torch keeps it until it is done.
        with torch.cuda.stream(self._stream):
            copied = {
                name: value.pin_memory().to(self._device, non_blocking=True)
                for name, value in batch.items()
            }
            return _Copied(copied, self._stream.record_event())

    def _take(self, one: Future[_Copied]) -> Batch:
        batch, event = one.result()
        if event is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(event)
            for value in batch.values():
                value.record_stream(here)  # or its memory would be used anew while it is in use
        return batch
