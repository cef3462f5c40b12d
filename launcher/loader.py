"""Loader processes for sources that decode: torch's DataLoader, over whole micro-batches.

One pass for the whole run, in the order of the tickets, whatever the number of workers: no pause at
an epoch's end, and the same batches. A worker's draws are seeded for each sample, so it does not
matter which one makes it. What goes wrong in a worker comes back as a DataError with the sample,
the file and the worker's traceback.

A forked worker has the source already. One that is spawned gets the recipe's path, its hash and the
hyperparameters as JSON and calls `recipe.data` itself: nothing of a recipe is pickled.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch.utils.data import DataLoader

from launcher import recipe, settings, sources, storage
from launcher.data import Batch, Drawn, Source, Task, gathered
from launcher.errors import DataError, LauncherError
from launcher.parent import die_with_parent

PREFETCH: Final = 2
"""Micro-batches that each worker makes ahead."""
_SHARED: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Origin:
    """How a worker that was spawned makes its source."""

    path: Path
    sha256: str
    hparams: str
    """As JSON."""
    data_dir: Path
    part: Literal["train", "test"]

    def source(self) -> Drawn:
        """The source anew. Raises DataError when the recipe is not the one the run began with."""
        loaded = recipe.load(self.path)
        if loaded.sha256 != self.sha256:
            raise DataError(f"{self.path} was changed while the run was going on.")
        sources.data_dir.set(self.data_dir)
        hparams = settings.from_json(loaded.recipe.hparams, self.hparams)
        data = loaded.recipe.data(hparams)
        source = (data.train if self.part == "train" else data.test).source
        assert isinstance(source, Drawn), "it was when the run began"
        return source


@dataclass(frozen=True)
class _Failure:
    """What went wrong in a worker, as text: an exception might not survive the way."""

    problems: tuple[str, ...]
    frames: str


class _Maker:
    """What a worker has: it makes the micro-batch of a task."""

    def __init__(self, source: Drawn, origin: Origin, seed: int) -> None:
        self._source: Drawn | None = source
        self._origin = origin
        self._seed = seed

    def __getstate__(self) -> dict[str, Any]:
        return {"_source": None, "_origin": self._origin, "_seed": self._seed}

    def __getitem__(self, task: Task) -> Batch | _Failure:
        try:
            if self._source is None:
                self._source = self._origin.source()
            return self._source.draw(task.samples, self._seed, *task.words)
        except Exception as error:
            problems = error.problems if isinstance(error, LauncherError) else (repr(error),)
            return _Failure(problems, "".join(traceback.format_exception(error)))


class _Tasks:
    """A sampler whose order is given anew for each pass."""

    def __init__(self) -> None:
        self.now: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.now)


class _Quiet(DataLoader[Any]):
    def check_worker_number_rationality(self) -> None:
        """Whether more workers than cores help is for the tuner to say: no warning."""


class Loader:
    """Makes the micro-batches of one split, in this process or in workers that stay."""

    def __init__(
        self, source: Source, origin: Origin, seed: int, workers: int, *, timeout: float = 600.0,
        prefetch: int = PREFETCH, pin: bool = False, start_method: str | None = None,
    ) -> None:  # fmt: skip
        """`workers` processes, or none for 0 and for sources in memory; `timeout` in seconds for
        one micro-batch; `pin`: in memory that a GPU copies from without waiting."""
        self._source, self._seed = source, seed
        self._timeout = timeout
        self._tasks = _Tasks()
        self._loader: DataLoader[Any] | None = None
        if workers and isinstance(source, Drawn):
            way = start_method or multiprocessing.get_start_method()
            # A fork server stands between, and ends when this process does.
            parent = None if way == "forkserver" else os.getpid()
            self._loader = _Quiet(
                _Maker(source, origin, seed),  # type: ignore[arg-type]
                batch_size=None,
                sampler=self._tasks,
                num_workers=workers,
                prefetch_factor=prefetch,
                persistent_workers=True,
                pin_memory=pin,
                timeout=timeout,
                worker_init_fn=partial(_begin_worker, parent),
                generator=torch.Generator(),  # its own: the global one is not to be drawn from
                multiprocessing_context=start_method,
            )
        self.workers = workers if self._loader is not None else 0

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Batch]:
        """The micro-batches of some tasks, in order. Raises DataError."""
        if self._loader is None:
            yield from gathered(self._source, tasks, self._seed)
            return
        self._tasks.now = tasks
        try:
            for batch in self._loader:
                if isinstance(batch, _Failure):
                    error = DataError(*batch.problems)
                    error.frames = batch.frames
                    raise error
                yield batch
        except RuntimeError as error:
            raise worker_error(error, self._timeout) from error

    def close(self) -> None:
        """End the workers: they ignore SIGTERM, which torch would send them."""
        iterator = getattr(self._loader, "_iterator", None)
        self._loader = None
        if iterator is None:
            return
        with _deaths_unnoticed():
            for worker in iterator._workers:
                worker.kill()
            for worker in iterator._workers:
                worker.join()
            del iterator, worker  # torch cleans up when its iterator goes, here and not later


@contextmanager
def _deaths_unnoticed() -> Iterator[None]:
    """Torch takes SIGCHLD and raises, wherever the main thread is, when a worker was killed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def worker_error(error: RuntimeError, timeout: float) -> Exception:
    """A DataError for what torch says of its workers; anything else as it is."""
    text = str(error)
    if "DataLoader timed out" in text:
        return DataError(
            f"no loader process gave a batch within {timeout:g} seconds (timeout=): it hangs, or "
            f"is too slow. workers=0 loads in the training process and shows where."
        )
    if "DataLoader worker" not in text:
        return error
    if "shared memory" in text or "bus error" in text.lower():
        return DataError(
            f"a loader process found no shared memory: {_SHARED} has {_free() / 1e6:,.0f} MB left. "
            f"Enlarge it (docker run --shm-size=8g), or give fewer workers=."
        )
    words = text.splitlines()[0].rstrip(".")
    return DataError(
        f"a loader process ended: {words}. It was killed, perhaps for want of memory: give fewer "
        f"workers=. The same command continues from the last checkpoint."
    )


def check_shared_memory(batch: Batch, workers: int, prefetch: int = PREFETCH) -> None:
    """Raises DataError when the micro-batches that workers make ahead would not fit."""
    needed = sum(value.nbytes for value in batch.values()) * workers * (prefetch + 1)
    if workers and _SHARED.is_dir() and _free() < needed:
        raise DataError(
            f"{workers} loader processes need about {needed / 1e6:,.0f} MB of shared memory, and "
            f"{_SHARED} has {_free() / 1e6:,.0f} MB left. Enlarge it (docker run --shm-size=8g), "
            f"or give fewer workers=."
        )


def _free() -> int:
    return storage.free(_SHARED)


def _begin_worker(parent: int | None, number: int) -> None:
    """Signals are the training process's to obey; without it a worker has nothing to live for."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL, parent)
