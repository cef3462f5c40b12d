"""Curves of any length in bounded memory, without losing a spike."""

import json
import math
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.report.curves import BUCKETS, MOST_SERIES, Series, curves


def line(step: int, **values: float | None) -> bytes:
    return json.dumps(
        {"step": step, **{k.replace("_", "/"): v for k, v in values.items()}}
    ).encode()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000))
def test_a_series_keeps_sum_count_and_extremes(values: list[float]) -> None:
    series = Series()
    for step, value in enumerate(values):
        series.add(step, value)
    buckets = series.buckets
    assert len(buckets) <= 2 * BUCKETS
    assert series.count == len(values)
    assert min(b.low for b in buckets) == min(values)
    assert max(b.high for b in buckets) == max(values)
    assert math.isclose(sum(b.total for b in buckets), math.fsum(values), abs_tol=1e-3)
    assert buckets[0].first == 0
    assert buckets[-1].last == len(values) - 1
    assert all(one.last < other.first for one, other in pairwise(buckets))


def test_all_buckets_but_the_last_have_the_same_size() -> None:
    """Or the newest values would weigh more than the older ones."""
    series = Series()
    for step in range(12_345):
        series.add(step, 0.0)
    assert len({bucket.count for bucket in series.buckets[:-1]}) == 1
    assert len(series.buckets) >= BUCKETS


def test_a_spike_among_many_is_seen() -> None:
    series = Series()
    for step in range(100_000):
        series.add(step, 50.0 if step == 77_777 else 1.0)
    (spike,) = (bucket for bucket in series.buckets if bucket.high == 50)
    assert spike.first <= 77_777 <= spike.last


def test_a_smooth_curve_is_smooth_and_stays_where_it_was() -> None:
    series = Series()
    for step in range(1000):
        series.add(step, step + (100 if step % 2 else -100))
    smooth = [value for _, value in series.smooth()]
    raw = [bucket.mean for bucket in series.buckets]
    assert len(smooth) == len(raw)
    assert all(abs(value - mean) < 30 for value, mean in zip(smooth, raw, strict=True))
    rough = [abs(b - a) for a, b in pairwise(smooth[20:])]
    assert max(rough) < 15


def test_a_short_curve_is_not_smoothed() -> None:
    series = Series()
    for step in range(29):
        series.add(step, float(step % 2))
    assert series.smooth() == [(step, float(step % 2)) for step in range(29)]


def test_many_lines_cost_no_more_memory_than_few() -> None:
    def lines(count: int) -> Iterator[bytes]:
        return (line(step, train_loss=step % 7 / 7, test_accuracy=0.5) for step in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        found = curves(lines(count))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.lines == count
        return most

    few, many = peak(2_000), peak(12_000)
    assert many < 1.5 * few


def test_only_metrics_of_the_whole_become_series() -> None:
    found = curves([b'{"step": 1, "epoch": 0.5, "train/loss": 2, "test/accuracy": 0.5, '
                    b'"test/accuracy/cat": 0.1, "other": 3}'])  # fmt: skip
    assert set(found.series) == {"train/loss", "test/accuracy"}
    assert found.last["epoch"] == 0.5


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity", "-Infinity", "1e300"])
def test_what_is_not_finite_is_counted_and_left_out(value: str) -> None:
    found = curves([b'{"step": 1, "train/loss": 2.0}',
                    b'{"step": 2, "train/loss": %s}' % value.encode()])  # fmt: skip
    series = found.series["train/loss"]
    assert series.missing == 1
    assert series.last is None
    assert series.count == 1


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b"7", b'"step"', b'{"epoch": 1}', b'{"step": "1"}',
                b'{"step": null}', b'{"step": NaN}', b'{"step": 1, "test/loss": {}}',
                b"[" * 100_000, b"\xff"],
)  # fmt: skip
def test_a_damaged_line_is_counted_and_left_out(damaged: bytes) -> None:
    found = curves([line(1, train_loss=1.0), damaged, line(2, train_loss=0.5)])
    assert (found.lines, found.damaged, found.first_damaged) == (3, 1, 2)
    assert found.series["train/loss"].count == 2
    assert found.last["step"] == 2


def test_there_is_a_most_of_series() -> None:
    found = curves([json.dumps({"step": 1, f"test/m{number}": 1.0}).encode()
                    for number in range(200)])  # fmt: skip
    assert len(found.series) == MOST_SERIES
