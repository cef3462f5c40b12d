"""The suites `cpu` and `gpu`: samples per second of every column on every row."""

import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from benching import photos
from benching.found import Found
from benching.job import Job
from benching.rows import COLUMNS, CPU, PEERS, Row, quick
from benching.timing import Measured, measure
from launcher import screen

COLUMN_NAMES = {
    "launcher": "launcher", "floor": "floor", "tutorial": "tutorial's loop",
    "accelerate": "Accelerate", "lightning": "Lightning", "ignite": "Ignite",
    "timm": "timm's loader",
}  # fmt: skip


def cpu(asked: Namespace) -> list[Found]:
    """Every row on the processor."""
    return [rates(asked, CPU, "cpu")]


def rates(asked: Namespace, rows: Sequence[Row], key: str) -> Found:
    """A table of the rows that are asked for."""
    columns = ("workload", *(COLUMN_NAMES[name] for name in COLUMNS), "of the floor",
               "times the fastest peer")  # fmt: skip
    found = Found(key, "samples/s, median of the windows [quartiles]; workers", columns)
    for row in rows:
        if asked.only and row.name not in asked.only:
            continue
        with ready(row, asked) as job:
            measured, left_out = measure(job, asked.workers)
        show(job, measured, left_out)
        add(found, job, measured, left_out)
    return found


def show(job: Job, measured: dict[str, Measured], left_out: dict[str, str]) -> None:
    """One row of the bench as a table of its own, a line for each trainer."""
    own = measured["launcher"].median
    lines: list[tuple[str, ...]] = []
    for name, column in measured.items():
        low, high = column.quartiles
        tried = ", ".join(f"{number}: {rate:,.0f}" for number, rate in column.tried.items())
        workers = f"{column.workers} ({tried})" if tried else f"{column.workers}"
        lines.append((
            COLUMN_NAMES[name], f"{column.median:,.0f}", f"{low:,.0f} to {high:,.0f}",
            f"{column.median / own:.2f}", workers,
            f"{column.accuracy:.1%}",
        ))  # fmt: skip
    lines += [(COLUMN_NAMES[name], why) for name, why in left_out.items()]
    title = (
        f"{job.row.title}: {Path(job.root).name}, {job.threads} threads, {job.row.windows} windows "
        f"of {job.row.steps} steps"
    )
    columns = ("trainer", "samples/s", "quartiles", "launcher = 1", "workers (tried: samples/s)",
               f"test accuracy after {job.row.check} updates")  # fmt: skip
    screen.table(title, columns, lines)


@contextmanager
def ready(row: Row, asked: Namespace) -> Iterator[Job]:
    """A row as it is asked for, with its data."""
    row = quick(row) if asked.quick else row
    changes = {name: getattr(asked, name) for name in ("windows", "steps") if getattr(asked, name)}
    if asked.columns:
        wanted = ("launcher", *asked.columns)
        changes["columns"] = tuple(name for name in row.columns if name in wanted)
    row = replace(row, **changes)
    made = row.dataset == "photos" and not asked.photos
    with tempfile.TemporaryDirectory() if made else nullcontext() as folder:
        if folder is not None:
            photos.make(Path(folder), classes=2 if asked.quick else 4, each=60)
        dataset = row.dataset if asked.data else "synthetic"
        if row.dataset == "photos":
            dataset = str(asked.photos or folder)
        forget_processes()
        job = Job.of(row, dataset, asked.data or "data", asked.set)
        try:
            yield job
        finally:
            job.close()
            forget_processes()


def forget_processes() -> None:
    """Accelerate keeps what it found in singletons, and rows differ in their precision."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    PartialState._reset_state()
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]


def add(
    found: Found, job: Job, measured: dict[str, Measured], left_out: dict[str, str]
) -> None:  # fmt: skip
    """One row of the table."""
    own = measured["launcher"].median
    cells = [job.row.title]
    for name in COLUMNS:
        column = measured.get(name)
        if column is None:
            cells.append(left_out.get(name, "not in this row"))
            continue
        low, high = column.quartiles
        workers = f"; {column.workers} w" if name != "floor" else ""
        ratio = "" if name == "launcher" else f" = {column.median / own:.2f}"
        cells.append(f"{column.median:,.0f} [{low:,.0f}-{high:,.0f}{workers}]{ratio}")
    floor = measured.get("floor")
    peers = [measured[name].median for name in PEERS if name in measured]
    cells.append(f"{own / floor.median:.2f}" if floor else "")
    cells.append(f"{own / max(peers):.2f}" if peers else "")
    found.rows.append(tuple(cells))
    found.bars[job.row.title] = {
        COLUMN_NAMES[name]: column.median / own for name, column in measured.items()
    }
    found.raw[job.row.name] = {
        "row": asdict(job.row), "threads": job.threads, "dataset": Path(job.root).name,
        "left_out": left_out,
        "columns": {
            name: asdict(column) | {"median": column.median, "quartiles": column.quartiles}
            for name, column in measured.items()
        },
    }  # fmt: skip
