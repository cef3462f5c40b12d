"""How fast batches are made, against torch's DataLoader with torchvision's transforms.

    python scripts/bench_loader.py --data data --photos photos/train [--json FILE]

In memory: CIFAR-10 with flip and shift, as `recipes/cifar_resnet.py` has it, against
`torchvision.datasets.CIFAR10` with RandomCrop, RandomHorizontalFlip, ToTensor and Normalize. From
files: `sources.folder` against `torchvision.datasets.ImageFolder` under the same transform,
RandomResizedCrop(224) and flip. The loader alone, without a model, in windows that take turns; what
was made ahead of a window is not counted. Medians of images per second with the quartiles, and the
ratio to DataLoader at its best number of workers and at the same one.

And what an epoch's end costs, with workers: a loop that takes a photograph batch and then sleeps so
long that the loader keeps up. Of each end the slowest of the steps around it, as a share of the
median step; beside it DataLoader, whose workers stay too, but make nothing ahead of a new epoch.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from outputs import no_place
from torch.utils.data import DataLoader, RandomSampler
from torchvision import datasets, transforms
from torchvision.transforms import v2

from launcher import Data, Split, augment, screen, sources
from launcher.data import Batch, Task, feed
from launcher.loader import PREFETCH, Loader, Origin
from launcher.plan import Plan
from launcher.rng import SampleRng

LEAST = 4 * 32
"""Photographs: an epoch of four batches."""
CPU = torch.device("cpu")
Batches = Generator[int, None, None]
"""Images in each batch, for ever."""
Measured = dict[str, list[float]]
"""Of each loader, its figure in each window or at each epoch's end."""


def ours_in_memory(data_dir: Path, size: int) -> Batches:
    """The launcher's batches of CIFAR-10, ready for the model."""
    sources.data_dir.set(data_dir)

    def transform(batch: Batch, rng: SampleRng) -> Batch:
        image = augment.flip(batch["image"], rng)
        return batch | {"image": augment.shift(image, rng, 4)}

    normalize = augment.normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    data = Data(train=Split(sources.load("cifar10", "train"), transform),
                test=Split(sources.load("cifar10", "test")), prepare=normalize)  # fmt: skip
    samples = len(data.train.source)
    plan = Plan(seed=0, epochs=10**6, samples=samples, batch_size=size, micro_batch_size=size)
    for _, batch in feed(data, plan, CPU):
        yield len(batch["label"])


def theirs(dataset: Any, size: int, workers: int) -> Batches:
    """torch's DataLoader, shuffled, its workers kept from epoch to epoch."""
    loader = DataLoader(
        dataset, size, sampler=RandomSampler(dataset), num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip
    while True:
        for _, label in loader:
            yield len(label)


def cifar(data_dir: Path) -> Any:
    """CIFAR-10 as the tutorials read it."""
    normalize = transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
             transforms.ToTensor(), normalize]  # fmt: skip
    return datasets.CIFAR10(str(data_dir), train=True, transform=transforms.Compose(steps))


def photo_transform() -> Any:
    """The same for both sides."""
    return v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(),
                       v2.PILToTensor()])  # fmt: skip


def ours_from_files(photos: Path, size: int, workers: int) -> Batches:
    """The launcher's loader over a folder, epoch after epoch."""
    source = sources.folder(photos, photo_transform())
    origin = Origin(Path("none.py"), "", "{}", Path("data"), "train")  # forked: never used
    samples = len(source)
    plan = Plan(seed=0, epochs=10**6, samples=samples, batch_size=size, micro_batch_size=size)
    tasks = (Task(ticket.samples, (ticket.epoch,)) for ticket in plan.tickets())
    for batch in Loader(source, origin, 0, workers)(tasks):
        yield len(batch["label"])


def epoch_ends(batches: Batches, steps: int, epochs: int, pace: float) -> list[float]:
    """The slowest of the three steps around each epoch's end, as shares of the median step: the
    epoch's last one and the next epoch's first two. A step takes a batch and sleeps `pace` seconds;
    an epoch has so many `steps`, at least 4. What comes before the first end is not counted."""
    took = []
    for _ in range(steps * (epochs + 1)):
        began = time.perf_counter()
        next(batches)
        time.sleep(pace)
        took.append(time.perf_counter() - began)
    median = statistics.median(took[steps:])
    firsts = range(2 * steps, len(took) - 1, steps)
    return [max(took[first - 1 : first + 2]) / median for first in firsts]


def compare(sides: dict[str, tuple[Batches, int]], windows: int, seconds: float) -> Measured:
    """Images per second of each side in each window; a side is its batches and its workers."""
    rates: Measured = {name: [] for name in sides}
    for number in range(windows + 1):
        for name, (batches, workers) in sides.items():
            for _ in range(1 + workers * (PREFETCH + 1)):  # made ahead, while the others ran
                next(batches)
            began, images = time.perf_counter(), 0
            while (took := time.perf_counter() - began) < seconds:
                images += next(batches)
            if number:  # the first of each warms up
                rates[name].append(images / took)
    return rates


