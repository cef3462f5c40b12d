"""Checkpoints are written beside training: what is waited for, and what happens when one fails."""

import errno
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import HANGS, command, write_recipe
from torch import Tensor, nn

from launcher import checkpoint, storage, train
from launcher.build import Parts
from launcher.connect import connect
from launcher.documents import read_json
from launcher.errors import CheckpointError, NonFiniteError, StorageError
from launcher.kept import Kept
from launcher.launch import Launch
from launcher.plan import Plan
from launcher.record import Record
from launcher.saver import MOST_MISSES, Saver
from launcher.screen import Screen
from launcher.settings import Hparams, RunSettings
from launcher.slots import group_values
from launcher.snapshot import Snapshot
from launcher.state import State

RUN = Path("checkpoints/r")
LONG = HANGS


class Gate(storage.Disk):
    """A disk that makes nothing durable for the saver before it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.came_too_late = False

    def fsync(self, descriptor: int) -> None:
        if threading.current_thread().name == "saver":
            self.reached.set()
            if not self.opened.wait(LONG):
                self.came_too_late = True
                self.opened.set()
        super().fsync(descriptor)


class Refusing(storage.Disk):
    """A disk that has no room for checkpoints, or does not give up old ones, while it is told."""

    def __init__(self) -> None:
        self.full = self.greedy = False

    def mkdir(self, path: Path) -> None:
        if self.full and path.name.startswith(".tmp-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        super().mkdir(path)

    def rename(self, old: Path, new: Path) -> None:
        if self.greedy and new.name.startswith(".trash-"):
            raise OSError(errno.EIO, "Input/output error")
        super().rename(old, new)


@dataclass
class Run:
    """A model that is trained by hand, and a saver for it."""

    model: nn.Module
    record: Record
    saver: Saver
    weight: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.weight = next(self.model.parameters()).detach()

    def save(self, step: int, **state: Any) -> None:
        self.saver.save(State(step=step, **state))


def one(screen: Screen | None = None, model: nn.Module | None = None) -> Run:
    """A run of 5 epochs of 2 steps that keeps two checkpoints."""
    model = nn.Linear(3, 1) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    record = Record(RUN)
    record.begin(b"", {}, 0)
    parts = SimpleNamespace(
        model=model,
        optimizer=optimizer,
        groups=group_values(optimizer),
        average=None,
        kept=Kept(model, optimizer),
        settings=RunSettings(keep=2),
        plan=Plan(seed=0, epochs=5, samples=8, batch_size=4, micro_batch_size=4),
        world=connect(Launch(cpu=True), Hparams(epochs=1, batch_size=4), RunSettings(threads=1)),
    )
    saver = Saver(cast(Parts, parts), record, screen or Screen(shown=False))
    return Run(model, record, saver)


Begin = Callable[..., Run]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Gives a run: with a screen and a model, where a test has its own."""
    made: list[Run] = []

    def begun(screen: Screen | None = None, model: nn.Module | None = None) -> Run:
        made.append(one(screen, model))
        return made[-1]

    yield begun
    for run in made:
        run.saver._parts.world.close()
        run.record.close()


@pytest.fixture
def run(begin: Begin) -> Run:
    return begin()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(storage, "disk", gate)
    yield gate
    gate.opened.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    disk = Refusing()
    monkeypatch.setattr(storage, "disk", disk)
    return disk


def left() -> list[str]:
    """What lies in the run folder but its files of record."""
    return [name for name in storage.names(RUN) if (RUN / name).is_dir()]


# ── beside training ─────────────────────────────────────────────────────────────────────────────


def test_a_save_waits_for_a_copy_and_not_for_the_disk(run: Run, gate: Gate) -> None:
    before = run.weight.clone()
    run.save(1)
    assert gate.reached.wait(LONG)
    assert checkpoint.steps(RUN) == [], "nothing is durable yet"
    run.weight += 1  # training goes on
    gate.opened.set()
    run.saver.finish()
    found = checkpoint.read(RUN, 1)
    assert torch.equal(found.model["weight"], before)
    assert not gate.came_too_late


