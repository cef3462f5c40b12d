"""Data in memory that is made ahead by a thread: the same batches, bounded, and a clean end."""

import threading
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_recipe

from launcher import build, loaders, recipe
from launcher.ahead import DEPTH, Ahead
from launcher.data import Batch, Data, Split, Task, feed
from launcher.launch import Launch
from launcher.plan import Plan
from launcher.rng import Int64s
from launcher.settings import RunSettings
from launcher.sources import Arrays

CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Watched(Arrays):
    """Notes who gathered what; sample 30 cannot be had."""

    def __init__(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
        known = Arrays.of(image, np.arange(40) % 4, tuple("abcd"))
        super().__init__(known.image, known.label, known.classes)
        self.asked: list[list[int]] = []
        self.threads: set[int] = set()

    def __getitem__(self, index: Int64s) -> Batch:
        if 30 in index:
            raise ValueError("no sample 30")
        self.asked.append(index.tolist())
        self.threads.add(threading.get_ident())
        return super().__getitem__(index)


@pytest.fixture
def made() -> Iterator[list[Ahead]]:
    """What is closed at the end: no thread may be left."""
    ours: list[Ahead] = []
    yield ours
    for one in ours:
        one.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def tasks(samples: int) -> list[Task]:
    return [Task(np.arange(first, first + 3)) for first in range(0, samples, 3)]


@pytest.mark.parametrize("depth", [0, 1, 5, 100])
def test_they_come_in_order_from_another_thread(made: list[Ahead], depth: int) -> None:
    source = Watched()
    made.append(Ahead(source, CPU, depth))
    for _ in range(2):  # a pass after another one
        found = list(made[0](tasks(27)))
        assert [batch["label"].tolist() for batch in found] == [
            source.label[task.samples].tolist() for task in tasks(27)
        ]
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_no_more_is_made_ahead_than_was_said(made: list[Ahead]) -> None:
    source = Watched()
    made.append(Ahead(source, CPU))
    read: list[Task] = []

    def noted() -> Iterator[Task]:
        for task in tasks(27):
            assert threading.current_thread() is threading.main_thread(), "tee is for one thread"
            read.append(task)
            yield task

    for number, _ in enumerate(made[0](noted()), 1):
        assert len(source.asked) <= len(read) <= number + DEPTH


def test_what_the_source_raises_arrives_in_its_turn_with_its_frames(made: list[Ahead]) -> None:
    made.append(Ahead(Watched(), CPU))
    batches = made[0](tasks(39))
    for _ in range(10):
        next(batches)
    with pytest.raises(ValueError, match="no sample 30") as error:
        next(batches)
    assert "in __getitem__" in "".join(traceback.format_exception(error.value))


def test_a_pass_that_nobody_ends_is_ended_with_the_run(made: list[Ahead]) -> None:
    """The fixture looks for the thread."""
    made.append(Ahead(Watched(), CPU))
    batches = made[0](tasks(27))
    next(batches)
    made[0].close()
    made[0].close()


def on(device: str, settings: RunSettings, *, resident: bool) -> loaders.Loaders:
    """The loaders of a recipe in a world that says it has a device."""
    loaded = recipe.load(write_recipe())
    hparams = loaded.recipe.hparams()
    data: Data = loaded.recipe.data(hparams)
    plan = Plan.of(hparams, len(data.train.source))
    world: Any = SimpleNamespace(device=torch.device(device), devices=1, processes=1, threads=1)
    return loaders.Loaders.of(loaded, hparams, settings, world, data, plan, resident=resident)


def test_only_what_a_gpu_does_not_hold_is_copied_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: device)
    ours = on("cuda", RunSettings(), resident=False)
    assert isinstance(ours.train, Ahead)
    assert isinstance(ours.test, Ahead)
    assert "a thread gathers data in memory" in ours.how
    for other in (
        on("cuda", RunSettings(), resident=True),
        on("cpu", RunSettings(), resident=False),
    ):
        assert not isinstance(other.train, Ahead)
        assert other.how == "0 (data in memory needs none)"


@pytest.mark.gpu
@GPU
def test_a_gpu_gets_the_same_batches_and_none_is_overwritten(made: list[Ahead]) -> None:
    """All are kept and compared at the end, while the stream of the copies went on."""
    device = torch.device("cuda")
    image = torch.randint(0, 256, (4096, 3, 64, 64), dtype=torch.uint8)
    source = Arrays(image, torch.arange(4096) % 10, tuple("0123456789"))
    data = Data(train=Split(source), test=Split(source))
    plan = Plan(seed=0, epochs=3, samples=4096, batch_size=128, micro_batch_size=128)
    made.append(Ahead(source, device))
    busy = torch.randn(2048, 2048, device=device)
    sums = []
    for ticket, batch in feed(data, plan, device, gather=made[0]):
        assert batch["image"].device.type == "cuda"
        for _ in range(5):
            busy = torch.tanh(busy @ busy)  # so that the device is behind the host
        sums.append((ticket, batch["image"].long().sum((1, 2, 3)), batch["label"].clone()))
        del batch  # its memory may be used anew from here on
    for ticket, total, label in sums:
        expected = source[ticket.samples]
        assert torch.equal(total.cpu(), expected["image"].long().sum((1, 2, 3)))
        assert torch.equal(label.cpu(), expected["label"])


@pytest.mark.gpu
@GPU
def test_a_run_that_is_not_resident_ends_as_one_that_is() -> None:
    from launcher.connect import connect

    loaded = recipe.load(write_recipe())
    hparams = loaded.recipe.hparams()
    world = connect(Launch(), hparams, RunSettings())
    try:
        both = [
            build.build(loaded, hparams, RunSettings(resident=resident), world)
            for resident in (True, False)
        ]
        batches = [
            [batch for _, batch in feed(p.data, p.plan, world.device, gather=p.loaders.train)]
            for p in both
        ]
        for one, other in zip(*batches, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
        for parts in both:
            parts.loaders.close()
    finally:
        world.close()
