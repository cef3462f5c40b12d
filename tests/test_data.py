"""Batches: the plan's samples, and the same ones however the work is divided."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from launcher import augment, data
from launcher.data import Batch, Data, First, Resident, Split, Task, assemble, feed, gathered
from launcher.plan import Plan
from launcher.rng import Int64s, SampleRng
from launcher.sources import Arrays, tensors

CPU = torch.device("cpu")
PLAN = Plan(seed=3, epochs=2, samples=50, batch_size=16, micro_batch_size=4)


def pictures(samples: int = 50) -> Arrays:
    """Random images whose label is their number."""
    image = np.random.default_rng(0).integers(0, 256, (samples, 1, 6, 6), dtype=np.uint8)
    return Arrays.of(image, np.arange(samples), tuple(str(number) for number in range(samples)))


def augmented(batch: Batch, rng: SampleRng) -> Batch:
    image = augment.shift(augment.flip(batch["image"], rng), rng, 2)
    return batch | {"image": augment.erase(image, rng)}


def whole(source: data.Source | None = None) -> Data:
    source = source or pictures()
    return Data(train=Split(source, augmented), test=Split(source))


def micro_batches(plan: Plan, process: int = 0) -> dict[tuple[int, int], str]:
    """A hash of the images after augmentation and the labels, by (step, number)."""
    found = {}
    for ticket, batch in feed(whole(), plan, CPU, process=process):
        digest = hashlib.sha256(batch["image"].numpy().tobytes())
        digest.update(batch["label"].numpy().tobytes())
        found[ticket.step, ticket.number] = digest.hexdigest()
    return found


def images(plan: Plan) -> dict[tuple[int, int], bytes]:
    """Every augmented image of a run, by (step, sample), over all processes."""
    found: dict[tuple[int, int], bytes] = {}
    for process in range(plan.processes):
        for ticket, batch in feed(whole(), plan, CPU, process=process):
            for sample, image in zip(batch["label"].tolist(), batch["image"], strict=True):
                assert (ticket.step, sample) not in found, "a sample came twice in one step"
                found[ticket.step, sample] = image.numpy().tobytes()
    return found


def test_feed_yields_the_tickets_of_the_plan_with_their_samples() -> None:
    plan = replace(PLAN, processes=2)
    source = pictures()
    plain = Data(train=Split(source), test=Split(source))
    fed = list(feed(plain, plan, CPU, process=1))
    tickets = list(plan.tickets(process=1))
    assert len(fed) == len(tickets) == plan.total_steps * plan.accumulation
    for (ticket, batch), expected in zip(fed, tickets, strict=True):
        assert ticket[:3] == expected[:3]
        assert ticket.samples.tolist() == expected.samples.tolist() == batch["label"].tolist()
        assert torch.equal(batch["image"], source.image[torch.from_numpy(expected.samples)])


class Counted:
    """A `prepare` that notes how many samples it was given each time."""

    def __init__(self, *, each_by_itself: bool) -> None:
        self.each_by_itself = each_by_itself
        self.calls: list[int] = []
        self._normalize = augment.normalize((0.25,), (0.5,))

    def __call__(self, batch: Batch) -> Batch:
        self.calls.append(len(batch["label"]))
        return self._normalize(batch)


@pytest.mark.parametrize("start", [0, 2])
def test_small_micro_batches_prepared_together_are_those_prepared_alone(start: int) -> None:
    source, fed, calls = pictures(), {}, {}
    for each_by_itself in (True, False):
        prepare = Counted(each_by_itself=each_by_itself)
        plain = Data(train=Split(source), test=Split(source), prepare=prepare)
        fed[each_by_itself] = list(feed(plain, PLAN, CPU, start=start))
        calls[each_by_itself] = prepare.calls
    for (ticket, batch), (expected, same) in zip(fed[True], fed[False], strict=True):
        assert ticket[:3] == expected[:3]
        assert torch.equal(batch["label"], same["label"])
        assert torch.equal(batch["image"], same["image"])
        assert batch["image"].dtype == torch.float32
        assert not batch["image"]._is_view()
    assert set(calls[False]) == {4}
    assert calls[True] == [4 * len(fed[True])], "they were not prepared together"


def test_what_a_transform_draws_on_is_not_prepared_before_it() -> None:
    prepare = Counted(each_by_itself=True)
    source = pictures()
    augmented_first = Data(
        train=Split(source, augmented), test=Split(source), prepare=prepare
    )  # fmt: skip
    list(feed(augmented_first, PLAN, CPU))
    assert set(prepare.calls) == {4}


def test_normalize_looks_at_every_sample_alone() -> None:
    assert augment.normalize((0.5,), (0.5,)).each_by_itself  # type: ignore[attr-defined]


@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_feed_from_a_step_on_is_the_tail_of_the_whole_feed(start: int) -> None:
    everything = list(feed(whole(), PLAN, CPU))
    tail = list(feed(whole(), PLAN, CPU, start=start))
    assert len(tail) == len(everything) - start * PLAN.accumulation
    for (ticket, batch), (expected, same) in zip(
        tail, everything[start * PLAN.accumulation :], strict=True
    ):
        assert ticket[:3] == expected[:3]
        assert torch.equal(batch["image"], same["image"])
        assert torch.equal(batch["label"], same["label"])


def test_a_feed_from_the_last_step_on_is_empty() -> None:
    assert list(feed(whole(), PLAN, CPU, start=PLAN.total_steps)) == []


@pytest.mark.parametrize("processes", [2, 4])
def test_the_number_of_processes_does_not_change_any_micro_batch(processes: int) -> None:
    plan = replace(PLAN, processes=processes)
    found: dict[tuple[int, int], str] = {}
    for process in range(processes):
        part = micro_batches(plan, process)
        assert not found.keys() & part.keys(), "two processes computed the same micro-batch"
        found |= part
    assert found == micro_batches(PLAN)


def test_another_seed_changes_the_micro_batches() -> None:
    """So that the test above compares something."""
    other = micro_batches(replace(PLAN, seed=4))
    assert not set(other.values()) & set(micro_batches(PLAN).values())


DIVISIONS = [{"micro_batch_size": 16}, {"micro_batch_size": 2, "processes": 2}, {"devices": 4}]


@pytest.mark.parametrize("division", DIVISIONS)
def test_how_a_batch_is_divided_does_not_change_any_image(division: dict[str, int]) -> None:
    assert images(replace(PLAN, **division)) == images(PLAN)


@pytest.mark.parametrize("division", DIVISIONS)
def test_draws_by_place_in_the_batch_would_change_the_images(
    division: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""

    def by_place(seed: int, epoch: int, indices: list[Int64s], parts: int = 1) -> list[SampleRng]:
        places = (np.arange(len(index), dtype=np.int64) for index in indices)
        return [SampleRng(seed, epoch, place) for place in places]

    monkeypatch.setattr(SampleRng, "each", by_place)
    assert images(replace(PLAN, **division)) != images(PLAN)


def test_a_sample_is_augmented_anew_in_every_epoch() -> None:
    source = pictures(8)
    plan = Plan(seed=0, epochs=2, samples=8, batch_size=8, micro_batch_size=8)
    epochs = [
        dict(zip(batch["label"].tolist(), batch["image"], strict=True))
        for _, batch in feed(whole(source), plan, CPU)
    ]
    changed = [not torch.equal(epochs[0][sample], epochs[1][sample]) for sample in range(8)]
    assert sum(changed) >= 6


def test_prepare_runs_after_the_transform_in_both_splits() -> None:
    calls: list[str] = []

    def named(name: str) -> data.Transform:
        def transform(batch: Batch, rng: SampleRng) -> Batch:
            calls.append(f"{name} of {len(rng)}")
            assert batch["image"].dtype == torch.uint8
            return batch

        return transform

    def prepare(batch: Batch) -> Batch:
        calls.append("prepare")
        return batch | {"image": batch["image"].float()}

    source = pictures()
    both = Data(
        train=Split(source, named("train")), test=Split(source, named("test")), prepare=prepare
    )
    _, batch = next(feed(both, PLAN, CPU))
    index = np.arange(3, dtype=np.int64)
    tested = assemble(both, both.test, index, SampleRng(0, 0, index), CPU)
    assert calls == ["train of 4", "prepare", "test of 3", "prepare"]
    assert batch["image"].dtype == tested["image"].dtype == torch.float32


def test_small_micro_batches_in_memory_are_gathered_together_and_are_apart() -> None:
    """Each may be changed in place, under autograd too; the others and the source stay."""
    source = pictures()
    tasks = [Task(np.array(some, np.int64)) for some in ([7, 3, 3], [49], [0, 12, 5, 6])]
    asked: list[int] = []

    class Counted(Arrays):
        def __getitem__(self, index: Int64s) -> Batch:
            asked.append(len(index))
            return super().__getitem__(index)

    counted = Counted(source.image, source.label, source.classes)
    found = list(gathered(counted, tasks))
    assert asked == [8]
    weight = torch.ones(1, requires_grad=True)
    for task, batch in zip(tasks, found, strict=True):
        assert torch.equal(batch["image"], source[task.samples]["image"])
        assert torch.equal(batch["label"], source[task.samples]["label"])
        used = batch["image"].float() ** 2 * weight
        batch["image"].zero_()
        batch["label"].add_(1)
        torch.autograd.backward(used.sum())
    floats = [torch.zeros(4, 2), torch.zeros(4, 2)]
    parts = list(gathered(tensors(image=floats[0], target=floats[1]), [Task(np.arange(2))] * 2))
    for batch in parts:
        assert (batch["image"].mul_(weight).sum() + 1).requires_grad
    assert torch.equal(source.image, pictures().image)


def test_no_more_than_some_small_micro_batches_are_gathered_together() -> None:
    """Or the first of a million would wait for all."""
    source = tensors(image=torch.zeros(5, 1), target=torch.zeros(5))
    ahead = iter([Task(np.array([number % 5])) for number in range(1000)])
    next(gathered(source, ahead))
    assert len(list(ahead)) > 900


def test_large_micro_batches_in_memory_are_gathered_one_by_one() -> None:
    image = torch.zeros(4, 3, 512, 512, dtype=torch.uint8)
    source = Arrays(image, torch.arange(4), tuple("abcd"))
    ahead = iter([Task(np.array([number])) for number in range(4)])
    next(gathered(source, ahead))
    assert len(list(ahead)) == 3


def test_a_split_without_a_transform_only_prepares() -> None:
    index = np.array([4, 1], dtype=np.int64)
    batch = assemble(whole(), whole().test, index, SampleRng(0, 0, index), CPU)
    assert batch["label"].tolist() == [4, 1]
    assert torch.equal(batch["image"], pictures().image[[4, 1]])


class Readings:
    """A source for regression that is not in memory."""

    classes = None
    shape = (2,)
    fingerprint = "00"

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: Int64s) -> Batch:
        image = torch.from_numpy(index)[:, None].expand(-1, 2).float()
        return {"image": image, "target": image.sum(1)}


class Movable(Readings):
    """One that can be on a device; it remembers where it was sent."""

    nbytes = 40

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    def to(self, device: torch.device) -> "Movable":
        return Movable(str(device))


def test_resident_data_moves_the_sources_that_are_in_memory_and_nothing_else() -> None:
    def prepare(batch: Batch) -> Batch:
        return batch

    both = Data(train=Split(Movable(), augmented), test=Split(Readings()), prepare=prepare)
    moved = both.on(torch.device("meta"), resident=True)
    assert isinstance(moved.train.source, Movable)
    assert moved.train.source.device == torch.device("meta")
    assert moved.train.transform is augmented
    assert moved.test is both.test
    assert moved.prepare is prepare
    assert isinstance(both.train.source, Movable)
    assert both.train.source.device == CPU, "the argument was changed"


def test_data_that_is_not_resident_stays_where_it_is() -> None:
    both = Data(train=Split(Movable()), test=Split(Movable()))
    assert both.on(torch.device("meta"), resident=False) is both


def test_arrays_are_resident_and_sources_without_a_device_are_not() -> None:
    assert isinstance(pictures(), Resident)
    assert not isinstance(Readings(), Resident)


def test_classes_and_shape_are_those_of_the_training_source() -> None:
    both = Data(train=Split(pictures(7)), test=Split(pictures(3)))
    assert both.classes == tuple("0123456")
    assert both.shape == (1, 6, 6)
    regression = Data(train=Split(Readings()), test=Split(Readings()))
    assert regression.classes == ()
    assert regression.shape == (2,)


def test_the_first_samples_of_a_source_are_a_source() -> None:
    source = pictures()
    first: data.Source = First(source, 5)
    assert len(first) == 5
    assert (first.classes, first.shape) == (source.classes, source.shape)
    index = np.array([4, 0], dtype=np.int64)
    assert torch.equal(first[index]["image"], source[index]["image"])
    assert first.fingerprint not in (source.fingerprint, First(source, 6).fingerprint)


def test_the_first_samples_of_a_short_source_are_all_of_it() -> None:
    assert len(First(pictures(3), 256)) == 3
