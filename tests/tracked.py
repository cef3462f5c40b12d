"""Runs that W&B follows, in processes of their own, and what W&B has of them afterwards."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conftest import HANGS, ROOT, eventually, write_recipe

from launcher import wandb_file

RUN = Path("checkpoints/r")


# Steps take a while, so that there is time to do something to a tracker; the twelfth may wait for a
# file, so that there is time enough.
SLOW = """
import time

steps = 0

def loss(model, batch):
    global steps
    time.sleep(float(os.environ.get("PAUSE", "0.03")) * model.training)
    steps += model.training
    while steps == 12 and not os.path.exists(os.environ.get("AWAITED", ".")):
        time.sleep(0.02)
    return losses.cross_entropy(model, batch)
"""


# On a busy machine a tracker, which gives way to everything else, takes its time.
PATIENT = """
from launcher import track

track.PATIENCE = 1000.0
"""


def patient_recipe(extra: str = "") -> None:
    """A recipe for processes of their own: it changes the launcher."""
    write_recipe(f"{extra}\n{PATIENT}")


def begin(
    *given: str, name: str = "r", wandb: str = "offline", env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """`python -m launcher tiny.py name=NAME ...`, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", "tiny.py", f"name={name}", "threads=1",
         f"wandb={wandb}", *given],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def said(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a process said until its end."""
    words, _ = process.communicate(timeout=HANGS)
    assert process.returncode == code, words
    return words


def train(
    *given: str, code: int = 0, wandb: str = "offline", env: Mapping[str, str] | None = None
) -> str:
    """A whole run; what it said."""
    return said(begin(*given, wandb=wandb, env=env), code)


def stopped(*given: str, wandb: str = "offline", env: Mapping[str, str] | None = None) -> None:
    """A run of SLOW that is stopped after its twelfth step, when its tracker has begun."""
    process = begin(*given, wandb=wandb, env={**(env or {}), "AWAITED": "go"})
    eventually(lambda: steps() >= 11 and parts())
    process.send_signal(signal.SIGTERM)
    Path("go").touch()
    said(process, 75)


def steps(run: Path = RUN) -> int:
    """Lines in metrics.jsonl so far."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def children(pid: int) -> dict[int, str]:
    """The processes below one, with their command lines."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
        if parent == pid:
            found |= {int(path.name): words, **children(int(path.name))}
    return found


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
            if key == "_step" or (key[0] != "_" and "." not in key and not isinstance(value, dict))
        }
        for row in rows
    ]


def weights(run: Path = RUN) -> str:
    """The hash of the newest checkpoint's weights."""
    newest = sorted(run.glob("step-*"))[-1]
    return hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest()
