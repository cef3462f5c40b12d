"""The suite `startup`: from the command to the first step, in new interpreters that take turns."""

import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from benching.columns import missing
from benching.found import Found

ROOT = Path(__file__).resolve().parents[2]
PEER = Path(__file__).with_name("first_step.py")
TURNS = 7
NAMES = ("import torch, accelerate", "launcher", "launcher, accelerate launch", "tutorial",
         "accelerate", "lightning", "ignite", "accelerate, accelerate launch")  # fmt: skip


def startup(asked: Namespace) -> list[Found]:
    """Seconds until the first step, of the launcher and of each peer's shortest program."""
    turns = asked.windows or (1 if asked.quick else TURNS)
    commands = dict(_commands(asked.only))
    took: dict[str, list[float]] = {name: [] for name in commands}
    used: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(turns):
        for name, command in commands.items():
            before = _processor_seconds()
            took[name].append(command())
            used[name].append(_processor_seconds() - before)
    columns = ("until its first step", "seconds, median", "range", "processor seconds, whole run")
    found = Found("startup", f"fashion_mlp on digits, batch 256, {turns} turns", columns)
    for name, seconds in took.items():
        found.rows.append((
            name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}",
            f"{statistics.median(used[name]):.2f}",
        ))  # fmt: skip
    found.raw = {"seconds": took, "processor_seconds": used}
    return [found]


def _commands(only: list[str]) -> Mapping[str, Callable[[], float]]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    found: dict[str, Callable[[], float]] = {
        "import torch, accelerate": _imports,
        "launcher": lambda: _ours([sys.executable]),
        "launcher, accelerate launch": lambda: _ours(launch),
    }
    left_out = dict(missing(["lightning", "ignite"]))
    for peer in ("tutorial", "accelerate", "lightning", "ignite"):
        if peer not in left_out:
            found[peer] = lambda peer=peer: _peer([sys.executable, str(PEER)], peer)  # type: ignore[misc]
    found["accelerate, accelerate launch"] = lambda: _peer([*launch, str(PEER)], "accelerate")
    return {name: found[name] for name in NAMES if name in found and name in (only or NAMES)}


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def _imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, accelerate"], check=True)
    return time.perf_counter() - began


def _ours(launch: list[str]) -> float:
    """Until the first line of metrics, which is that of the first step: with one step an epoch."""
    recipe = str(ROOT / "recipes" / "fashion_mlp.py")
    words = ["dataset=digits", "log_every=1", "epochs=1", "name=bench", "wandb=off"]
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "checkpoints" / "bench" / "metrics.jsonl"
        began = time.perf_counter()
        run = subprocess.Popen(
            [*launch, "-m", "launcher", recipe, *words], cwd=folder, env=_environment(),
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while not metrics.exists() or not metrics.stat().st_size:
            if run.poll() not in (None, 0):
                raise RuntimeError(f"the launcher ended with {run.returncode}")
            time.sleep(0.002)
        took = time.perf_counter() - began
        run.wait()
    return took


def _peer(program: list[str], peer: str) -> float:
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    table = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with subprocess.Popen(
            [*program, peer, str(table)], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as run:  # fmt: skip
            assert run.stdout is not None
            took = 0.0
            for line in run.stdout:
                if line.startswith("first step"):
                    took = time.perf_counter() - began
        if run.returncode or not took:
            raise RuntimeError(f"{peer} ended with {run.returncode} before its first step")
    return took


def _processor_seconds() -> float:
    about = resource.getrusage(resource.RUSAGE_CHILDREN)
    return about.ru_utime + about.ru_stime
