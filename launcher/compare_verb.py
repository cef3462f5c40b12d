"""`launcher compare`: what differs between runs, and what came of it."""

import argparse
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import overview, records, screen
from launcher.documents import read_json
from launcher.errors import CheckpointError, SettingsError
from launcher.find import run_folder
from launcher.layers import scalar
from launcher.overview import Summary

log = logging.getLogger("launcher")

USAGE = """\
Usage: launcher compare RUN RUN... [--json]

The settings that differ between runs, then their metrics side by side. A RUN is a name under
checkpoints/, the path of a run's folder, or a recipe file for the run of its defaults.

Switches:
  --json                for programs; with the metrics of every class

Example: launcher compare cifar_resnet--quick cifar_lenet--quick
"""


@dataclass(frozen=True)
class Compared:
    """One run among others."""

    summary: Summary
    settings: Mapping[str, Any]
    """Hyperparameters, run settings and what else may explain a difference, by name."""
    metrics: Mapping[str, float | None]
    """The last evaluation, the best one, and the last line of training."""


def run(given: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """The arguments after `compare`. Raises SettingsError for runs that are not there, and
    CheckpointError for one that is damaged."""
    if "-h" in given or "--help" in given:
        return screen.text(USAGE)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--json", action="store_true")
    found = parser.parse_intermixed_args(given)
    if len(found.runs) < 2:
        raise SettingsError("launcher compare takes two runs or more: launcher compare RUN RUN...")
    runs = [compared(run_folder(word)) for word in found.runs]
    for one in runs:
        if one.summary.remark:
            log.warning("%s.", one.summary.remark)
    differing = differences(one.settings for one in runs)
    metrics = {name: [one.metrics.get(name) for one in runs] for name in _names(runs)}
    if found.json:
        screen.text(json.dumps({
            "runs": [one.summary.folder for one in runs],
            "states": [one.summary.state for one in runs],
            "settings": differing,
            "metrics": metrics,
        }, indent=1))  # fmt: skip
        return
    names = _apart([one.summary for one in runs])
    if differing:
        shown = (
            [key, *(scalar(one.settings[key]) if key in one.settings else "-" for one in runs)]
            for key in differing
        )
        screen.table("Settings that differ", ("setting", *names), shown)
    else:
        screen.text("The runs have the same settings.")
    rows = [
        ["state", *(one.summary.state for one in runs)],
        ["step", *(f"{one.summary.step}" for one in runs)],
        *([name, *(_shown(name, value) for value in values)]
          for name, values in metrics.items() if name.count("/") <= 1),
    ]  # fmt: skip
    screen.table("Metrics", ("metric", *names), rows)


def compared(folder: Path) -> Compared:
    """What a run folder says of a run. Raises CheckpointError when it is damaged."""
    summary = overview.summary(folder)
    if summary.state in ("damaged", "empty"):
        raise CheckpointError(summary.reason or f"{folder} holds no run: {summary.next}.")
    try:
        return _compared(folder, summary)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder} holds a damaged run: {error!r}.") from error


def _compared(folder: Path, summary: Summary) -> Compared:
    run = read_json(folder / "run.json")
    last = (run.get("attempts") or [{}])[-1]
    settings = {
        **{key: entry["value"] for key, entry in run.get("hyperparameters", {}).items()},
        **{key: entry["value"] for key, entry in run.get("run_settings", {}).items()},
        "recipe": run.get("recipe"),
        "recipe's content": str(run.get("identity", {}).get("recipe"))[:12],
        "training data": str(run.get("data", {}).get("train"))[:12],
        "test data": str(run.get("data", {}).get("test"))[:12],
        **{key: last.get(key) for key in ("processes", "devices", "device", "torch")},
        "precision": last.get("precision"),
        "threads": last.get("threads"),
        "micro_batch_size": run.get("micro_batch_size"),
        "git": run.get("git"),
    }
    settings.pop("name", None)
    return Compared(summary, settings, _metrics(folder, summary))


def _metrics(folder: Path, summary: Summary) -> dict[str, float | None]:
    lines = folder / "metrics.jsonl"
    result = read_json(folder / "status.json").get("result")
    tested = result["scores"] if result else records.last(lines, summary.monitor)
    metrics = {key: value for key, value in tested.items() if key.startswith("test/")}
    if summary.best is not None:
        metrics[f"best {summary.monitor}"] = summary.best
        metrics["best at step"] = summary.best_step
    trained = records.last(lines, "train/loss")
    metrics |= {key: value for key, value in trained.items() if key.startswith("train/")}
    metrics["seconds"] = summary.seconds
    return metrics


def differences(settings: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The settings that are not equal in all runs, with the value of each run in order."""
    runs = list(settings)
    names = dict.fromkeys(name for one in runs for name in one)
    columns = {name: [one.get(name) for one in runs] for name in names}
    return {
        name: values
        for name, values in columns.items()
        if any(value != values[0] for value in values)
    }


def _names(runs: Sequence[Compared]) -> list[str]:
    return list(dict.fromkeys(name for one in runs for name in one.metrics))


def _apart(runs: Sequence[Summary]) -> list[str]:
    """A heading for each run: its name, or its folder where two have one name."""
    names = [one.name for one in runs]
    return [one.folder if names.count(one.name) > 1 else one.name for one in runs]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "best at step":
        return f"{value:.0f}"
    if name == "train/lr":
        return f"{value:.4g}"
    return f"{value:,.1f}" if "second" in name or "per_s" in name else screen.shown(name, value)
