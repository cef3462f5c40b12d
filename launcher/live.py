"""The display of a run on a terminal: where it is, how fast, how long it will take.

Drawn by a thread of rich's a few times a second, from numbers that the loop leaves here: a step
costs the loop one assignment.
"""

import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live as Drawing
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_FRAMES_PER_SECOND: Final = 4
_LOOK_BACK: Final = 30.0
"""Seconds over which the remaining time is estimated: evaluations and checkpoints are in it."""
_LONGEST_BAR: Final = 40
_SHORTEST_BAR: Final = 8


class Live:
    """Two bars and a line of figures, of constant width, until `stop`."""

    def __init__(self, console: Console, total_steps: int, step: int, steps_per_epoch: int) -> None:
        self.step = step
        """Steps done; set by whoever does them."""
        self.figures: Mapping[str, float | None] = {}
        """The latest line of metrics."""
        self.memory: Callable[[], int] = peak_bytes
        """The most bytes that the run has taken so far, where it computes."""
        self._total = total_steps
        self._epoch = steps_per_epoch
        self._past: deque[tuple[float, int]] = deque([(time.monotonic(), step)])
        self._drawing = Drawing(
            self, console=console, transient=True, refresh_per_second=_FRAMES_PER_SECOND
        )

    def start(self) -> None:
        """Begin to draw, below what is printed from now on."""
        self._drawing.start()

    def stop(self) -> None:
        """Take the display away; what was printed above it stays."""
        self._drawing.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, step = options.max_width - 1, self.step  # the last column may break the line
        epoch, place = divmod(min(step, self._total - 1), self._epoch)
        place += step >= self._total  # the last step ends its epoch, and begins no other
        epochs = -(-self._total // self._epoch)
        bars = (
            (f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}", place, self._epoch),
            ("all", step, self._total),
        )
        yield _bars(bars, width)
        left = f"{duration(self._remaining(step))} left"
        yield Text(fitting([left, *figures(self.figures, self.memory())], width), no_wrap=True)

    def _remaining(self, step: int) -> float | None:
        """Seconds to the end at the present rate; None before there is one."""
        now = time.monotonic()
        past = self._past
        if step != past[-1][1]:
            past.append((now, step))
        while len(past) > 2 and now - past[0][0] > _LOOK_BACK:
            past.popleft()
        (began, first), done = past[0], step - past[0][1]
        return (now - began) / done * (self._total - step) if done and first != step else None


def _bars(rows: tuple[tuple[str, int, int], ...], width: int) -> Table:
    grid = Table.grid(padding=(0, 1))
    counts = [f"{done:>{len(f'{total:,}')},}/{total:,}" for _, done, total in rows]
    room = width - max(len(label) for label, _, _ in rows) - max(map(len, counts)) - 8
    for (label, done, total), count in zip(rows, counts, strict=True):
        cells: list[Text | ProgressBar] = [Text(label, no_wrap=True)]
        if room >= _SHORTEST_BAR:
            cells.append(ProgressBar(total, done, width=min(room, _LONGEST_BAR)))
        cells += [Text(count, justify="right"), Text(f"{done / total:>4.0%}".replace("%", " %"))]
        grid.add_row(*cells)
    return grid


def figures(line: Mapping[str, float | None], memory: int) -> list[str]:
    """What a line of metrics says of training, the most important first, each of constant width."""
    found = []
    if "train/loss" in line:
        found = [
            f"loss {number(line['train/loss']):>8}",
            f"{line['train/samples_per_s'] or 0:>9,.0f} samples/s",
            f"data wait {line['train/data_wait'] or 0:>4.0%}".replace("%", " %"),
            f"lr {line['train/lr']:<9.4g}",
        ]
    return [*found, f"memory {memory / 1e9:.2f} GB"] if memory else found


def fitting(parts: list[str], width: int) -> str:
    """As many of the parts as fit into a line, from the first on; the first one always."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line


def number(value: float | None) -> str:
    """A loss or another score for people: four decimals, more where these would be zeros."""
    if value is None:
        return "not finite"
    return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    """`1:02:03`, `4:05`, or `-:--` for what is not known, at least five characters wide."""
    if seconds is None:
        return " -:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{clock:>5}"


def peak_bytes() -> int:
    """The most main memory that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
