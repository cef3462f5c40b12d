"""Disks that fail, die or remember, to be put in the place of `launcher.storage.disk`.

`FaultyDisk` fails at its n-th call, or ends the process there with SIGKILL. `RecordingDisk` does
what it is asked and notes it, for `power_cuts.py` to work out what a power cut would leave.
"""

import itertools
import os
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import storage
from launcher.storage import Disk

METHODS = tuple(name for name in vars(Disk) if not name.startswith("_"))


@contextmanager
def using(disk: Disk) -> Iterator[None]:
    """Everything that the launcher reads and writes goes through this disk."""
    before, storage.disk = storage.disk, disk
    try:
        yield
    finally:
        storage.disk = before


@dataclass(frozen=True)
class Fault:
    """What happens at a call: an error of the operating system, or the end of the process."""

    code: int = 0
    """The errno to fail with; 0 is SIGKILL."""
    after: bool = False
    """The call has its effect first."""
    lasting: bool = False
    """Every later call fails too, as on a disk that has become read-only."""
    short: bool = False
    """Instead of all this a write takes half, and a read finds the end of the file."""


class FaultyDisk(Disk):
    """A disk of which the n-th call of some methods has a fault."""

    def __init__(self, number: int, fault: Fault, methods: Collection[str] = METHODS) -> None:
        self.calls: list[tuple[str, str]] = []
        """Each call of these methods, with the path or descriptor it was for."""
        self.struck = False
        self._number, self._fault = number, fault
        for name in methods:
            setattr(self, name, self._faulty(name, getattr(self, name)))

    def _faulty(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            self.calls.append((name, str(given[0])))
            count = len(self.calls)
            if count != self._number and not (self._fault.lasting and count > self._number):
                return real(*given)
            self.struck = True
            if self._fault.short:
                return _short(name, real, *given)
            if self._fault.after:
                real(*given)
            if not self._fault.code:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self._fault.code, os.strerror(self._fault.code))

        return call


def _short(name: str, real: Callable[..., Any], *given: Any) -> Any:
    if name == "write":
        descriptor, data = given
        return real(descriptor, data[: (len(data) + 1) // 2])
    return b"" if name == "read" else real(*given)


# ── what was done to a folder ────────────────────────────────────────────────────────────────────

Node = int
"""A file or a folder, whatever its name: what POSIX calls an inode."""


@dataclass(frozen=True)
class Change:
    """Names of one folder that lead somewhere else at once: one creation, removal or rename."""

    folder: Node
    names: tuple[tuple[str, Node | None], ...]
    text: str


@dataclass(frozen=True)
class Content:
    """What a file holds after a write or a truncation."""

    file: Node
    data: bytes


@dataclass(frozen=True)
class Sync:
    """An fsync of a file, or of a folder and so of the changes of its names."""

    node: Node
    text: str


@dataclass(frozen=True)
class Mark:
    """Nothing for the disk: here somebody was told that a step is durable."""

    step: int


Operation = Change | Content | Sync | Mark
ROOT: Node = 0


class RecordingDisk(Disk):
    """A disk that notes each operation below a folder, which is empty at the beginning.

    Its own tree says which node a path means, so that a file that is renamed with its folder stays
    the same file. Reads are not noted: they leave nothing.
    """

    def __init__(self, root: Path) -> None:
        assert not any(root.iterdir()), "the recording begins with an empty folder"
        self.operations: list[Operation] = []
        self._root = root
        self._folders: dict[Node, dict[str, Node]] = {ROOT: {}}
        self._contents: dict[Node, bytes] = {}
        self._opened: dict[int, tuple[Node, Path]] = {}
        self._last: dict[Node, str] = {}
        self._numbers = itertools.count(1)

    def acknowledge(self, step: int) -> None:
        """Note that the caller was told: this step is safe."""
        self.operations.append(Mark(step))

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        folder = self._folders[self._node(path.parent)] if path != self._root else {}
        if flags & os.O_CREAT and path.name not in folder:
            node = next(self._numbers)
            self._contents[node] = b""
            self._change(path, "create", (path.name, node))
            self.operations.append(Content(node, b""))
        self._opened[descriptor] = (self._node(path), path)
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        count = super().write(descriptor, data)
        node, _ = self._opened[descriptor]
        self._contents[node] += bytes(data[:count])  # files are written from their end
        self.operations.append(Content(node, self._contents[node]))
        return count

    def truncate(self, descriptor: int, size: int) -> None:
        super().truncate(descriptor, size)
        node, _ = self._opened[descriptor]
        self._contents[node] = self._contents[node][:size].ljust(size, b"\0")
        self.operations.append(Content(node, self._contents[node]))

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        node, path = self._opened[descriptor]
        shown = path.relative_to(self._root)
        after = f" after {self._last[node]}" if node in self._last else ""
        self.operations.append(Sync(node, f"{shown}{after}"))

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        del self._opened[descriptor]

    def rename(self, old: Path, new: Path) -> None:
        assert old.parent == new.parent, "a rename between folders would be two changes"
        super().rename(old, new)
        self._change(new, f"rename of {old.name} to", (old.name, None), (new.name, self._node(old)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._change(path, "unlink", (path.name, None))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        node = next(self._numbers)
        self._folders[node] = {}
        self._change(path, "mkdir", (path.name, node))

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        self._change(path, "rmdir", (path.name, None))

    def _node(self, path: Path) -> Node:
        node = ROOT
        for part in path.relative_to(self._root).parts:
            node = self._folders[node][part]
        return node

    def _change(self, path: Path, what: str, *names: tuple[str, Node | None]) -> None:
        folder = self._node(path.parent)
        for name, node in names:
            if node is None:
                del self._folders[folder][name]
            else:
                self._folders[folder][name] = node
        self._last[folder] = f"{what} {path.name}"
        self.operations.append(Change(folder, names, self._last[folder]))
