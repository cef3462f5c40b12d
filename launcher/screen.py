"""What a terminal shows, and what a log file gets instead. Only the main process shows anything."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping

from rich.markup import escape as _escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from launcher.errors import LauncherError, Preempted
from launcher.live import Live, number
from launcher.streams import Console, safe

_BETWEEN_LINES = 5.0
_MOST_PROBLEMS = 50
_LONGEST = 3000
_FRAME = 98
"""Widest frame in a file, between its corners, however long its lines are."""


def escape(words: str) -> str:
    """Words that are shown as they are, in text with rich's markup."""
    return _escape(safe(words))


class Screen:
    """Progress on a terminal, plain lines elsewhere, nothing at all when `shown` is false."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._console = Console(soft_wrap=True)
        self._live: Live | None = None
        self._printed = 0.0
        self._loss: float | None = None
        self._columns: list[str] = []

    @property
    def _draws(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def facts(self, title: str, rows: Mapping[str, object]) -> None:
        """A title and aligned rows: the start banner, the closing table."""
        if not self._shown:
            return
        if self._draws:
            self._console.print()
        self._console.print(f"[bold]{escape(title)}[/bold]")
        width = max(map(len, rows))
        if self._draws:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True, min_width=width)
            grid.add_column(overflow="fold")
            for key, value in rows.items():
                grid.add_row(key, Text(safe(str(value))))
            self._console.print(grid, soft_wrap=False)
            return
        for key, value in rows.items():
            self._console.print(f"[dim]{key.ljust(width)}[/dim]  {escape(str(value))}")

    def line(self, text: str) -> None:
        """One line that stays."""
        if self._shown:
            self._console.print(safe(text), markup=False)

    def start(
        self, total_steps: int, step: int, steps_per_epoch: int,
        memory: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        """Begin to show progress; `memory` gives the bytes that the run takes, left out those of
        this process."""
        if self._shown and self._draws:
            self._live = Live(self._console, total_steps, step, steps_per_epoch)
            self._live.memory = memory or self._live.memory
            self._live.start()

    def step(self, step: int) -> None:
        """So many steps are done. Costs nothing: the display looks when it draws."""
        if self._live is not None:
            self._live.step = step

    def metrics(
        self, line: Mapping[str, float | None], total_steps: int, *, best: bool = False
    ) -> None:
        """A record: an evaluation as a line that stays, with the latest loss; training in the
        progress display, or as a plain line every few seconds (metrics.jsonl has them all)."""
        if "train/loss" not in line:
            self.noted(line, total_steps, best=best)
            return
        self._loss = line["train/loss"]
        if self._live is not None:
            self._live.figures = line
        elif (now := time.monotonic()) - self._printed >= _BETWEEN_LINES:
            self._printed = now
            self.line(
                f"epoch {line['epoch']:.2f}  step {line['step']}/{total_steps}  "
                f"loss {number(self._loss)}  lr {line['train/lr']:.4g}  "
                f"{line['train/samples_per_s']:,.0f} samples/s  "
                f"data wait {line['train/data_wait']:.0%}"
            )

    def noted(
        self, line: Mapping[str, float | None], total_steps: int, *, best: bool = False
    ) -> None:
        """A record as a line that stays, whatever its numbers are: an evaluation, or what a loop
        of one's own notes."""
        cells = {"epoch": f"{line['epoch']:.2f}", "step": f"{line['step']}/{total_steps}"}
        if self._loss is not None:
            cells["train/loss"] = shown("train/loss", self._loss)
        cells |= overall(line)
        mark = "  best" if best else ""
        longest = {"step": 2 * len(f"{total_steps}") + 1, "epoch": 6, "train/loss": 10}
        widths = [max(len(name), longest.get(name, 7)) + 2 for name in cells]
        if self._live is None or sum(widths) + len(mark) >= self._console.width:
            narrow = self._console.width - len(mark) if self._live is not None else None
            self.line(_in_words(cells, narrow) + mark)
            return
        if list(cells) != self._columns:
            self._columns = list(cells)
            heads = "".join(f"{name:>{w}}" for name, w in zip(cells, widths, strict=True))
            self._console.print(escape(heads), style="dim")
        text = "".join(f"{cell:>{w}}" for cell, w in zip(cells.values(), widths, strict=True))
        self._console.print(f"{escape(text)}[bold green]{mark}[/bold green]")

    def committed(self, step: int) -> None:
        """A checkpoint is durable: a line in a log file, which others may wait for."""
        if self._live is None:
            self.line(f"checkpoint step={step} committed")

    def stop(self) -> None:
        """End the progress display; lines can still be written."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _in_words(cells: Mapping[str, str], width: int | None) -> str:
    """`epoch 1.00  step 4/8  ...`; in a narrow terminal without what matters least."""
    left = dict(cells)
    least = ["train/loss", "epoch", *cells]
    while True:
        words = "  ".join(f"{name} {cell}" for name, cell in left.items())
        if width is None or len(words) < width or len(left) == 1:
            return words
        left.pop(least.pop(0), None)


def overall(scores: Mapping[str, float | None]) -> dict[str, str]:
    """The metrics for people, without those of single classes."""
    return {key: shown(key, value) for key, value in scores.items() if key.count("/") == 1}


def shown(metric: str, value: float | None) -> str:
    """A metric for people: accuracies in percent."""
    if value is None or "accuracy" not in metric:
        return number(value)
    return f"{value:.2%}".replace("%", " %")


def refuse(error: LauncherError, prefix: str = "") -> None:
    """One box on standard error: what is wrong, and what to do."""
    problems = [_cut(safe(problem)) for problem in error.problems[:_MOST_PROBLEMS]]
    if (more := len(error.problems) - _MOST_PROBLEMS) > 0:
        problems.append(f"and {more:,} more")
    body = "\n".join(problems)
    color = "yellow" if isinstance(error, Preempted) else "red"  # which is no failure
    title = f"[bold {color}]{prefix}{error.title}[/bold {color}]"
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(
            Panel(_escape(body), title=title, title_align="left", border_style=color, expand=False)
        )
        return
    # In a file a sentence is one line, for whoever searches it, and a path in it whole.
    lines = body.splitlines()
    width = min(_FRAME, max(map(len, [f"{prefix}{error.title}    ", *lines])) + 2)
    head = f"─ {prefix}{error.title} ".ljust(width, "─")
    framed = [f"╭{head}╮", *(f"│ {line}" for line in lines), f"╰{'─' * width}╯"]
    console.print("\n".join(framed), markup=False, soft_wrap=True)


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ... {len(words):,} characters"


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table on standard output. Raises StorageError, as `text` does, when it is full."""
    console = Console(width=None if sys.stdout.isatty() else 120, needed=True)
    console.print(f"\n[bold]{escape(title)}[/bold]")
    grid = Table()
    for place, column in enumerate(columns):
        grid.add_column(column, overflow="fold", no_wrap=place == 0)
    for row in rows:
        grid.add_row(*(escape(str(cell)) for cell in row))
    console.print(grid)


def text(words: str) -> None:
    """Text on standard output, as it is."""
    Console(soft_wrap=True, needed=True).print(safe(words), markup=False)
