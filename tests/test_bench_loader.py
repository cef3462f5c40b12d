"""The measurement of loaders: that it sees what it is there to see."""

import statistics
import sys
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))

import bench_loader


def batches(steps: int, pause: float, seconds: float = 0.0) -> Generator[int, None, None]:
    """A loader that needs so long for a batch, and pauses before each epoch."""
    while True:
        for number in range(steps):
            time.sleep(seconds if number else pause)
            yield 4


def test_a_pause_at_an_epochs_end_is_seen() -> None:
    shares = bench_loader.epoch_ends(batches(5, pause=0.05), steps=5, epochs=4, pace=0.005)
    assert len(shares) == 4 - 1
    assert min(shares) > 4


def test_where_there_is_no_pause_none_is_seen() -> None:
    shares = bench_loader.epoch_ends(batches(5, pause=0), steps=5, epochs=4, pace=0.02)
    assert sorted(shares)[1] < 2  # the middle one: others may be working beside


def test_a_loader_that_is_twice_as_fast_has_twice_the_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sides = {"slow": (batches(9, 0.02, 0.02), 0), "fast": (batches(9, 0.01, 0.01), 0)}
    rates = bench_loader.compare(sides, windows=3, seconds=0.1)
    medians = {name: statistics.median(of) for name, of in rates.items()}
    assert 1.4 < medians["fast"] / medians["slow"] < 2.6
    bench_loader.report("two", rates, ["fast"])
    assert f"{medians['fast']:,.0f}" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 1])
def test_photographs_come_in_whole_batches_epoch_after_epoch(tmp_path: Path, workers: int) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            pixels = np.zeros((8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.jpg")
    ours = bench_loader.ours_from_files(tmp_path, 4, workers)
    assert [next(ours) for _ in range(7)] == [4] * 7
    ours.close()
