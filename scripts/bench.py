"""How fast the launcher trains, against the floor: a bare PyTorch loop over arrays in memory.

    python scripts/bench.py                                # synthetic images, the shape of CIFAR-10
    python scripts/bench.py --data data --json bench.json  # real CIFAR-10 from data/
    python scripts/bench.py --startup                      # until the first step
    python scripts/bench.py --saving                       # how long a save holds training up

Both train LeNet on the same images with the same optimizer and threads, in one process, in windows
that take turns, so that what else the machine does meets both. The floor keeps its images as
normalised float32 and takes each batch with one fancy index; it evaluates, records and checks
nothing. Reported: samples per second as medians over the windows with the quartiles, and the ratio
of the medians.

`--startup` takes turns between importing torch and accelerate in a new interpreter and a run of
fashion_mlp on digits, timed until the first line of its metrics, which is its first step's.

`--saving` takes turns, with ResNet-34 and SGD with momentum (170 MB), between a save that training
waits for and one beside training: how long the call holds the loop up, and how much slower the
steps are until it is durable.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from launcher import checkpoint, screen
from launcher.build import Parts, build
from launcher.connect import connect
from launcher.launch import Launch
from launcher.layers import from_argument
from launcher.recipe import load
from launcher.record import Record
from launcher.saver import Saver
from launcher.screen import Screen
from launcher.settings import resolve_hparams, resolve_run
from launcher.state import State
from launcher.stop import Stop
from launcher.train import train

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class Clock(Screen):
    """A screen that shows nothing and notes when each step ended."""

    def __init__(self) -> None:
        super().__init__(shown=False)
        self.times: list[float] = []

    def step(self, step: int) -> None:
        self.times.append(time.perf_counter())


def launcher_window(parts: Parts, steps: int) -> float:
    """Samples per second of the launcher's loop over `steps` steps, after one that is not timed."""
    clock = Clock()
    plan = replace(parts.plan, epochs=1, samples=parts.plan.batch_size * (steps + 1))
    with Stop(1, str) as stop:
        timed = replace(parts, plan=plan)
        train(timed, State(), Saver(timed, None, clock), clock, stop)
    return steps * plan.batch_size / (clock.times[-1] - clock.times[0])


