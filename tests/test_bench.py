"""The bench: every column does the same work before it is timed, and its tables hold."""

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench
import pytest
import torch
from benching import columns, speed, timing
from benching.clock import Clock
from benching.found import Found, draw, write_json, write_page
from benching.job import Job
from benching.rows import CPU, GPU, Row, quick
from torch import nn

ROWS = {row.name: quick(row) for row in (*CPU, *GPU)}
NAMES = (
    "launcher", "floor", "tutorial", "accelerate",
    *(name for name in ("lightning", "ignite", "timm") if find_spec(name) is not None),
)  # fmt: skip
PEERS = [
    pytest.param(name, marks=[] if name in NAMES else pytest.mark.skip(f"{name} is not installed"))
    for name in columns.COLUMNS
]


def options(*words: str) -> Any:
    return bench.parser().parse_args([*words, "--quick", "--workers", "0"])


@pytest.fixture
def job() -> Iterator[Job]:
    with speed.ready(ROWS["lenet-128"], options("--set", "threads=1")) as made:
        yield made


# ── correctness comes first ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PEERS)
def test_every_column_does_the_updates_that_are_asked_for(job: Job, name: str) -> None:
    found = timing.check(job, name)
    assert (found.updates, found.samples) == (2, 32)
    assert found.loss == pytest.approx(timing.check(job, "floor").loss, abs=0.02)
    timing.compare(job, {name: found})


@pytest.mark.parametrize("name", ["launcher", "tutorial", "accelerate"])
def test_columns_that_can_be_told_an_order_end_with_the_floors_weights(job: Job, name: str) -> None:
    weights = []
    for column in ("floor", name):
        model = columns.COLUMNS[column](job, 0, Clock(0, 4, job.device), job.order(4))
        weights.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    untouched = nn.utils.parameters_to_vector(job.model().parameters()).detach()
    assert not torch.allclose(weights[0], untouched, atol=1e-6)


def lazy(job: Job, workers: int, clock: Clock, order: Sequence[int] | None) -> nn.Module:
    """A column that leaves out every second update."""
    model = job.model()
    optimizer = job.optimizer(model)
    image, label = job.floats()
    size, done = job.row.batch_size, 0
    while True:
        loss = nn.functional.cross_entropy(model(image[:size]), label[:size])
        loss.backward()  # type: ignore[no-untyped-call]
        if done % 2:
            optimizer.step()
        done += 1
        if clock.tick():
            return model


def test_a_column_that_leaves_out_updates_is_refused(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(columns.COLUMNS, "floor", lazy)
    with pytest.raises(timing.UnequalError, match="floor did 1 updates on 32 samples, where 2"):
        timing.measure(job, [0])


def test_a_column_that_learns_less_is_refused(job: Job) -> None:
    good, bad = (timing.Measured(updates=2, samples=32, accuracy=value) for value in (0.9, 0.3))
    with pytest.raises(timing.UnequalError, match=r"differ by 60\.0%, more than 50%"):
        timing.compare(job, {"launcher": good, "floor": bad})


def test_peers_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    left_out = dict(columns.missing(["launcher", "lightning", "timm"]))
    assert list(left_out) == ["lightning", "timm"]
    assert "pip install" in left_out["timm"]


# ── timing ───────────────────────────────────────────────────────────────────────────────────────


def test_a_clock_takes_the_steps_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([3.0, 10.0])
    clock = Clock(2, 3, torch.device("cpu"))
    monkeypatch.setattr("benching.clock.time.perf_counter", lambda: next(now))
    assert [clock.tick() for _ in range(5)] == [False] * 4 + [True]
    assert clock.seconds == 7.0


def test_a_window_counts_the_samples_of_its_steps(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benching.clock.Clock.seconds", 2.0)
    assert timing.window(job, "floor", 0) == 3 * 16 / 2.0


# ── suites ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["lenet-4-augmented", "mlp-256", "photos"])
def test_a_row_is_measured_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = speed.rates(options("--only", name, "--set", "threads=1"), CPU, "cpu")
    (row,) = found.rows
    assert row[0] == ROWS[name].title
    assert len(row) == len(found.columns)
    measured = found.raw[name]["columns"]
    assert set(measured) == set(NAMES)
    assert all(len(column["rates"]) == 2 for column in measured.values())
    assert found.bars[row[0]]["launcher"] == 1.0
    out = capsys.readouterr().out
    assert f"{row[0]}: " in out
    assert "2 windows of 3 steps" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet-128", "resnet-128-bf16"])
def test_the_rows_of_resnet_are_measured(name: str) -> None:
    found = speed.rates(options("--only", name, "--set", "threads=1"), CPU, "cpu")
    assert set(found.raw[name]["columns"]) == {"launcher", "floor", "tutorial"}


def test_the_rows_have_names_of_their_own() -> None:
    assert len(ROWS) == len((*CPU, *GPU))
    assert all(isinstance(row, Row) and row.title for row in ROWS.values())


# ── what is written ──────────────────────────────────────────────────────────────────────────────


def table() -> Found:
    return Found(
        "cpu", "rates", ("workload", "launcher"), [("LeNet", "9,000")],
        raw={"lenet": {"median": 9000.0}}, bars={"LeNet": {"launcher": 1.0, "floor": 1.1}},
    )  # fmt: skip


def test_a_pages_section_is_written_row_by_row() -> None:
    page = Path("speed.md")
    page.write_text(
        "before\n<!-- bench cpu -->\n| workload | launcher |\n| --- | --- |\n"
        "| LeNet | not measured |\n| MLP | not measured |\n<!-- end cpu -->\nafter\n"
    )
    write_page(page, [table()])
    lines = page.read_text().splitlines()
    assert "| LeNet | 9,000 |" in lines
    assert "| MLP | not measured |" in lines
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert page.read_text().count("| LeNet") == 1
    assert f"torch {torch.__version__.partition('+')[0]}" in page.read_text()


def test_a_page_without_the_section_is_refused() -> None:
    Path("speed.md").write_text("nothing\n")
    with pytest.raises(ValueError, match="no section <!-- bench cpu -->"):
        write_page(Path("speed.md"), [table()])


def test_figures_and_a_picture_are_written() -> None:
    write_json(Path("bench.json"), [table()])
    document = json.loads(Path("bench.json").read_text())
    assert document["tables"]["cpu"]["lenet"]["median"] == 9000.0
    assert document["machine"]["processor"]
    draw(Path("bench.png"), [table()])
    assert Path("bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line_runs_a_row_and_writes_everything() -> None:
    words = ["--only", "lenet-128", "--quick", "--workers", "0", "--json", "b.json"]
    assert bench.main([*words, "--set", "threads=1"]) == 0
    assert json.loads(Path("b.json").read_text())["tables"]["cpu"]["lenet-128"]["threads"] == 1