def test_a_run_takes_further_steps_while_a_slow_disk_writes(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint, of step 3, is let through when step 6 begins: the last one before the
    next save. A loop that waited for the disk would never get there."""
    steps: list[int] = []
    set_rates = train.set_rates

    def counting(parts: Parts, factor: float) -> None:
        steps.append(len(steps))
        if len(steps) == 6:
            assert gate.reached.wait(LONG)
            assert checkpoint.steps(RUN) == []
            gate.opened.set()
        set_rates(parts, factor)

    monkeypatch.setattr(train, "set_rates", counting)
    arguments = ("threads=1", "checkpoint_every=3", "evaluate_every=8", "keep=9")
    assert command(write_recipe(), "name=r", *arguments) == 0
    assert not gate.came_too_late
    beside = {path.relative_to(RUN): path.read_bytes() for path in RUN.glob("step-*/*")}
    assert checkpoint.steps(RUN) == [3, 6, 8]

    class Waits(Saver):
        def save(self, state: State) -> None:
            super().save(state)
            self.finish()

    monkeypatch.setattr("launcher.run.Saver", Waits)
    assert command("tiny.py", "name=r", *arguments, "--fresh") == 0
    assert {path.relative_to(RUN): path.read_bytes() for path in RUN.glob("step-*/*")} == beside


def test_one_save_is_under_way_at_a_time(run: Run, gate: Gate) -> None:
    run.save(1)
    assert gate.reached.wait(LONG)
    second = threading.Thread(target=run.save, args=(2,))
    second.start()
    second.join(0.3)
    assert second.is_alive(), "it waits for the first"
    assert [name for name in left() if "000000000002" in name] == []
    gate.opened.set()
    second.join(LONG)
    run.saver.finish()
    assert checkpoint.steps(RUN) == [1, 2]


def test_the_second_snapshot_is_not_taken_before_the_first_is_written(run: Run, gate: Gate) -> None:
    """They share their memory."""
    first = run.weight.clone()
    run.save(1)
    assert gate.reached.wait(LONG)
    run.weight += 1
    second = threading.Thread(target=run.save, args=(2,))
    second.start()
    second.join(0.3)
    gate.opened.set()
    second.join(LONG)
    run.saver.finish()
    assert torch.equal(checkpoint.read(RUN, 1).model["weight"], first)
    assert torch.equal(checkpoint.read(RUN, 2).model["weight"], first + 1)


@pytest.mark.parametrize("ended_by", [KeyError, KeyboardInterrupt, NonFiniteError])
def test_an_exception_in_training_waits_for_the_save_under_way(
    run: Run, gate: Gate, ended_by: type[BaseException]
) -> None:
    later = threading.Timer(0.3, gate.opened.set)

    def trained() -> None:
        with run.saver:
            run.save(1)
            assert gate.reached.wait(LONG)
            later.start()
            raise ended_by("training")

    with pytest.raises(ended_by):
        trained()
    assert gate.opened.is_set()
    assert checkpoint.read(RUN, 1).step == 1


def test_lines_of_metrics_are_durable_before_the_checkpoint_that_counts_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, write = Record.sync, checkpoint.write

    def noted_sync(record: Record) -> None:
        order.append("metrics")
        sync(record)

    def noted_write(folder: Path, snapshot: Snapshot) -> None:
        order.append("weights")
        write(folder, snapshot)

    monkeypatch.setattr(Record, "sync", noted_sync)
    monkeypatch.setattr(checkpoint, "write", noted_write)
    run.save(1)
    run.saver.finish()
    assert order == ["metrics", "weights"]


def test_what_is_durable_is_said_on_the_screen_and_in_the_status(
    begin: Begin,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = begin(Screen(shown=True))
    run.save(4)
    run.saver.finish()
    assert capsys.readouterr().out == "checkpoint step=4 committed\n"
    about = read_json(RUN / "status.json")
    assert (about["state"], about["step"], about["last_committed_step"]) == ("running", 4, 4)


def test_the_best_and_the_newest_are_kept(run: Run) -> None:
    for step in range(1, 6):
        run.save(step, best={"step": 2, "scores": {}} if step > 1 else None)
    run.saver.finish()
    assert checkpoint.steps(RUN) == [2, 4, 5]


def test_a_process_without_a_record_writes_nothing(run: Run) -> None:
    run.saver.record = None
    run.save(1)
    run.saver.finish()
    assert left() == []


def test_nothing_to_wait_for_is_no_error(run: Run) -> None:
    run.saver.finish()
    with run.saver:
        pass


# ── when one fails ──────────────────────────────────────────────────────────────────────────────


class Complex(nn.Module):
    """Has a dtype that the format cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.complex128))


