"""What a tuning found: a document for machines, a table and a picture for people, and progress."""

import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from outputs import no_place
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tuning import DEEPER, TIE, Found, quartiles
from tuning_windows import Lane

from launcher import screen
from launcher.errors import SettingsError

_BETWEEN_LINES = 5.0
Document = dict[str, Any]


class Show:
    """Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, title: str, *, shown: bool) -> None:
        console = Console(stderr=True, highlight=False, emoji=False)
        self._title, self._shown, self._said = title, shown, -math.inf
        self._bar: Progress | None = None
        if shown and console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
                TextColumn("{task.fields[words]}"), console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(screen.escape(title), total=1.0, words="")

    def __enter__(self) -> "Show":
        if self._bar is not None:
            self._bar.start()
        return self

    def __call__(self, words: str, done: float) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, words=words)
        elif self._shown and now - self._said >= _BETWEEN_LINES:
            self._said = now
            sys.stderr.write(f"{self._title}: {done:.0%}, {words}\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._bar is not None:
            self._bar.stop()


def spread(values: Sequence[float]) -> Document | None:
    """The median and the quartiles of some windows."""
    if not values:
        return None
    low, median, high = quartiles(values)
    return {"median": median, "low": low, "high": high, "windows": len(values)}


def row(lane: Lane) -> Document:
    """What was measured of one candidate."""
    return {
        "workers": lane.workers,
        "prefetch": lane.prefetch,
        "first_batch_s": lane.first_batch,
        "alone": spread(lane.alone),
        "training": spread(lane.training),
        "data_wait": statistics.median(lane.waits) if lane.waits else None,
        "memory_mb_per_worker": statistics.mean(lane.memory) / 1e6 if lane.memory else None,
        "out": lane.out,
    }


def answer(found: Found, *, in_memory: bool) -> Document:
    """What was found and decided, and in sentences."""
    sentences = [_keeping_up(found, in_memory=in_memory)]
    if found.deeper is not None:
        kept = "is taken" if found.prefetch == DEEPER else "is not worth it"
        sentences.append(f"prefetch {DEEPER} {kept}: {found.deeper:.2f} of the rate.")
    if found.threads is not None and found.threads[1] > 1 + TIE:
        threads, share = found.threads
        sentences.append(
            f"threads={threads} leaves the workers their cores: {share - 1:.0%} faster with these "
            f"workers. Tune again with it, and give it to the run."
        )
    sentences += [f"{number} workers: {why}" for number, why in found.short.items()]
    return {
        "candidates": [row(lane) for lane in found.lanes],
        "model": spread(found.model),
        "workers": found.chosen.workers,
        "prefetch": found.prefetch,
        "deeper_prefetch": found.deeper,
        "other_threads": found.threads,
        "data_wait": found.waits,
        "keeps_up": found.keeps_up,
        "too_busy": found.contradicts_itself and not in_memory,
        "in_memory": in_memory,
        "sentences": sentences,
        "seconds": found.seconds,
    }


def _keeping_up(found: Found, *, in_memory: bool) -> str:
    rate, model = statistics.median(found.chosen.training), statistics.median(found.model)
    share = f"training takes {rate:,.0f} samples/s, the model alone {model:,.0f}"
    if found.contradicts_itself and in_memory:
        return (
            f"0 workers: data in memory needs none. The machine was too busy for more than that: "
            f"{share}, which is less work."
        )
    if found.contradicts_itself:
        return (
            f"no answer: {share}, which is less work, and {found.waits:.0%} of the time it waits "
            f"for data: the machine was too busy. Tune again when it does nothing else."
        )
    if in_memory:
        return (
            f"0 workers: data in memory needs none. Taking it is {found.waits:.0%} of the time: "
            f"{share}."
        )
    number = found.chosen.workers
    workers = f"{number} worker{'s' * (number != 1)}"
    if found.keeps_up:
        return f"{workers}: the model waits for data {found.waits:.0%} of the time: {share}."
    return (
        f"{workers}, and the loader cannot keep up: {share}, {max(0.0, 1 - rate / model):.0%} less "
        f"than it could; {found.waits:.0%} of the time it waits for data."
    )


def against(rows: Sequence[tuple[int, int, float]], seconds: float, result: Document) -> Document:
    """An exhaustive sweep, and how near the answer comes to its best."""
    answer = result["workers"], result["prefetch"]
    own = next(rate for workers, ahead, rate in rows if (workers, ahead) == answer)
    best = max(rows, key=lambda row: row[2])
    result["sentences"].append(
        f"exhaustive sweep in {seconds:.0f} s: best {best[0]} workers, prefetch {best[1]}, "
        f"{best[2]:,.0f} samples/s; the answer has {own / best[2]:.1%} of that, found in "
        f"{result['seconds'] / seconds:.0%} of the sweep's time."
    )
    return {
        "rows": [{"workers": w, "prefetch": p, "training": rate} for w, p, rate in rows],
        "seconds": seconds, "share_of_best": own / best[2],
        "share_of_time": result["seconds"] / seconds,
    }  # fmt: skip


def title(result: Document) -> str:
    """`recipes/mine.py epochs=2`."""
    return " ".join([result["recipe"], *result["settings"]])


def table(result: Document) -> None:
    """The table of one recipe, and what follows from it."""
    about = (
        f"{title(result)}: {result['device']}, micro-batches of {result['micro_batch_size']}, "
        f"processes {result['processes']}, threads {result['threads']}"
    )
    columns = ["workers", "first batch", "loader alone, samples/s", "training, samples/s"]
    columns += ["waits", "memory", ""]
    if "passes" in result:
        columns = ["workers", "one pass", "samples/s", "first batch", "memory"]
        screen.table(about, columns, (_pass(row) for row in result["passes"]))
        return
    rows = [_candidate(row, result) for row in result["candidates"]]
    rows.append(["model", "", "", _rates(result["model"]), "", "", "alone"])
    screen.table(about, columns, rows)
    for sentence in result["sentences"]:
        screen.text(sentence)


def is_answer(row: Document, result: Document) -> bool:
    """Whether a row is what was decided on. Nothing is where figures contradicted each other, or
    where only passes were timed."""
    return not result.get("too_busy", True) and bool(row["workers"] == result["workers"])


def _candidate(row: Document, result: Document) -> list[str]:
    chosen = "the answer" if is_answer(row, result) else ""
    return [
        str(row["workers"]), f"{row['first_batch_s']:.2f} s", _rates(row["alone"]),
        _rates(row["training"]), f"{row['data_wait']:.0%}", _memory(row), chosen or row["out"],
    ]  # fmt: skip


def _pass(row: Document) -> list[str]:
    rate = row["alone"]["median"]
    first = f"{row['first_batch_s']:.2f} s"
    return [str(row["workers"]), f"{row['seconds']:.2f} s", f"{rate:,.0f}", first, _memory(row)]


def _rates(values: Document | None) -> str:
    if values is None:
        return ""
    return f"{values['median']:,.0f} ({values['low']:,.0f} - {values['high']:,.0f})"


def _memory(row: Document) -> str:
    size = row["memory_mb_per_worker"]
    return f"{size:.0f} MB" if size else ""


def can_plot(path: Path) -> None:
    """Raises SettingsError when a picture could not be written there: better now than later."""
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise SettingsError(f"--plot {path}: give a name that ends in .png, .pdf or .svg.")
    if wrong := no_place("--plot", path):
        raise SettingsError(wrong)
    try:
        import matplotlib as matplotlib
    except ImportError as error:
        raise SettingsError("--plot needs matplotlib: pip install matplotlib.") from error


def plot(results: Sequence[Document], path: Path) -> None:
    """One panel for each recipe: bars with their spread, and the model's rate as a line."""
    from matplotlib.figure import Figure

    across = min(3, len(results))
    down = -(-len(results) // across)
    figure = Figure(figsize=(5.5 * across, 4.2 * down), layout="constrained")
    for number, result in enumerate(results):
        _panel(figure.add_subplot(down, across, number + 1), result)
    figure.savefig(path, dpi=150)


def _panel(axes: Any, result: Document) -> None:
    rows = result.get("passes") or result["candidates"]
    for offset, (key, label, color) in enumerate(
        (("alone", "loader alone", "tab:gray"), ("training", "training", "tab:blue"))
    ):
        shown = [(place, row[key]) for place, row in enumerate(rows) if row[key]]
        heights = [values["median"] for _, values in shown]
        below = [values["median"] - values["low"] for _, values in shown]
        above = [values["high"] - values["median"] for _, values in shown]
        places = [place + 0.4 * offset - 0.2 for place, _ in shown]
        if shown:
            axes.bar(
                places, heights, 0.38, yerr=(below, above), capsize=3, label=label, color=color
            )
    if result.get("model"):
        rate = result["model"]["median"]
        axes.axhline(rate, color="tab:red", linestyle="--", label="model alone")
    marks = ["\n(answer)" if is_answer(row, result) else "" for row in rows]
    names = [f"{row['workers']}{mark}" for row, mark in zip(rows, marks, strict=True)]
    axes.set_xticks(range(len(rows)), names)
    axes.set_xlabel("loader processes for each training process")
    axes.set_ylabel("samples per second")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)  # the legend above the bars
    axes.set_title(title(result)[-60:], fontsize=10)
    axes.legend(fontsize=8, ncols=3, loc="upper center", frameon=False)
