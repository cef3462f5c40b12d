"""What a terminal shows, and what a log file gets instead. Only the main process shows anything."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape as _escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from launcher.errors import LauncherError

_BETWEEN_LINES = 5.0
_BETWEEN_FRAMES = 0.1
_MOST_PROBLEMS = 50
_LONGEST = 3000


def _safe(words: str) -> str:
    """Words without what would control a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in words)


def escape(words: str) -> str:
    """Words that are shown as they are, in text with rich's markup."""
    return _escape(_safe(words))


class _Console(Console):
    """A console that shows `:100:` as it is, and whose reader may leave: `launcher ... | head`."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """Go on in silence, where rich would end the program."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console(*, stderr: bool = False) -> Console:
    """A console for what draws by itself."""
    return _Console(stderr=stderr)


class Screen:
    """Progress on a terminal, plain lines elsewhere, nothing at all when `shown` is false."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._console = _Console(soft_wrap=True)
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._printed = 0.0
        self._loss: float | None = None
        self._drawn = 0.0

    def facts(self, title: str, rows: Mapping[str, object]) -> None:
        """A title and aligned rows: the start banner, the closing table."""
        if not self._shown:
            return
        self._console.print(f"[bold]{escape(title)}[/bold]")
        width = max(map(len, rows))
        for key, value in rows.items():
            self._console.print(f"[dim]{key.ljust(width)}[/dim]  {escape(str(value))}")

    def line(self, text: str) -> None:
        """One line that stays."""
        if self._shown:
            self._console.print(_safe(text), markup=False)

    def start(self, total_steps: int, step: int) -> None:
        """Begin to show progress."""
        if self._shown and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(), console=self._console, transient=True,
                refresh_per_second=4,
            )  # fmt: skip
            self._live.start()
            self._task = self._live.add_task("", total=total_steps, completed=step, text="")

    def step(self, step: int, steps_per_epoch: int) -> None:
        """A step is done. Cheap: it draws ten times a second at most."""
        if self._live is None or (now := time.monotonic()) - self._drawn < _BETWEEN_FRAMES:
            return
        self._drawn = now
        epoch, place = divmod(step, steps_per_epoch)
        description = f"epoch {epoch + 1}  step {place}/{steps_per_epoch}"
        self._live.update(self._task, completed=step, description=description)

    def metrics(self, line: Mapping[str, float | None], total_steps: int) -> None:
        """A record: an evaluation as a line that stays, with the latest loss; training in the
        progress display, or as a plain line every few seconds (metrics.jsonl has them all)."""
        if "train/loss" not in line:
            text = "  ".join(f"{key} {score}" for key, score in overall(line).items())
            if self._loss is not None:
                text = f"train/loss {shown('train/loss', self._loss)}  {text}"
            self.line(f"epoch {line['epoch']:.2f}  step {line['step']}/{total_steps}  {text}")
            return
        self._loss = line["train/loss"]
        text = (
            f"loss {line['train/loss']:.4f}  lr {line['train/lr']:.4g}  "
            f"{line['train/samples_per_s']:,.0f} samples/s  data wait {line['train/data_wait']:.0%}"
        )
        if self._live is not None:
            self._live.update(self._task, text=text)
        elif (now := time.monotonic()) - self._printed >= _BETWEEN_LINES:
            self._printed = now
            self.line(f"epoch {line['epoch']:.2f}  step {line['step']}/{total_steps}  {text}")

    def committed(self, step: int) -> None:
        """A checkpoint is durable: a line in a log file, which others may wait for."""
        if self._live is None:
            self.line(f"checkpoint step={step} committed")

    def stop(self) -> None:
        """End the progress display; lines can still be written."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def overall(scores: Mapping[str, float | None]) -> dict[str, str]:
    """The metrics for people, without those of single classes."""
    return {key: shown(key, value) for key, value in scores.items() if key.count("/") == 1}


def shown(metric: str, value: float | None) -> str:
    """A metric for people: accuracies in percent."""
    if value is None:
        return "not finite"
    return f"{value:.2%}".replace("%", " %") if "accuracy" in metric else f"{value:.4f}"


def refuse(error: LauncherError, prefix: str = "") -> None:
    """One box on standard error: what is wrong, and what to do."""
    problems = [_cut(escape(problem)) for problem in error.problems[:_MOST_PROBLEMS]]
    if (more := len(error.problems) - _MOST_PROBLEMS) > 0:
        problems.append(f"and {more:,} more")
    body = "\n".join(problems)
    title = f"[bold red]{prefix}{error.title}[/bold red]"
    console = _Console(stderr=True)
    if not console.is_terminal:  # in a file a path is whole
        console.width = max(console.width, 4 + max(len(line) for line in body.splitlines()))
    console.print(Panel(body, title=title, title_align="left", border_style="red", expand=False))


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ... {len(words):,} characters"


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table on standard output."""
    console = _Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"\n[bold]{escape(title)}[/bold]")
    grid = Table()
    for number, column in enumerate(columns):
        grid.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        grid.add_row(*(escape(str(cell)) for cell in row))
    console.print(grid)


def text(words: str) -> None:
    """Text on standard output, as it is."""
    _Console(soft_wrap=True).print(_safe(words), markup=False)
