"""The parent's own account of a run that is killed, and what it holds against the disk.

It rests on what the training process said (`checkpoint step=N committed`) and on a run that nobody
killed, never on what the killed run wrote about itself.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.attempt import Attempt
from launcher import checkpoint
from launcher.errors import CheckpointError, StorageError

_COMMITTED = re.compile(r"checkpoint step=([0-9]+) committed")
_BEGUN = re.compile(r"\S+: (?:(fresh)|continues at step ([0-9]+) of [0-9]+)")
_CLOCK = ("seconds", "train/samples_per_s", "train/data_wait")


@dataclass
class Tally:
    """What was counted over all attempts at one workload."""

    kills: Counter[str] = field(default_factory=Counter)
    """By how the process was started and what was killed."""
    when: Counter[str] = field(default_factory=Counter)
    """Kills by what the process was doing."""
    chains: int = 0
    """Runs that reached their end."""
    committed: int = 0
    """Acknowledged checkpoints."""
    redone: int = 0
    """Steps that were trained, lost and trained again."""
    violations: Counter[str] = field(default_factory=Counter)
    slowest_end: float = 0.0
    """Seconds from one process's death to the end of the others."""
    codes: Counter[int] = field(default_factory=Counter)
    """Exit codes of processes whose peer died."""
    seconds: float = 0.0

    def violated(self, kind: str, words: str) -> str:
        self.violations[kind] += 1
        return f"{kind}: {words}"


def committed(lines: Iterable[str]) -> list[int]:
    """The steps that the process acknowledged."""
    return [int(match[1]) for line in lines if (match := _COMMITTED.fullmatch(line.strip()))]


def begun(lines: Iterable[str]) -> int | None:
    """The step that the process began at; None when it has not said so yet."""
    for line in lines:
        if match := _BEGUN.fullmatch(line.strip()):
            return 0 if match[1] else int(match[2])
    return None


@dataclass(frozen=True)
class Reference:
    """The run that nobody killed, with all its checkpoints kept."""

    commits: dict[int, bytes]
    result: dict[str, Any]

    @classmethod
    def of(cls, run: Path) -> "Reference":
        steps = checkpoint.steps(run)
        return cls({step: _commit(run, step) for step in steps}, final(run))


def final(run: Path) -> dict[str, Any]:
    """All that must be the same at the end: files of the last checkpoint, metrics, result."""
    last = checkpoint.folder_of(run, max(checkpoint.steps(run), default=0))
    status = json.loads((run / "status.json").read_bytes())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    return {
        **{path.name: path.read_bytes() for path in sorted(last.glob("*"))},
        "metrics.jsonl": [{k: v for k, v in x.items() if k not in _CLOCK} for x in lines],
        "status": [status[key] for key in ("state", "code", "step", "result")],
    }


class Account:
    """Of one chain: attempts at one run until it ends."""

    def __init__(self, run: Path, reference: Reference, tally: Tally) -> None:
        self.run = run
        self.reference = reference
        self.tally = tally
        self.newest = 0
        """The step that the next attempt must begin at."""
        self._acknowledged = 0
        self._left: set[str] = set()

    def after(self, attempt: Attempt) -> list[str]:
        """Hold what an attempt said and left against what must be true; the violations."""
        found = self._said(attempt)
        names = {path.name for path in self.run.iterdir()} if self.run.is_dir() else set()
        if any(name.startswith(".bad-") for name in names):
            found.append(self.tally.violated("torn", "a checkpoint was set aside as damaged"))
        if begun(attempt.lines) is not None and (stale := self._left & names):
            found.append(self.tally.violated("left", f"{sorted(stale)} outlived a start"))
        self._left = {name for name in names if name.startswith((".tmp-", ".trash-"))}
        self._left |= {name for name in names if name.startswith(".") and name.endswith(".tmp")}
        found += self._on_disk()
        if begun(attempt.lines) is not None:  # else the lines are those of the attempt before
            self.tally.redone += max(0, self._reached() - self.newest)
        return found

    def at_the_end(self) -> list[str]:
        """Hold the result against the reference's; the violations."""
        self.tally.chains += 1
        here, there = final(self.run), self.reference.result
        differing = [key for key in {**here, **there} if here.get(key) != there.get(key)]
        found = []
        if differing:
            found.append(self.tally.violated("different", f"{', '.join(differing)} at the end"))
        if self._left:
            found.append(self.tally.violated("left", f"{sorted(self._left)} at the end"))
        return found

    def saving(self) -> bool:
        """Whether a checkpoint was being written, or removed, when the attempt ended."""
        return any(name.startswith((".tmp-", ".trash-")) for name in self._left)

    def _said(self, attempt: Attempt) -> list[str]:
        steps = committed(attempt.lines)
        self.tally.committed += len(steps)
        found = []
        start = begun(attempt.lines)
        if start is not None and start != self.newest:
            found.append(
                self.tally.violated("restart", f"began at step {start} instead of {self.newest}")
            )
        if steps != sorted(set(steps)) or not set(steps) <= self.reference.commits.keys():
            found.append(self.tally.violated("torn", f"acknowledged the steps {steps}"))
        self._acknowledged = max([self._acknowledged, *steps])
        return found

    def _on_disk(self) -> list[str]:
        self.newest = 0
        commits = self.reference.commits
        found = [
            self.tally.violated("torn", f"step {step} is not the reference's")
            for step in checkpoint.steps(self.run)
            if _commit(self.run, step) != commits.get(step)
        ]
        try:
            newest, skipped = checkpoint.newest(self.run)
            self.newest = newest.step if newest is not None else 0
            found += [self.tally.violated("torn", words) for words in skipped.values()]
            for step in checkpoint.steps(self.run):
                if step < self.newest:
                    checkpoint.read(self.run, step)
        except (CheckpointError, StorageError) as error:
            found.append(self.tally.violated("torn", str(error)))
        if self.newest < self._acknowledged:
            words = f"step {self._acknowledged} was acknowledged, {self.newest} is the newest"
            found.append(self.tally.violated("lost", words))
        return found

    def _reached(self) -> int:
        """The last step that the run has metrics of."""
        try:
            lines = (self.run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        whole = [line for line in lines if line.endswith(b"\n")]
        return int(json.loads(whole[-1])["step"]) if whole else 0


def _commit(run: Path, step: int) -> bytes:
    try:
        return (checkpoint.folder_of(run, step) / "COMMIT").read_bytes()
    except OSError:
        return b""