def bare_window(parts: Parts) -> Callable[[Parts, int], float]:
    """The floor's window, on a model, optimizer and float images of its own."""
    batch = parts.data.train.source[torch.arange(len(parts.data.train.source)).numpy()]
    images, labels = parts.data.prepare(batch)["image"], batch["label"]
    model = parts.recipe.model(parts.hparams, parts.data)
    optimizer = parts.recipe.optimizer(parts.hparams, model)
    size = parts.plan.batch_size

    def window(parts: Parts, steps: int) -> float:
        order = torch.randperm(len(images))
        for step in range(steps + 1):
            index = order[step * size : (step + 1) * size]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[index]), labels[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step == 0:
                began = time.perf_counter()
        return steps * size / (time.perf_counter() - began)

    return window


def startup(turns: int) -> int:
    """Seconds of the imports alone, and from the command to the first step, taking turns."""
    times: dict[str, list[float]] = {"import torch, accelerate": [], "first step": []}
    for _ in range(turns):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch, accelerate"], check=True)
        times["import torch, accelerate"].append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as folder:
            metrics = Path(folder) / "checkpoints" / "bench" / "metrics.jsonl"
            command = [sys.executable, "-m", "launcher", str(RECIPES / "fashion_mlp.py")]
            began = time.perf_counter()
            run = subprocess.Popen(
                [*command, "dataset=digits", "name=bench"], cwd=folder, stdout=subprocess.DEVNULL
            )
            while not metrics.exists() or not metrics.stat().st_size:
                time.sleep(0.002)
            times["first step"].append(time.perf_counter() - began)
            run.wait()
    rows = [
        (name, f"{statistics.median(values):.2f} s", f"{min(values):.2f} to {max(values):.2f}")
        for name, values in times.items()
    ]
    title = f"fashion_mlp on digits, {turns} turns; torch {torch.__version__}"
    screen.table(title, ("until", "median", "range"), rows)
    return 0


def saving(turns: int) -> int:
    """Seconds of a blocking save, and what a save beside training takes from it, taking turns."""
    loaded = load(RECIPES / "cifar_resnet.py")
    given = ["dataset=synthetic", "batch_size=8"]
    hparams, _ = resolve_hparams(loaded.recipe.hparams, map(from_argument, given))
    settings, _ = resolve_run([])
    world = connect(Launch(), hparams, settings)
    parts = build(loaded, hparams, settings, world)
    batch = parts.sample("train")

    def step() -> float:
        began = time.perf_counter()
        parts.optimizer.zero_grad()
        parts.recipe.loss(parts.model, batch).backward()  # type: ignore[no-untyped-call]
        parts.optimizer.step()
        return time.perf_counter() - began

    times: dict[str, list[float]] = {
        "a blocking save": [], "the call of a save beside training": [],
        "until that save is durable": [], "a step meanwhile": [], "a step without a save": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        record = Record(Path(place) / "run")
        record.begin(b"", {}, 0)
        with Saver(parts, record, Screen(shown=False)) as saver:
            for turn in range(turns + 1):
                alone = [step() for _ in range(3)]
                began = time.perf_counter()
                checkpoint.save(record.folder, 2 * turn + 1, parts.model, parts.optimizer, {})
                blocking = time.perf_counter() - began
                began = time.perf_counter()
                saver.save(State(step=2 * turn + 2))
                call = time.perf_counter() - began
                beside = []
                while saver.busy:
                    beside.append(step())
                saver.finish()
                durable = time.perf_counter() - began
                if turn:  # the first allocates the copies' memory
                    for name, value in zip(times, (blocking, call, durable), strict=False):
                        times[name].append(value)
                    times["a step meanwhile"] += beside
                    times["a step without a save"] += alone
        record.close()
    world.close()
    whole = statistics.median(times["a blocking save"])
    rows = [
        (name, f"{1000 * statistics.median(values):.0f} ms",
         f"{1000 * min(values):.0f} to {1000 * max(values):.0f}",
         f"{statistics.median(values) / whole:.1%}")
        for name, values in times.items()
    ]  # fmt: skip
    title = f"ResNet-34, SGD with momentum, {turns} turns, {world.threads} threads"
    screen.table(title, ("", "median", "range", "of a blocking save"), rows)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--data", help="a data_dir with CIFAR-10; without it images are synthetic")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--windows", type=int, default=9, help="for each side")
    parser.add_argument("--steps", type=int, default=70, help="in a window")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--startup", action="store_true", help="measure the start instead")
    parser.add_argument("--saving", action="store_true", help="measure checkpoints instead")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    if asked.startup:
        return startup(asked.windows)
    if asked.saving:
        return saving(asked.windows)
    given = [
        f"batch_size={asked.batch_size}",
        f"dataset={'cifar10' if asked.data else 'synthetic'}",
    ]
    loaded = load(RECIPES / "cifar_lenet.py")
    hparams, _ = resolve_hparams(loaded.recipe.hparams, map(from_argument, given))
    run = [f"threads={asked.threads}", f"data_dir={asked.data or 'data'}"]
    settings, _ = resolve_run(map(from_argument, run))
    world = connect(Launch(), hparams, settings)
    parts = build(loaded, hparams, settings, world)
    sides = {"floor": bare_window(parts), "launcher": launcher_window}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(asked.windows + 1):
        for name, window in sides.items():
            rate = window(parts, asked.steps)
            if number:  # the first of each warms up
                rates[name].append(rate)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = [
        (name, f"{medians[name]:,.0f}", " to ".join(f"{q:,.0f}" for q in _quartiles(values)),
         f"{medians[name] / medians['floor']:.3f}")
        for name, values in rates.items()
    ]  # fmt: skip
    what = (
        f"LeNet, {given[1]}, batch {asked.batch_size}, {world.threads} threads, "
        f"{asked.windows} windows of {asked.steps} steps; torch {torch.__version__}, "
        f"{platform.processor() or platform.machine()}"
    )
    screen.table(what, ("loop", "samples/s (median)", "quartiles", "of the floor"), rows)
    if asked.json:
        asked.json.write_text(json.dumps({"what": what, "rates": rates, "medians": medians}))
    world.close()
    return 0


def _quartiles(values: list[float]) -> tuple[float, float]:
    first, _, third = statistics.quantiles(values, n=4)
    return first, third


if __name__ == "__main__":
    sys.exit(main())
