"""What happened since the last line of metrics: loss, throughput, time spent waiting for data."""

import time
from collections.abc import Callable

import torch
from torch import Tensor


class Meter:
    """Sums over an interval. The loss stays on the device; only `loss` waits for it."""

    def __init__(
        self, device: torch.device, total: Callable[[Tensor], Tensor] | None, before: float
    ) -> None:
        """`before` is the training time of earlier attempts, in seconds."""
        # Exact to the last bit of the sum of float32 losses, wherever the device has float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sum = torch.zeros((), dtype=dtype, device=device)
        self._count = 0
        self._total = total
        self._begun = time.monotonic() - before
        self._since = time.monotonic()
        self._samples = 0
        self._aside = 0.0
        self._first = True
        self.waited = 0.0

    def add(self, loss: Tensor) -> None:
        """One micro-batch's mean loss."""
        self._sum += loss.detach()
        self._count += 1

    def seconds(self) -> float:
        """Since the run began, over all its attempts."""
        return time.monotonic() - self._begun

    def stepped(self, samples: int) -> None:
        """One optimizer step over all processes is done."""
        self._samples += samples

    def set_aside(self, seconds: float) -> None:
        """Time that was spent on something else than training steps."""
        self._aside += seconds

    def restore(self, loss_sum: float, count: int) -> None:
        """Continue an interval in which a checkpoint was written."""
        self._sum += loss_sum
        self._count += count

    def loss(self) -> tuple[float, int]:
        """Sum and count of the interval's losses over all processes. A collective, and the one
        place where the host waits for the device between two lines of metrics."""
        both = torch.stack([self._sum, torch.full_like(self._sum, self._count)])
        loss_sum, count = (both if self._total is None else self._total(both)).tolist()
        return loss_sum, int(count)

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
        self._sum.zero_()
        self._count = 0
        self._restart_pace()

    def _restart_pace(self) -> None:
        self._since = time.monotonic()
        self._samples = 0
        self._aside = 0.0
        self.waited = 0.0
