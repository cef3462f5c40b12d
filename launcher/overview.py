"""What lies in run folders, read quickly: no torch, and of long files only the end.

A run writes its state itself, and one that was killed still says "running": whether somebody trains
there is told by the lock, which ends with its process.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from launcher import held, storage
from launcher.documents import read_json
from launcher.errors import CheckpointError, StorageError
from launcher.layers import scalar

State = Literal["running", "dead", "preempted", "failed", "finished", "empty", "damaged"]
STATES: Final[tuple[str, ...]] = get_args(State)
"""`dead`: it says that it runs, and nobody holds its lock. `empty`: nothing was begun there."""
_TAIL: Final = 1 << 16
_STEP: Final = re.compile(r"step-([0-9]{12})")
_OURS: Final = {"run.json", "status.json", "metrics.jsonl", "recipe.py", ".lock", "owner.json"}


@dataclass(frozen=True)
class Summary:
    """One run folder in short."""

    name: str
    folder: str
    state: State
    step: int = 0
    total_steps: int | None = None
    monitor: str = ""
    smaller: bool = False
    """Whether less of the monitored metric is better."""
    best: float | None = None
    """The monitored metric's best value so far, and at which step it was."""
    best_step: int | None = None
    seconds: float | None = None
    """Trained, over all attempts."""
    updated: float = 0.0
    """When something was written last: seconds since 1970."""
    reason: str = ""
    """Why it stopped, or what is damaged."""
    next: str = ""
    """What to do."""
    command: str = ""
    """The command that continues the run."""


def summaries(root: Path) -> list[Summary]:
    """Every run folder below `root`, by name; `root` alone if it is one. Raises StorageError."""
    names = storage.names(root)
    if is_run(names):
        return [summary(root)]
    folders = [root / name for name in names if not name.startswith(".")]
    return [summary(folder) for folder in folders if is_run(_names(folder))]


def is_run(names: list[str]) -> bool:
    """Whether a folder with these names in it is a run's."""
    return bool(_OURS & {*names}) or any(map(_STEP.fullmatch, names))


def summary(folder: Path) -> Summary:
    """One run folder in short; one that cannot be read is `damaged`, and why."""
    try:
        return _summary(folder)
    except (CheckpointError, StorageError) as error:
        return Summary(folder.name, str(folder), "damaged", updated=_updated(folder),
                       reason=str(error), next="see why: launcher runs --json")  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{folder}/run.json or status.json is not as a run leaves it: {error!r}."
        return Summary(folder.name, str(folder), "damaged", updated=_updated(folder),
                       reason=reason, next="move the folder away")  # fmt: skip


def _summary(folder: Path) -> Summary:
    run, status = read_json(folder / "run.json"), read_json(folder / "status.json")
    owner = held.owner(folder / ".lock")
    steps = checkpoints(folder)
    if not run:
        if steps or (folder / "metrics.jsonl").exists():
            raise CheckpointError(f"{folder} has no run.json. Put it back, or move the folder.")
        state: State = "empty" if owner is None else "running"
        said = "nothing was begun: it can go" if owner is None else f"begins (process {owner})"
        return Summary(folder.name, str(folder), state, updated=_updated(folder), next=said)
    state = _state(status, owner)
    line = last_record(folder / "metrics.jsonl")
    step = max(int(status.get("step") or 0), int(line.get("step", 0)), *steps, 0)
    monitor = (run.get("monitor") or {}).get("name", "")
    best = best_of(folder, status, steps) or {}
    command = continuing(run)
    return Summary(
        name=folder.name, folder=str(folder), state=state,
        step=int(status["step"]) if state == "finished" else step,
        total_steps=run.get("plan", {}).get("total_steps"), monitor=monitor,
        smaller=(run.get("monitor") or {}).get("smaller", False),
        best=best.get("scores", {}).get(monitor), best_step=best.get("step"),
        seconds=line.get("seconds"), updated=_updated(folder), reason=status.get("reason", ""),
        next=_next(run, state, owner, status), command=command,
    )  # fmt: skip


def _state(status: Mapping[str, Any], owner: int | None) -> State:
    if owner is not None:
        return "running"
    state = status.get("state")
    if state == "running":
        return "dead"
    for known in ("preempted", "failed", "finished"):
        if state == known:
            return known
    raise CheckpointError(f"status.json is missing or names no state: {state!r}.")


def _next(
    run: Mapping[str, Any], state: State, owner: int | None, status: Mapping[str, Any]
) -> str:
    """What to do, in a few words."""
    if state == "running":
        return f"wait: process {owner} trains" if owner else "wait: another machine trains"
    if state == "finished":
        own = run.get("launched_by") == "own loop"  # only its script knows what to evaluate
        return "" if own else f"launcher evaluate {shlex.quote(str(run.get('name')))}"
    if state == "failed":
        must = " --resume must" if status.get("failures", 0) >= 3 else ""
        return f"code {status.get('code')}: mend it, then the same command{must}"
    return "the same command continues"


def continuing(run: Mapping[str, Any]) -> str:
    """The command that continues a run, made from its run.json. What a setting's default says is
    left out, and so is a mirror, whose password is not kept."""
    attempts = run.get("attempts") or [{}]
    processes = attempts[-1].get("processes", 1)
    start = "launcher"
    if run.get("launched_by") == "accelerate launch":
        start = "accelerate launch ... -m launcher"  # its config file is not known
    elif processes > 1:
        start = f"torchrun --nproc_per_node {processes} -m launcher"
    elif run.get("launched_by") == "own loop":
        start = "python"
    words = [run.get("recipe", "RECIPE.py"), f"name={run.get('name')}"]
    for group in ("hyperparameters", "run_settings"):
        for key, entry in run.get(group, {}).items():
            if entry["from"] != "default" and key not in ("name", "mirror"):
                words.append(f"{key}={scalar(entry['value'])}")
    return f"{start} {shlex.join(words)}"


def best_of(folder: Path, status: Mapping[str, Any], steps: list[int]) -> dict[str, Any] | None:
    """Step and scores of the best evaluation, from the result or the newest checkpoint. For a
    table: what continues or evaluates a run checks the checkpoint's hashes."""
    if "result" in status:
        found: dict[str, Any] | None = status["result"].get("best")
        return found
    for step in reversed(steps):
        state = read_json(folder / f"step-{step:012d}" / "state.json")
        if state:
            return state.get("best")
    return None


def checkpoints(folder: Path) -> list[int]:
    """The steps of a run's checkpoints, ascending, by name alone."""
    return sorted(int(match[1]) for name in _names(folder) if (match := _STEP.fullmatch(name)))


def last_record(path: Path, having: str = "step") -> dict[str, Any]:
    """The last whole line of metrics.jsonl that has the key `having`; {} when the last 64 KiB hold
    none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            end = file.read(_TAIL)
    except OSError:
        return {}
    whole, _, _ = end.rpartition(b"\n")
    for line in reversed(whole.split(b"\n")):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and having in found:
            return found
    return {}


def _names(folder: Path) -> list[str]:
    try:
        return storage.names(folder)
    except StorageError:
        return []


def _updated(folder: Path) -> float:
    times = [0.0]
    for name in ("status.json", "metrics.jsonl", "owner.json"):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)
