"""The run folder's account of a run: recipe copy, run.json, status.json, metrics.jsonl.

    checkpoints/cifar_resnet/
      recipe.py      the file that ran; beside it the modules of its folder that it imports
      run.json       every setting with its origin, versions, devices, git commit
      status.json    state (running, finished, preempted, failed), code, reason, step, result,
                     and how often in a row it failed
      metrics.jsonl  one line per record
      step-000000000980/ ...

Only the main process writes, and only while it holds the folder's lock.
"""

import json
import math
import os
import platform
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from launcher import checkpoint, held, imported, outcome, storage
from launcher.documents import read_json, write_json
from launcher.errors import (
    CheckpointError,
    DistributedError,
    LockedError,
    Preempted,
    StorageError,
)

State = Literal["running", "finished", "preempted", "failed"]


class Record:
    """A run folder that belongs to this process until `close`."""

    def __init__(self, folder: Path) -> None:
        """Make or open the folder and lock it. Raises LockedError when another process has it."""
        storage.make_folder(folder)
        self.folder = folder
        self._lock = held.Lock(folder / ".lock")
        if not self._lock.acquire():
            self._lock.release()
            owner = read_json(folder / "owner.json")
            raise LockedError(
                f"the run folder {folder} is in use by process {owner.get('pid', '?')} on "
                f"{owner.get('host', '?')} since {owner.get('since', '?')}. Wait for it, or give "
                f"another name=."
            )
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._write(
            "owner.json", {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        )
        self._metrics: held.Appender | None = None

    def archive(self) -> Path | None:
        """Move what an earlier run left into a folder of its own; returns that folder."""
        stay = (".lock", "owner.json", ".wandb.lock", ".tensorboard.lock")
        left = [name for name in storage.names(self.folder) if name not in stay]
        left = [name for name in left if not name.startswith("archive-")]
        if not left:
            return None
        place = self._new_archive()
        for name in left:
            storage.rename(self.folder / name, place / name)
        return place

    def go_back_to(self, step: int) -> Path | None:
        """Move what came after a step into an archive folder: the checkpoints, what is told of the
        last evaluation, and a copy of the metrics. The next start must not take it for a part of
        what follows now.

        Killed in between, the run is one that goes on: from where it was, or some steps back.
        """
        later = [other for other in checkpoint.steps(self.folder) if other > step]
        if not later:
            return None
        place = self._new_archive()
        metrics = self.folder / "metrics.jsonl"
        if metrics.exists():
            storage.create(place / metrics.name, [storage.read(metrics)])
        # First, or a run that was finished would still be, without what it has learned.
        self.status("running", step=step, committed=step)
        for name in (outcome.NAME, "report.html"):
            if (self.folder / name).exists():
                storage.rename(self.folder / name, place / name)
        for other in reversed(later):
            folder = checkpoint.folder_of(self.folder, other)
            storage.rename(folder, place / folder.name)
        return place

    def _new_archive(self) -> Path:
        place = self.folder / f"archive-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        storage.make_folder(place)
        return place

    def begin(
        self, recipe: bytes, run: Mapping[str, Any], records: int, step: int | None = None,
        modules: Mapping[str, bytes] | None = None,
    ) -> float:  # fmt: skip
        """Write what is known before step `step`; the seconds that earlier attempts trained.

        Of metrics.jsonl the first `records` lines are kept: what was written after the checkpoint
        is written again. Raises CheckpointError when there are fewer.
        """
        path = self.folder / "metrics.jsonl"
        count = size = 0
        last = b""
        if records and path.exists():
            for last in islice(storage.lines(path), records):
                count, size = count + 1, size + len(last) + 1
        if count < records:
            raise CheckpointError(
                f"{path} has {count} lines, but the checkpoint was written after {records}. "
                f"Put the file back, or give --fresh to start again beside what is left."
            )
        seconds = _seconds(path, records, last) if records else 0.0
        # First, or a run that was finished would pass for what it becomes. Nothing after the step
        # is durable any more: an older checkpoint than the last may have been taken.
        lost = read_json(self.folder / "status.json").get("last_committed_step")
        self.status("running", committed=step if step or lost else None)
        storage.replace(self.folder / "recipe.py", recipe)
        imported.keep(self.folder, modules or {})
        self._write("run.json", run)
        self._metrics = held.Appender(path, size)
        return seconds

    def metrics(self, line: Mapping[str, float | None]) -> None:
        """Append one record to metrics.jsonl; what is not finite becomes null.

        A disk that refuses it now gets it again with the next line, and at the latest at the next
        save, which fails without it.
        """
        assert self._metrics is not None, "begin comes first"
        valid = {k: None if v is None or not math.isfinite(v) else v for k, v in line.items()}
        with suppress(StorageError):
            self._metrics.write(json.dumps(valid).encode() + b"\n")

    def sync(self) -> None:
        """Make all metrics durable. Raises StorageError."""
        assert self._metrics is not None, "begin comes first"
        self._metrics.sync()

    def status(
        self, state: State, *, code: int = 0, reason: str = "", step: int | None = None,
        committed: int | None = None, **more: object,
    ) -> None:  # fmt: skip
        """Write status.json whole. What is not given is kept from the last one, but the reason.

        `failures` counts the attempts in a row that failed without a new checkpoint.
        """
        before = read_json(self.folder / "status.json")
        last = before.get("last_committed_step")
        new = committed is not None and committed > (last or 0)
        self._write("status.json", {
            "state": state,
            "code": code,
            "reason": reason,
            "step": before.get("step", 0) if step is None else step,
            "last_committed_step": last if committed is None else committed,
            "failures": 0 if new else before.get("failures", 0),
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **more,
        })  # fmt: skip

    def finished(
        self, step: int, result: Mapping[str, object], seconds: float, reason: str = ""
    ) -> None:
        """Note the result of a run that reached its end, the seconds it took over all its attempts,
        and why that end was before its plan's."""
        self.status(
            "finished", step=step, committed=step, result=result, reason=reason, seconds=seconds
        )

    def failed(self, error: BaseException, code: int, step: int | None = None) -> None:
        """Note why the run ended, if it had begun. What is not the run's own doing (somebody
        stopped it, another process is gone) does not count as a failure."""
        if self._metrics is None:
            return
        stopped = isinstance(error, Preempted)
        before = read_json(self.folder / "status.json").get("failures", 0)
        counts = not stopped and not isinstance(error, DistributedError | KeyboardInterrupt)
        self.status(
            "preempted" if stopped else "failed", code=code, step=step,
            reason=f"{error}" or type(error).__name__, failures=before + counts,
            process=getattr(error, "process", None) or 0,
        )  # fmt: skip

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        self._lock.release()

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        write_json(self.folder / name, document)


def _seconds(path: Path, number: int, line: bytes) -> float:
    """How long a run had trained when it wrote a line of its metrics. Raises CheckpointError."""
    try:
        return float(json.loads(line)["seconds"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: line {number} is no record of a run. Put the file back, or give "
            f"--fresh to start again beside what is left."
        ) from error


def versions() -> dict[str, str]:
    """Versions of what a result depends on, read without importing anything."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("accelerate-launcher", "torch", "accelerate", "numpy", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit(folder: Path) -> str | None:
    """The commit of the folder's git checkout, with `+changes` when the tree is not clean."""
    try:
        ran = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes",
             "--exclude=*"],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() or None if ran.returncode == 0 else None
