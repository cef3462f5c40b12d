"""All that a report says of a run, read from its folder, without torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import outcome, records, storage
from launcher.documents import read_json
from launcher.errors import CheckpointError, StorageError
from launcher.report.curves import Curves, curves


@dataclass(frozen=True)
class Told:
    """What a run folder tells."""

    folder: Path
    run: dict[str, Any]
    status: dict[str, Any]
    state: str
    """finished, preempted, failed, running; or dead, when somebody found out."""
    outcome: dict[str, Any] | None
    curves: Curves
    remarks: list[str] = field(default_factory=list)
    """What could not be read."""

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.run.get("name") or self.folder.name)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """One for each start, the first one first."""
        return list(self.run.get("attempts") or [{}])

    @property
    def scores(self) -> dict[str, float | None]:
        """Of the last evaluation, with those of single classes where they are known."""
        if self.outcome is not None:
            return dict(self.outcome["scores"])
        result = self.status.get("result") or {}
        if result.get("scores"):
            return dict(result["scores"])
        series = self.curves.series
        return {key: one.last for key, one in series.items() if key.startswith("test/")}

    @property
    def best(self) -> dict[str, Any] | None:
        """Step and scores of the best evaluation, of a finished run."""
        found: dict[str, Any] | None = (self.status.get("result") or {}).get("best")
        return found

    @property
    def step(self) -> int:
        """How far it came."""
        return max(int(self.status.get("step") or 0), int(self.curves.last.get("step", 0)))


def told(folder: Path, state: str | None = None) -> Told:
    """Read a run folder; `state` is given by who knows better than its status.json.

    Raises CheckpointError when it holds no run or a damaged one, and StorageError.
    """
    run = read_json(folder / "run.json")
    if not run:
        raise CheckpointError(f"{folder} holds no run: it has no run.json.")
    status = read_json(folder / "status.json")
    remarks = []
    try:
        found = outcome.read(folder)
    except CheckpointError as error:
        found = None
        remarks.append(str(error))
    path, state = folder / "metrics.jsonl", state or str(status.get("state", "running"))
    measured = _curves(path)
    if measured.damaged:
        more = f" (nor are {measured.damaged - 1:,} more)" if measured.damaged > 1 else ""
        remarks.append(f"{path.name}, line {measured.first_damaged:,}, {records.NO_RECORD}{more}.")
    if state == "finished" and (
        missing := records.of_finished(
            path, measured.last, int(status.get("step") or 0), torn=records.torn(path)
        )
    ):
        remarks.append(f"{missing}.")
    return Told(folder, run, status, state, found, measured, remarks)


def _curves(path: Path) -> Curves:
    try:
        return curves(storage.lines(path))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return curves(())
        raise