@pytest.mark.parametrize("at", ["the next save", "the end"])
def test_an_error_on_the_thread_is_raised_where_all_meet(begin: Begin, at: str) -> None:
    run = begin(model=Complex())
    run.save(1)
    with pytest.raises(CheckpointError, match=r"weight has dtype torch\.complex128"):
        run.save(2) if at == "the next save" else run.saver.finish()
    assert left() == []
    run.saver.finish()  # it is said once


def test_a_bug_on_the_thread_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", broken)
        run.save(1)
        with pytest.raises(ZeroDivisionError):
            run.save(2)
    monkeypatch.setattr(checkpoint, "prune", broken)
    run.save(3)
    with pytest.raises(ZeroDivisionError):
        run.saver.finish()


def test_a_disk_that_refuses_twice_is_outlived_and_the_count_begins_anew(
    begin: Begin, disk: Refusing, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(Screen(shown=True))
    assert MOST_MISSES == 3
    for step in range(1, 10):
        disk.full = step % 3 != 0  # two misses, one that works, two misses ...
        run.save(step)
        run.saver._settle(last=False)
    run.saver.finish()
    assert checkpoint.steps(RUN) == [6, 9]
    shown = capsys.readouterr().out
    assert shown.count("was not written") == 6
    assert "the checkpoint of step 1 was not written: could not make the folder" in shown
    assert "No space left on device" in shown
    assert "It has 0.0 MB; " in shown


def test_three_misses_in_a_row_are_an_error_at_the_next_save(run: Run, disk: Refusing) -> None:
    disk.full = True
    for step in range(1, 4):
        run.save(step)
    with pytest.raises(StorageError, match="No space left"):
        run.save(4)
    assert left() == []


def test_the_last_checkpoint_must_not_be_missed(run: Run, disk: Refusing) -> None:
    run.save(1)
    run.saver._settle(last=False)
    disk.full = True
    run.save(2)
    with pytest.raises(StorageError, match="No space left"):
        run.saver.finish()
    assert left() == ["step-000000000001"]


def test_metrics_that_cannot_be_made_durable_are_a_miss_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint would count lines that are not there."""
    (RUN / "metrics.jsonl").unlink()
    run.save(1)
    with pytest.raises(StorageError, match=r"could not sync .*metrics\.jsonl"):
        run.saver.finish()
    assert left() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", ["the next save", "the end"])
def test_weights_that_are_not_finite_are_never_written(run: Run, value: float, at: str) -> None:
    run.save(4)
    run.saver._settle(last=False)
    run.weight[0, 1] = value
    run.save(5)
    with pytest.raises(NonFiniteError, match=r"not finite in step 5 \(epoch 3\)"):
        run.save(6) if at == "the next save" else run.saver.finish()
    assert left() == ["step-000000000004"]
    assert read_json(RUN / "status.json")["last_committed_step"] == 4


def test_old_checkpoints_that_cannot_be_removed_are_a_warning_once(
    begin: Begin, disk: Refusing, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(Screen(shown=True))
    disk.greedy = True
    for step in range(1, 6):
        run.save(step)
    run.saver.finish()
    assert checkpoint.steps(RUN) == [1, 2, 3, 4, 5]
    shown = capsys.readouterr().out
    assert shown.count("warning") == 1
    assert "Input/output error" in shown
    assert "Training goes on." in shown
    assert shown.count("committed") == 5
    disk.greedy = False
    run.save(6)
    run.saver.finish()
    assert checkpoint.steps(RUN) == [5, 6], "they are removed when that is possible again"


def test_a_run_whose_old_checkpoints_cannot_be_removed_ends_well(disk: Refusing) -> None:
    disk.greedy = True
    assert command(write_recipe(), "name=r", "threads=1", "checkpoint_every=2") == 0
    assert checkpoint.steps(RUN) == [2, 4, 6, 8]
    assert json.loads((RUN / "status.json").read_text())["state"] == "finished"


def test_a_miss_is_written_again_by_the_next_save_with_later_weights(
    run: Run, disk: Refusing
) -> None:
    disk.full = True
    run.save(1)
    run.saver._settle(last=False)
    disk.full = False
    run.weight += 1
    run.save(2)
    run.saver.finish()
    assert checkpoint.steps(RUN) == [2]
    assert torch.equal(checkpoint.read(RUN, 2).model["weight"], run.weight)
