"""The bench: every column does the same work before it is timed, and its tables hold."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench
import pytest
import torch
from benching import (
    asking,
    columns,
    gpu,
    loading,
    overhead,
    probe,
    saving,
    scaling,
    speed,
    startup,
    timing,
)
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


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", ["launcher", "tutorial", "accelerate"])
def test_columns_that_can_be_told_an_order_end_with_the_floors_weights(job: Job, name: str) -> None:
    weights = []
    for column in ("floor", name):
        model = columns.COLUMNS[column](job, 0, Clock(0, 4, job.device), job.order(4))
        weights.append(flat(model))
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    untouched = flat(job.model())
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


@pytest.mark.parametrize(
    "name",
    [
        "lenet-4-augmented",
        "mlp-256",
        pytest.param("photos", marks=pytest.mark.slow),  # loader processes, again and again
    ],
)
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


def test_the_page_on_speed_has_a_section_for_every_table() -> None:
    page = (Path(bench.__file__).parents[1] / "docs" / "speed.md").read_text()
    keys = [
        "cpu",
        "startup",
        "checkpoint",
        "loader",
        "loader-ends",
        "gpu",
        "gpu-peak",
        "gpu-accuracy",
    ]
    for key in [*keys, *(f"scaling-{kind}" for kind in scaling.POINTS)]:
        assert page.count(f"<!-- bench {key} -->\n") == page.count(f"<!-- end {key} -->\n") == 1
    for row in CPU:
        assert f"\n| {row.title} | " in page
    Path("speed.md").write_text(page)
    rates = Found("cpu", "", ("workload", *speed.COLUMN_NAMES.values(), "floor", "peer"), [])
    write_page(Path("speed.md"), [rates])  # the columns fit, so that the rows stay
    assert f"\n| {CPU[0].title} | not measured" in Path("speed.md").read_text()


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


# ── the other suites ─────────────────────────────────────────────────────────────────────────────


def test_the_gpu_suite_says_that_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.gpu(bench.parser().parse_args(["--suite", "gpu"])) == []
    assert "no GPU here: nothing is measured" in capsys.readouterr().out


def test_the_gpu_suites_rows_and_its_peak_run_on_any_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = tuple(replace(row, network="lenet", columns=("launcher", "floor")) for row in GPU)
    monkeypatch.setattr(gpu, "GPU", rows)
    found = speed.rates(options("--only", "lenet-4-gpu", "--set", "threads=1"), rows, "gpu")
    assert set(found.raw["lenet-4-gpu"]["columns"]) == {"launcher", "floor"}
    table = gpu.peak(options("--set", "threads=1"))
    assert [row[0] for row in table.rows] == ["no", "bf16"]
    for figures in table.raw.values():
        # Two convolutions and three layers, three times, but for the gradient of the image.
        convolutions = 2 * (28 * 28 * 6 * 75), 2 * (10 * 10 * 16 * 150)
        layers = 2 * (400 * 120 + 120 * 84 + 84 * 10)
        assert figures["flops_per_sample"] == 3 * (sum(convolutions) + layers) - convolutions[0]
        assert figures["peak"] > 0


def test_a_matrix_products_operations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr("benching.gpu.time.perf_counter", lambda: next(now))
    assert gpu.matmul_peak(torch.device("cpu"), "no", 8) == 2 * 8**3


@pytest.mark.slow
def test_the_time_to_an_accuracy_is_read_from_a_run() -> None:
    (row,) = gpu.time_to_accuracy(options("--set", "threads=1")).rows
    assert row[0] == "fashion_mlp"
    assert float(row[2]) >= 0


@pytest.mark.slow
def test_start_up_is_timed_for_us_and_a_peer() -> None:
    words = ["--suite", "startup", "--quick", "--only", "launcher", "tutorial"]
    (found,) = startup.startup(bench.parser().parse_args(words))
    assert [row[0] for row in found.rows] == ["launcher", "tutorial"]
    assert all(seconds[0] > 0.2 for seconds in found.raw["seconds"].values())


def test_a_checkpoint_is_timed_with_one_in_the_window() -> None:
    (found,) = saving.checkpoint(options("--suite", "checkpoint", "--set", "threads=1"))
    (row,) = found.rows
    assert row[0].startswith("LeNet")
    assert len(found.raw["lenet-128-saved"]["seconds, processor seconds"]) == 2


@pytest.mark.parametrize(
    ("kind", "number", "keys"),
    [
        ("samples", 1_000, {"seconds_to_first", "batch_us", "epoch_end_us", "memory_mb"}),
        ("classes", 2_000, {"seconds", "record_kb", "memory_mb"}),
        ("processes", 4, {"seconds_to_first", "step_us", "memory_mb"}),
        ("lines", 1_000, {"seconds", "memory_mb"}),
    ],
)
def test_a_point_of_growth_is_probed(kind: str, number: int, keys: set[str]) -> None:
    taken = getattr(probe, kind)(number)
    assert set(taken) == keys
    assert all(value >= 0 for value in taken.values())


def test_shares_that_are_not_the_batch_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_one_step", lambda plan, process: [next(plan.tickets(0, 0))])
    with pytest.raises(AssertionError, match="shares are not the batch"):
        probe.processes(4)


def test_the_overhead_suite_takes_pairs_of_windows() -> None:
    (found,) = overhead.overhead(options("--suite", "overhead", "--only", "mlp-4-overhead"))
    (row,) = found.rows
    assert row[0] == "MLP, Fashion-MNIST, batch 4, one thread"
    pairs = found.raw["mlp-4-overhead"]["clock and processor, us"]
    assert len(pairs) == 2
    for pair in pairs:
        assert all(used > 0 for _, used in pair.values())
    assert [list(pair) for pair in pairs] == [["floor", "launcher"], ["launcher", "floor"]]


def test_the_loader_suite_wants_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert loading.loading(options("--suite", "loader")) == []
    assert "needs --data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--only lenet", "--only lenet: the suite cpu has lenet-128, "),
        ("--suite startup --only peak", "--only peak: the suite startup has import torch, "),
        ("--suite loader --only lenet-128", "the suite loader has no rows to choose from"),
        ("--data nowhere", "--data nowhere: there is no such folder"),
        ("--windows 0", "--windows 0: give at least 1"),
        ("--suite loader --windows 1", "--windows 1: give at least 2"),
        ("--workers 0 -1", "--workers -1: give 0 or more"),
        ("--json no/b.json", "--json no/b.json: there is no folder no"),
        ("--plot b.txt", "--plot b.txt: give a name that ends in .png, .pdf or .svg"),
        ("--markdown page.md", "--markdown page.md: give a page that has"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_measured(
    words: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "suite", lambda name: pytest.fail("it measured"))
    with pytest.raises(SystemExit) as raised:
        bench.main(words.split())
    assert raised.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", bench.SUITES)
def test_the_rows_that_may_be_named_are_those_of_the_suite(name: str) -> None:
    known = asking.rows(name)
    assert len(known) == len(set(known))
    asked = bench.parser().parse_args(["--suite", name, *(["--only", *known] if known else [])])
    assert asking.complaint(asked) is None


@pytest.mark.parametrize("name", bench.SUITES)
def test_every_suite_has_a_function(name: str) -> None:
    assert callable(bench.suite(name))
