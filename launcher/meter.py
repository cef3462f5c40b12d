"""What happened since the last line of metrics: loss, throughput, time spent waiting for data."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Meter:
    """Sums over an interval. The loss stays on the device; only `losses` waits for it."""

    def __init__(
        self,
        device: torch.device,
        before: float = 0.0,
        process: int = 0,
        processes: int = 1,
        total: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`before` is the training time of earlier attempts, in seconds; `total` the sum of a
        tensor over all processes."""
        # Exact to the last bit of the sum of float32 losses, wherever the device has float64.
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._sum: Tensor | float = self._nothing()
        self._process, self._processes = process, processes
        self._count = 0
        self._total = total
        self._attempt = time.monotonic()
        self._begun = self._attempt - before
        self._since = time.monotonic()
        self._samples = 0
        self._aside = 0.0
        self._first = True
        self.waited = 0.0

    def add(self, loss: Tensor) -> None:
        """One micro-batch's mean loss."""
        self._sum += loss.item() if isinstance(self._sum, float) else loss.detach()
        self._count += 1

    def _nothing(self) -> Tensor | float:
        """A sum: Python's own on the host, where reading a loss is no wait and adding is cheap."""
        if self._device.type == "cpu":
            return 0.0
        return torch.zeros((), dtype=self._dtype, device=self._device)

    def seconds(self) -> float:
        """Since the run began, over all its attempts."""
        return time.monotonic() - self._begun

    def here(self) -> float:
        """Seconds since this attempt began to train."""
        return time.monotonic() - self._attempt

    def stepped(self, samples: int) -> None:
        """One optimizer step over all processes is done."""
        self._samples += samples

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; the time until each one came is noted as waiting for data."""
        while True:
            began = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            self.waited += time.perf_counter() - began
            yield item

    def set_aside(self, seconds: float) -> None:
        """Time that was spent on something else than training steps."""
        self._aside += seconds

    def restore(self, sums: Sequence[float], count: int) -> None:
        """Continue an interval in which a checkpoint was written, with what `losses` gave.

        Each process takes up its own sum, so that the additions go on in the same order; on another
        number of processes the first one takes all of them.
        """
        if len(sums) == self._processes:
            self._sum += sums[self._process]
            self._count += count // self._processes
        elif self._process == 0:
            self._sum += math.fsum(sums)
            self._count += count

    def losses(self) -> tuple[list[float], int]:
        """The interval's sum of losses of each process, and the number of losses over all. A
        collective, and the one place where the host waits for the device."""
        parts = torch.zeros(self._processes + 1, dtype=self._dtype, device=self._device)
        parts[self._process] = self._sum
        parts[-1] = self._count
        *sums, count = (parts if self._total is None else self._total(parts)).tolist()
        return sums, int(count)

    def loss(self) -> float:
        """The interval's mean loss over all processes. A collective, as `losses`."""
        sums, count = self.losses()
        return math.fsum(sums) / count

    def pace(self) -> dict[str, float]:
        """Samples per second and the share of the time that was spent waiting for data."""
        elapsed = time.monotonic() - self._since - self._aside
        if not self._samples or elapsed <= 0:
            return {"train/samples_per_s": 0.0, "train/data_wait": 0.0}
        return {
            "train/samples_per_s": self._samples / elapsed,
            "train/data_wait": min(1.0, self.waited / elapsed),
        }

    def first_step_done(self) -> None:
        """Begin the pace after an attempt's first step, which pays for start-up."""
        if self._first:
            self._first = False
            self._restart_pace()

    def restart(self) -> None:
        """Begin a new interval."""
        self._sum = self._nothing()
        self._count = 0
        self._restart_pace()

    def _restart_pace(self) -> None:
        self._since = time.monotonic()
        self._samples = 0
        self._aside = 0.0
        self.waited = 0.0
