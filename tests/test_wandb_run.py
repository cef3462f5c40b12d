"""Runs of W&B's real client, offline, read back from the files that it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import ROOT, write_recipe

from launcher import wandb_file
from launcher.wandb_run import config

RUN = Path("checkpoints/r")


def train(*given: str, code: int = 0, **variables: str) -> str:
    """`python -m launcher tiny.py name=r ...`, offline; what it said."""
    ran = subprocess.run(
        [sys.executable, "-m", "launcher", "tiny.py", "name=r", "threads=1", "wandb=offline",
         *given],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables}, check=False, timeout=200,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert ran.returncode == code, ran.stdout
    return ran.stdout


def parts(run: Path = RUN) -> list[Path]:
    return sorted((run / "wandb").glob("*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)


def ids(run: Path = RUN) -> set[str]:
    return {path.stem.removeprefix("run-") for path in parts(run)}


def history(run: Path = RUN) -> list[dict[str, Any]]:
    """Rows of all parts, as W&B takes them."""
    return [row for path in parts(run) for row in wandb_file.history(path)]


def expected(run: Path = RUN) -> list[dict[str, float]]:
    """The rows that metrics.jsonl makes."""
    rows: dict[int, dict[str, Any]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        step = record.pop("step")
        rows.setdefault(step, {"_step": step, "global_step": step}).update(record)
    return list(rows.values())


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The numbers that rows hold, without what W&B adds to them and without tables."""
    return [
        {
            key: value
            for key, value in row.items()
            if key in ("_step", "global_step") or (key[0] != "_" and "." not in key)
        }
        for row in rows
    ]


def test_every_metric_is_there_once_and_in_order_and_the_config_is_whole() -> None:
    write_recipe()
    said = train("lr=0.1", "log_every=1")
    assert "wandb    offline (wandb=offline): wandb sync checkpoints/r/wandb/offline-run-*" in said
    assert said.splitlines()[-1].endswith(
        f"wandb sync checkpoints/r/wandb/offline-run-*-{next(iter(ids()))}"
    )
    rows = expected()
    assert len(rows) == 8
    assert numbers(history()) == rows
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    found: dict[str, Any] = {}
    (part,) = parts()
    for data in wandb_file.records(part):
        record = Record.FromString(data)
        if record.HasField("config"):
            items = [item for item in record.config.update if item.key]  # others are its charts
            found |= {item.key: json.loads(item.value_json) for item in items}
    run = json.loads((RUN / "run.json").read_text())
    assert found == config(run)
    assert found["lr"] == 0.1
    assert found["launcher"]["origins"]["lr"] == "argument"
    assert found["launcher"]["versions"]["torch"]
    assert found["launcher"]["machine"]["device"] == "cpu"
