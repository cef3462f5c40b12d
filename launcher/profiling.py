"""Some steps under torch's profiler: where the time goes, as a table and as a trace.

    launcher recipes/cifar_lenet.py --profile 20

It is a run like any other, which goes on afterwards to the end that it would have had.
The parts of a step are marked by ranges that are put around them for as long as the profile lasts;
without `--profile` nothing of this is imported, and nothing is there to pay for. The profiler
itself takes some time in every operation: shares are to be trusted more than microseconds. The
trace, profile.json in the run's folder, opens in chrome://tracing and in ui.perfetto.dev.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from launcher.data import Data, Split
from launcher.screen import Screen
from launcher.update import Update

P = ParamSpec("P")
T = TypeVar("T")

WARMUP: Final = 3
"""Steps before the first one that counts: those that allocate memory and choose algorithms."""
PARTS: Final = ("loader", "augment", "forward", "backward", "exchange", "checks", "optimizer",
                "graph")  # fmt: skip
_COLLECTIVES: Final = ("gloo:", "nccl:", "c10d::")
_PREFIX: Final = "launcher/"


@dataclass(frozen=True)
class Found:
    """Where the time of the profiled steps went."""

    steps: int
    seconds: float
    """Of all of them, on the clock."""
    parts: Mapping[str, float]
    """Seconds of each of `PARTS` on the host, and `host`: the launcher's own work, and whatever
    else is in none of them. Exchanges run beside the backward pass, in which they are counted too.
    """
    device: Mapping[str, float]
    """Seconds of kernels that each part started; empty without a GPU."""

    def rows(self) -> Iterator[tuple[str, str]]:
        """A line for each part: its time in a step, and its share."""
        for name, seconds in self.parts.items():
            if name == "graph" and not seconds:
                continue
            beside = ", beside backward" if name == "exchange" and seconds else ""
            device = f"  device {self._each(self.device[name])}" if name in self.device else ""
            share = seconds / self.seconds if self.seconds else 0.0
            yield name, f"{self._each(seconds)}  {share:>6.1%}{device}{beside}"
        yield "a step", f"{self._each(self.seconds)}  {1:>6.1%}"

    def _each(self, seconds: float) -> str:
        return f"{1e6 * seconds / self.steps:>10,.0f} us"


class Profile:
    """Profiles some steps of one process's training, once, soon after it has begun."""

    def __init__(self, steps: int, trace: Path, shown: Path, screen: Screen) -> None:
        """`steps` to look at, after a warm-up; `trace` is the file to write, in a folder that is
        there, or it is not written; `shown` is the same file as a user knows it."""
        self._asked, self._trace, self._shown, self._screen = steps, trace, shown, screen
        self._begin = self._end = -1
        self._step = 0
        self._profiler: profile | None = None
        self._began = 0.0
        self._watched: list[tuple[object, str]] = []
        self.found: Found | None = None

    def data(self, data: Data) -> Data:
        """The same data, whose augmentation is marked."""
        train, prepare = data.train, _marked("augment", data.prepare)
        transform = train.transform and _marked("augment", train.transform)
        return replace(data, train=Split(train.source, transform), prepare=prepare)

    def watch(self, micro_batches: Iterator[T], update: Update, steps: int) -> Iterator[T]:
        """Mark the parts of the steps to come, of which there are `steps`; the batches, marked.

        Says so when there are fewer than were asked for."""
        warmup = min(WARMUP, max(0, steps - self._asked), steps - 1)
        self._begin = max(0, warmup)
        self._end = min(self._begin + self._asked, steps)
        if steps < self._asked:
            self._screen.line(f"--profile {self._asked}: only {steps} steps are left to look at")
        for owner, method, name in (
            (update.passes, "forward", "forward"), (update.passes, "backward", "backward"),
            (update.guard, "before_update", "checks"), (update.guard, "after_update", "checks"),
            (update.stepper, "step", "optimizer"), (update, "replay", "graph"),
        ):  # fmt: skip
            setattr(owner, method, _marked(name, getattr(owner, method)))
            self._watched.append((owner, method))
        return _each_marked("loader", micro_batches)

    def begin_step(self) -> None:
        """A step begins, and with it or before it perhaps the profile or its end."""
        if self._step == self._begin:
            self._start()
        elif self._step == self._end:
            self.close()
        self._step += 1

    def close(self) -> None:
        """End the profile, if it is under way, write the trace and show the table."""
        if self._profiler is None:
            return
        _wait_for_the_device()
        seconds = time.perf_counter() - self._began
        self._profiler.stop()
        for owner, method in self._watched:
            delattr(owner, method)
        steps = min(self._step, self._end) - self._begin
        self.found = _found(self._profiler, steps, seconds)
        where = ""
        if self._trace.parent.is_dir():
            self._profiler.export_chrome_trace(str(self._trace))
            where = f", trace in {self._shown}"
        self._profiler = None
        self._screen.facts(f"where the time of {steps} steps went{where}", dict(self.found.rows()))

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        # To keep events is what happens anyway; some versions warn unless it is said.
        self._profiler = profile(activities=activities, acc_events=True)
        _wait_for_the_device()
        self._profiler.start()
        self._began = time.perf_counter()


def _found(profiler: profile, steps: int, seconds: float) -> Found:
    host, device = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
    for event in profiler.key_averages():
        name = event.key.removeprefix(_PREFIX)
        if event.key.startswith(_PREFIX) and "CPU" in str(event.device_type):
            host[name] += event.cpu_time_total / 1e6
            device[name] += event.device_time_total / 1e6
        elif event.key.startswith(_COLLECTIVES):
            host["exchange"] += event.cpu_time_total / 1e6
            device["exchange"] += event.device_time_total / 1e6
    host["loader"] -= host["augment"]  # which happens when the next batch is asked for
    marked = sum(value for name, value in host.items() if name != "exchange")
    parts = {"host": max(0.0, seconds - marked), **host}
    return Found(steps, seconds, parts, device if torch.cuda.is_available() else {})


def _marked(name: str, function: Callable[P, T]) -> Callable[P, T]:
    @wraps(function)
    def within(*args: P.args, **kwargs: P.kwargs) -> T:
        with record_function(f"{_PREFIX}{name}"):
            return function(*args, **kwargs)

    return within


def _each_marked(name: str, items: Iterator[T]) -> Iterator[T]:
    following: Callable[[], Any] = _marked(name, lambda: next(items, _Nothing))
    while (item := following()) is not _Nothing:
        yield item


class _Nothing:
    """What comes after the last."""


def _wait_for_the_device() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
