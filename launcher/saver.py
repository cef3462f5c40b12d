"""Checkpoints written beside training: the loop waits for a copy of the tensors, not for the disk.

One save is under way at a time. What it met is said at once by the thread and acted upon where all
processes meet: at the next save, or at the end. A disk that refuses is tolerated in the middle of a
run, since the older checkpoint is intact and the next save tries again; three times in a row, or
for the last checkpoint, is an error.
"""

import os
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final

from launcher import alike, checkpoint, storage
from launcher.errors import LauncherError, StorageError
from launcher.guard import not_finite
from launcher.record import Record
from launcher.screen import Screen
from launcher.slots import group_changes
from launcher.snapshot import Host, Snapshot
from launcher.state import State
from launcher.trained import Trained

NICE: Final = 10
"""Priority of the thread that writes: training goes first where cores are few."""
MOST_MISSES: Final = 3
"""Saves in a row that may fail for the disk, before the run stops."""


class Saver:
    """Writes the run's checkpoints; only the main process, which has a `record`, touches a disk."""

    def __init__(self, parts: Trained, record: Record | None, screen: Screen) -> None:
        self.record = record
        self._parts = parts
        self._screen = screen
        self._host = Host()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._misses = 0
        self._warned = False

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._thread is not None:  # what is under way gets durable, whatever ended training
            self._thread.join()

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, state: State) -> None:
        """Begin to write the checkpoint of a step, after the one before is durable. A collective.

        Raises what the one before met: NonFiniteError, or StorageError when there were too many;
        and what `check` does.
        """
        self._parts.world.on_main(lambda: self._settle(last=False))
        self.check(state.step)
        state.scaler = self._parts.world.scaler()
        state.groups = group_changes(self._parts.optimizer, self._parts.groups)
        if self.record is None:
            return
        parts = self._parts
        average = parts.average.tensors if parts.average else None
        snapshot = self._host.take(state.step, parts.model, parts.optimizer, vars(state), average)
        best = [] if state.best is None else [state.best["step"]]
        self._error = None
        self._thread = threading.Thread(
            target=self._write, args=(self.record, snapshot, best), name="saver", daemon=True
        )
        self._thread.start()

    def check(self, step: int) -> None:
        """Look for what a checkpoint would lose after `step` steps. A collective. Raises what
        `Kept.check` and `alike.refuse_differences` do, on every process."""
        self._parts.world.on_main(self._check)
        alike.refuse_differences(self._parts.world, self._parts.model, step)

    def _check(self) -> int:
        self._parts.kept.check()
        return 0

    def finish(self) -> None:
        """Wait for the last save. A collective. Raises what it met, on every process."""
        self._parts.world.on_main(lambda: self._settle(last=True))

    def _settle(self, *, last: bool) -> int:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if isinstance(error, StorageError) and not last and self._misses < MOST_MISSES:
            return 0
        if error is not None:
            raise error
        return 0

    def _write(self, record: Record, snapshot: Snapshot, best: list[int]) -> None:
        """On the thread: look, write, make durable, say so, and remove older ones."""
        step = snapshot.step
        if sys.platform.startswith("linux"):  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            if not snapshot.is_finite():
                raise not_finite(self._parts.plan, step - 1)
            record.sync()
            checkpoint.write(record.folder, snapshot)
        except StorageError as error:
            self._misses += 1
            self._error = error
            self._screen.line(_missed(record, snapshot, error))
            return
        except BaseException as error:
            self._error = error
            return
        self._misses = 0
        self._screen.committed(step)
        try:
            record.status("running", step=step, committed=step)
            checkpoint.prune(record.folder, self._parts.settings.keep, pinned=[*best, step])
        except LauncherError as error:  # the new checkpoint is there; older ones take some room
            if not self._warned:
                self._screen.line(f"warning: {error} Training goes on.")
            self._warned = True
        except BaseException as error:
            self._error = error


def _missed(record: Record, snapshot: Snapshot, error: StorageError) -> str:
    room = ""
    with suppress(StorageError):
        free = storage.free(record.folder)
        room = f" It has {snapshot.nbytes / 1e6:,.1f} MB; {free / 1e6:,.1f} MB are free."
    return (
        f"warning: the checkpoint of step {snapshot.step} was not written: {error}{room} Earlier "
        f"ones are intact, and the next save tries again."
    )
