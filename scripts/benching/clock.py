"""When a window began and ended, told by the ticks of a training loop."""

import resource
import time

import torch


class Clock:
    """Counts steps and notes the time after the warm-up and at the end, with the device idle."""

    def __init__(self, warmup: int, steps: int, device: torch.device) -> None:
        self._begin, self._end = warmup, warmup + steps
        self._device = device
        self._count = 0
        self._began = self._ended = 0.0
        self._used_before = self._used_after = 0.0

    @property
    def steps(self) -> int:
        """All steps that a column has to take."""
        return self._end

    @property
    def seconds(self) -> float:
        """Of the steps after the warm-up."""
        assert self._count == self._end, f"{self._count} steps of {self._end}"
        return self._ended - self._began

    @property
    def used(self) -> float:
        """Processor seconds of the same steps, in all threads."""
        return self._used_after - self._used_before

    def tick(self) -> bool:
        """A step is done. Returns whether it was the last."""
        self._count += 1
        if self._count == self._begin:
            self._began, self._used_before = self._now(), _used()
        elif self._count == self._end:
            self._ended, self._used_after = self._now(), _used()
        return self._count == self._end

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()


def _used() -> float:
    about = resource.getrusage(resource.RUSAGE_SELF)
    return about.ru_utime + about.ru_stime
