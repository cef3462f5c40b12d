"""What lies in run folders, read quickly: no torch, and of long files only the end.

A run writes its state itself, and one that was killed still says "running": whether somebody trains
there is told by the lock, which ends with its process.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from launcher import held, records, storage
from launcher.documents import read_json
from launcher.errors import CheckpointError, StorageError
from launcher.layers import scalar

State = Literal["running", "dead", "preempted", "failed", "finished", "empty", "damaged"]
STATES: Final[tuple[str, ...]] = get_args(State)
"""`dead`: it says that it runs, and nobody holds its lock. `empty`: nothing was begun there."""
ROOT: Final = Path("checkpoints")
"""Where runs lie that are meant by their name."""
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
    remark: str = ""
    """What is wrong with its metrics, which costs it no weights."""


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
        reason = str(error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = (
            f"{folder}: run.json, status.json or a checkpoint's state.json is not as a run leaves "
            f"it: {error!r}."
        )
    return Summary(folder.name, str(folder), "damaged", updated=_updated(folder), reason=reason,
                   next="see why: launcher runs --json")  # fmt: skip


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
    metrics = folder / "metrics.jsonl"
    line = records.last(metrics)
    step = max(int(status.get("step") or 0), int(line.get("step", 0)), *steps, 0)
    monitor = (run.get("monitor") or {}).get("name", "")
    best = best_of(folder, status, steps) or {}
    finished = int(status["step"]) if state == "finished" else None
    wrong = records.complaint(metrics, finished)
    return Summary(
        name=folder.name, folder=str(folder), state=state,
        step=step if finished is None else finished,
        total_steps=run.get("plan", {}).get("total_steps"), monitor=monitor,
        smaller=(run.get("monitor") or {}).get("smaller", False),
        best=best.get("scores", {}).get(monitor), best_step=best.get("step"),
        seconds=line.get("seconds"), updated=_updated(folder), reason=status.get("reason", ""),
        next=_next(folder, run, state, owner, status), command=continuing(run, _name(folder)),
        remark=f"{folder}/{wrong}" if wrong else "",
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
    folder: Path, run: Mapping[str, Any], state: State, owner: int | None,
    status: Mapping[str, Any],
) -> str:  # fmt: skip
    """What to do, in a few words."""
    if state == "running":
        return f"wait: process {owner} trains" if owner else "wait: another machine trains"
    if state == "finished":
        return _looking(folder, run)
    if state == "failed":
        must = " --resume must" if status.get("failures", 0) >= 3 else ""
        return f"code {status.get('code')}: mend it, then the same command{must}"
    return "the same command continues"


def _looking(folder: Path, run: Mapping[str, Any]) -> str:
    """What to do with a finished run: the verb that works with what is left of it."""
    if run.get("launched_by") == "own loop":  # only its script knows what to evaluate
        return ""
    name = _name(folder)
    by_name = not name.startswith("-") and not name.endswith(".py") and (
        (ROOT / name).resolve() == folder.resolve()
    )  # fmt: skip
    word = shlex.quote(name if by_name else str(folder))
    if not checkpoints(folder):
        return f"no checkpoint is left: launcher report {word}"
    if not (folder / "recipe.py").is_file():
        return f"recipe.py is gone: launcher report {word}"
    return f"launcher evaluate {word}"


def _name(folder: Path) -> str:
    """A run's name: its folder's, which may be a copy, or have been renamed since it ran."""
    return folder.name or folder.resolve().name


def continuing(run: Mapping[str, Any], name: str) -> str:
    """The command that continues the run of a name, made from its run.json. What a setting's
    default says is left out, and so is a mirror, whose password is not kept."""
    attempts = run.get("attempts") or [{}]
    processes = attempts[-1].get("processes", 1)
    start = "launcher"
    if run.get("launched_by") == "accelerate launch":
        start = "accelerate launch ... -m launcher"  # its config file is not known
    elif processes > 1:
        start = f"torchrun --nproc_per_node {processes} -m launcher"
    elif run.get("launched_by") == "own loop":
        start = "python"
    words = [run.get("recipe", "RECIPE.py"), f"name={name}"]
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
