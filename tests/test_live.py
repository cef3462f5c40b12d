"""The display of a run on a terminal."""

import io
import time

import pytest
from rich.console import Console

from launcher.live import Live, duration, figures, fitting, number, peak_bytes

LINE = {
    "step": 40, "train/loss": 1.25, "train/lr": 0.05, "train/samples_per_s": 12345.6,
    "train/data_wait": 0.125,
}  # fmt: skip


def drawn(live: Live, width: int) -> list[str]:
    """The lines of the display in a terminal of so many columns."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as found:
        console.print(live)
    return [line.rstrip() for line in found.get().splitlines()]


def made(step: int = 0, total: int = 100, per_epoch: int = 10) -> Live:
    return Live(Console(file=io.StringIO()), total, step, per_epoch)


def test_it_shows_the_epoch_and_the_whole_with_a_bar_each() -> None:
    epoch, whole, _ = drawn(made(34), 80)
    assert epoch.startswith("epoch  4/10 ")
    assert epoch.endswith(" 4/10  40 %")
    assert whole.startswith("all ")
    assert whole.endswith(" 34/100  34 %")


@pytest.mark.parametrize(
    ("step", "epoch", "place"),
    [(0, "1/10", "0/10"), (9, "1/10", "9/10"), (10, "2/10", "0/10"), (100, "10/10", "10/10")],
)
def test_the_last_step_belongs_to_the_last_epoch(step: int, epoch: str, place: str) -> None:
    first = drawn(made(step), 80)[0].split()
    assert (first[1], first[-3]) == (epoch, place)


def test_an_epoch_that_is_cut_short_counts() -> None:
    assert drawn(made(11, total=15), 80)[0].split()[1] == "2/2"


@pytest.mark.parametrize("width", [40, 45, 60, 80, 140, 300])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    live = made(34, total=1_000_000, per_epoch=10_000)
    live.figures = LINE
    lines = drawn(live, width)
    assert all(len(line) < width for line in lines)
    assert len(lines) == 3, "nothing is broken into more lines"


def test_a_wide_terminal_shows_every_figure() -> None:
    live = made(34)
    live.figures = LINE
    live.memory = lambda: 2_500_000_000
    last = drawn(live, 140)[-1]
    for words in (
        "loss   1.2500", "12,346 samples/s", "data wait  12 %", "lr 0.05", "memory 2.50 GB", "left"
    ):  # fmt: skip
        assert words in last


def test_figures_have_a_constant_width() -> None:
    other = LINE | {"train/loss": 0.00001234, "train/samples_per_s": 9.5, "train/data_wait": 1.0}
    assert [len(part) for part in figures(LINE, 10**9)] == [
        len(part) for part in figures(other, 10**9)
    ]


def test_the_time_that_is_left_follows_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    live = made(0, total=1000)
    assert "-:-- left" in drawn(live, 80)[-1]
    for _ in range(10):
        now[0] += 1.0
        live.step += 2
        last = drawn(live, 80)[-1]
    assert "8:10 left" in last, "980 steps at 2 a second"


def test_a_run_that_continues_does_not_count_the_steps_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    live = made(900, total=1000)
    now[0] += 10
    live.step = 910
    assert "1:30 left" in drawn(live, 80)[-1]


def test_a_number_of_any_size_can_be_read() -> None:
    assert [number(value) for value in (0.98765, 12.5, 0.0, 0.00002, -0.5, None)] == [
        "0.9877", "12.5000", "0.0000", "2.0e-05", "-0.5000", "not finite",
    ]  # fmt: skip


def test_durations_read_as_clocks() -> None:
    found = [duration(seconds) for seconds in (0, 59.6, 245, 3723, None)]
    assert found == [" 0:00", " 1:00", " 4:05", "1:02:03", " -:--"]


def test_as_many_parts_as_fit() -> None:
    parts = ["first", "second", "third"]
    assert [fitting(parts, width) for width in (3, 13, 20, 80)] == [
        "first", "first  second", "first  second  third", "first  second  third",
    ]  # fmt: skip


def test_memory_is_that_of_this_process() -> None:
    assert 10**7 < peak_bytes() < 10**12
