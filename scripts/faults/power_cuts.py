"""What a power cut may leave of recorded operations, and each such disk laid out as a folder.

The file system is a pessimist's POSIX. A power cut may come after any operation. Then

- what a file had at its last fsync is there; if it was written to since, it holds that, or all that
  was written, or the first half of it, or as many zeros;
- a change of the names in a folder is there if the folder was synced since; of the others any
  subset is, in the order in which they were made. An fsync of a file says nothing of its name;
- a rename is one change: both names or neither. Every file system in use keeps that promise.

Up to `MOST_FREE` changes that are not durable every subset is taken. Of more: none, all, all that
begin at the first, each alone, each left out, each pair left out, and `DRAWN` drawn subsets. Up to
`MOST_FILES` files that are not durable every combination of contents is taken; of more, each file
in each of its contents while the others are as they were written, and then as they were synced.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from faults.crashes import ROOT, Change, Content, Mark, Node, Operation, Sync

MOST_FREE = 10
DRAWN = 300
MOST_FILES = 2

Tree = tuple[tuple[str, "bytes | Tree"], ...]
"""A folder: each name, sorted, with a file's content or a folder."""


@dataclass(frozen=True)
class Left:
    """What a power cut may have left."""

    tree: Tree
    acknowledged: int | None
    """The newest step that somebody was told is durable."""
    after: int
    """How many operations were done before the cut."""


class _State:
    """The disk while operations are replayed: what is durable, and what is not yet."""

    def __init__(self) -> None:
        self.folders: dict[Node, dict[str, Node]] = {ROOT: {}}
        self.free: list[Change] = []
        self.durable: dict[Node, bytes] = {}
        self.written: dict[Node, bytes] = {}
        self.acknowledged: int | None = None

    def do(self, operation: Operation) -> None:
        """One operation, with what it makes durable."""
        match operation:
            case Change():
                self.free.append(operation)
            case Content(file, data):
                self.written[file] = data
            case Sync(node):
                for change in [change for change in self.free if change.folder == node]:
                    _apply(change, self.folders)
                    self.free.remove(change)
                if node in self.written:
                    self.durable[node] = self.written.pop(node)
            case Mark(step):
                self.acknowledged = max(step, self.acknowledged or 0)

    def trees(self, seed: int) -> Iterator[Tree]:
        """Every tree that a power cut may leave now."""
        contents = list(self._contents())
        for subset in _subsets(self.free, seed):
            folders = {node: dict(names) for node, names in self.folders.items()}
            for change in subset:
                _apply(change, folders)
            for chosen in contents:
                yield _tree(ROOT, folders, self.durable | chosen)

    def _contents(self) -> Iterator[dict[Node, bytes]]:
        """What the files that were written to since their last fsync may hold."""
        synced = {file: self.durable.get(file, b"") for file in self.written}
        choices = {file: _contents(synced[file], self.written[file]) for file in self.written}
        if len(choices) <= MOST_FILES:
            for chosen in product(*choices.values()):
                yield dict(zip(choices, chosen, strict=True))
            return
        for others in (self.written, synced):
            for file, data in choices.items():
                yield from (others | {file: content} for content in data)


def _apply(change: Change, folders: dict[Node, dict[str, Node]]) -> None:
    folder = folders.setdefault(change.folder, {})
    for name, node in change.names:
        if node is None:
            folder.pop(name, None)
        else:
            folder[name] = node


def _contents(durable: bytes, written: bytes) -> list[bytes]:
    return sorted({durable, written, written[: len(written) // 2], bytes(len(written))})


def _subsets(changes: Sequence[Change], seed: int) -> Iterator[Sequence[Change]]:
    count = len(changes)
    if count <= MOST_FREE:
        for size in range(count + 1):
            yield from combinations(changes, size)
        return
    for number in range(count + 1):
        yield changes[:number]
        yield changes[number : number + 1]
    for first, second in product(range(count), repeat=2):
        yield [change for at, change in enumerate(changes) if at not in (first, second)]
    drawn = random.Random(seed)
    for _ in range(DRAWN):
        yield [change for change in changes if drawn.random() < 0.5]


def _tree(node: Node, folders: dict[Node, dict[str, Node]], files: dict[Node, bytes]) -> Tree:
    return tuple(
        (name, files[inner] if inner in files else _tree(inner, folders, files))
        for name, inner in sorted(folders.get(node, {}).items())
    )


def power_cuts(operations: Sequence[Operation], seed: int = 0) -> Iterator[Left]:
    """Every different disk that a power cut may leave, after each of the operations."""
    state = _State()
    for after in range(len(operations) + 1):
        seen: set[Tree] = set()
        for tree in state.trees(seed):
            if tree not in seen:
                seen.add(tree)
                yield Left(tree, state.acknowledged, after)
        if after < len(operations):
            state.do(operations[after])


def syncs(operations: Sequence[Operation]) -> list[tuple[int, Sync]]:
    """The fsyncs, and where they are."""
    return [(at, found) for at, found in enumerate(operations) if isinstance(found, Sync)]


def without(operations: Sequence[Operation], at: int) -> list[Operation]:
    """The same operations with one of them forgotten: a disk that said it had synced and lied."""
    return [operation for number, operation in enumerate(operations) if number != at]


def lay_out(tree: Tree, folder: Path) -> None:
    """Make a folder that looks like this, for the real loader to start in."""
    folder.mkdir()
    for name, content in tree:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            lay_out(content, folder / name)
