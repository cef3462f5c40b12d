"""Mechanisms switched off, one at a time: what the torture must notice.

A torture that finds nothing is worth what it would have found. Each function here changes the
launcher in the nursery, before the first fork; it fails when what it changes is not there any more.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from launcher import checkpoint, plan, screen, storage
from launcher.snapshot import Snapshot


def _replace(module: ModuleType | type, name: str, by: object) -> None:
    assert hasattr(module, name), f"{module.__name__} has no {name}: nothing would be switched off"
    setattr(module, name, by)


def no_optimizer_state() -> None:
    """A restore that leaves out the optimizer: momentum begins at zero again."""
    _replace(checkpoint, "put_slots", lambda slots, name_of, optimizer: None)


def seeds_by_the_clock() -> None:
    """Dropout and augmentation that draw something else in every attempt."""
    before = plan.Seeds.__call__

    def drawn(self: plan.Seeds, ticket: plan.Ticket) -> list[int]:
        return [seed ^ (time.time_ns() >> 1) for seed in before(self, ticket)]

    _replace(plan.Seeds, "__call__", drawn)


class _InPlace(storage.Disk):
    """A disk on which a checkpoint is written under its final name."""

    def open(self, path: Path, flags: int) -> int:
        return super().open(_final(path), flags)

    def mkdir(self, path: Path) -> None:
        super().mkdir(_final(path))

    def rename(self, old: Path, new: Path) -> None:
        if _final(old) != new and not new.name.startswith(".bad-"):
            super().rename(_final(old), new)

    def write(self, descriptor: int, data: memoryview) -> int:
        time.sleep(0.005)  # so that a dozen kills meet a save
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        pass


def _final(path: Path) -> Path:
    return Path(re.sub(r"\.tmp-([0-9]{12})-[0-9a-f]+", r"step-\1", str(path)))


def in_place() -> None:
    """No temporary folder, no rename, no fsync; and slowly."""
    _replace(storage, "disk", _InPlace())


def said_too_early() -> None:
    """The acknowledgement before the checkpoint is written."""
    before: Callable[..., Any] = checkpoint.write

    def write(run: Path, snapshot: Snapshot) -> None:
        screen.text(f"checkpoint step={snapshot.step} committed")
        before(run, snapshot)

    _replace(checkpoint, "write", write)


def no_tidying() -> None:
    """Unfinished folders stay."""
    _replace(checkpoint, "tidy", lambda run: None)


def from_the_start() -> None:
    """Checkpoints are written, and never found: every attempt begins at step 0."""
    _replace(checkpoint, "newest", lambda run: (None, {}))


WITHOUT: dict[str, Callable[[], None]] = {
    "optimizer": no_optimizer_state,
    "seeds": seeds_by_the_clock,
    "rename": in_place,
    "order": said_too_early,
    "tidy": no_tidying,
    "restore": from_the_start,
}