def report(title: str, rates: Measured, ours: list[str]) -> None:
    """A table."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(value for name, value in medians.items() if name not in ours)
    rows = []
    for name, values in rates.items():
        first, _, third = statistics.quantiles(values, n=4)
        rows.append((name, f"{medians[name]:,.0f}", f"{first:,.0f} to {third:,.0f}",
                     f"{medians[name] / best:.2f}"))  # fmt: skip
    screen.table(title, ("loader", "images/s", "quartiles", "of DataLoader's best"), rows)


def in_memory(
    data_dir: Path, size: int, workers: Sequence[int], windows: int, seconds: float
) -> dict[str, Measured]:
    """CIFAR-10 by micro-batches of `size`: shown as a table; images per second by its title."""
    known = cifar(data_dir)
    sides = {"launcher": (ours_in_memory(data_dir, size), 0)}
    for n in workers:
        sides[f"DataLoader, {n} workers"] = (theirs(known, size, n), n)
    rates = compare(sides, windows, seconds)
    title = f"CIFAR-10, batch {size}, {windows} windows, {torch.get_num_threads()} threads"
    report(title, rates, ["launcher"])
    return {title: rates}


def from_files(
    photos: Path, workers: Sequence[int], windows: int, seconds: float
) -> dict[str, Measured]:
    """Photographs by batches of 32: shown as a table; images per second by its title."""
    known = datasets.ImageFolder(str(photos), photo_transform())
    sides, ours = {}, []
    for n in workers:
        ours.append(f"launcher, {n} workers")
        sides[ours[-1]] = (ours_from_files(photos, 32, n), n)
        sides[f"DataLoader, {n} workers"] = (theirs(known, 32, n), n)
    rates = compare(sides, windows, seconds)
    title = f"{len(known)} photographs, batch 32, {windows} windows"
    report(title, rates, ours)
    return {title: rates}


def ends(photos: Path, workers: int, epochs: int) -> dict[str, Measured]:
    """What an epoch's end costs: shown as a table; the shares of `epoch_ends` by its title."""
    known = datasets.ImageFolder(str(photos), photo_transform())
    steps = len(known) // 32
    sides: dict[str, Callable[[], Batches]] = {
        "launcher": lambda: ours_from_files(photos, 32, workers),
        "DataLoader": lambda: theirs(known, 32, workers),
    }
    pace = 1.5 * max(_seconds_a_batch(made(), workers) for made in sides.values())
    shares = {name: epoch_ends(made(), steps, epochs, pace) for name, made in sides.items()}
    title = f"ends of {epochs} epochs of {steps} steps of {pace:.3f} s and more, {workers} workers"
    rows = [(name, f"{statistics.median(of):.2f}", f"{max(of):.2f}") for name, of in shares.items()]
    columns = ("loader", "slowest step around an end / median step: median", "most")
    screen.table(title, columns, rows)
    return {title: shares}


def _seconds_a_batch(batches: Batches, workers: int) -> float:
    for _ in range(1 + workers * (PREFETCH + 1)):
        next(batches)
    began, some = time.perf_counter(), 4 * max(1, workers)
    for _ in range(some):
        next(batches)
    return (time.perf_counter() - began) / some


def complaint(asked: argparse.Namespace) -> str | None:
    """What is wrong with the command line, before anything is measured; None for nothing."""
    if not (asked.data or asked.photos):
        return "give --data, --photos or both"
    if asked.data and not (asked.data / "cifar-10-batches-py").is_dir():
        return f"--data {asked.data}: there is no cifar-10-batches-py in it."
    if asked.photos:
        photos = (path for path in asked.photos.glob("*/**/*") if path.is_file())
        if len(list(islice(photos, LEAST))) < LEAST:
            return f"--photos {asked.photos}: there are fewer than {LEAST} files in class folders."
    least = {"windows": 2, "threads": 1, "epochs": 2}  # quartiles need two, an epoch's end too
    for option, number in least.items():
        if getattr(asked, option) < number:
            return f"--{option} {getattr(asked, option)}: give at least {number}."
    if not 0 < asked.seconds < math.inf:
        return f"--seconds {asked.seconds:g}: give more than 0."
    if min(asked.workers) < 0:
        return f"--workers {min(asked.workers)}: give 0 or more."
    if asked.json and (wrong := no_place("--json", asked.json)):
        return wrong
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="a data_dir with CIFAR-10")
    parser.add_argument("--photos", type=Path, help="a folder of class folders with photographs")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a window")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20, help="whose ends are looked at")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    if wrong := complaint(asked):
        parser.error(wrong)
    torch.set_num_threads(asked.threads)
    found: dict[str, dict[str, Measured]] = {"rates": {}, "ends": {}}
    if asked.data:
        for size in (128, 4):
            found["rates"] |= in_memory(
                asked.data, size, asked.workers, asked.windows, asked.seconds
            )
    if asked.photos:
        found["rates"] |= from_files(asked.photos, asked.workers, asked.windows, asked.seconds)
        found["ends"] |= ends(asked.photos, max(asked.workers), asked.epochs)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
