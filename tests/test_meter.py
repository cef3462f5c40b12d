"""Loss, throughput and waiting time of an interval."""

import math
import time

import pytest
import torch
from torch import Tensor

from launcher.meter import Meter

CPU = torch.device("cpu")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ours = Clock()
    monkeypatch.setattr(time, "monotonic", ours.monotonic)
    return ours


def test_the_sum_of_losses_is_exact() -> None:
    losses = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    meter = Meter(CPU)
    for loss in losses:
        meter.add(loss)
    assert meter.losses() == ([sum(losses.tolist())], 1000)
    assert meter.loss() == sum(losses.tolist()) / 1000


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_off_the_host_nothing_waits_for_a_loss(device: str) -> None:
    """A tensor of the meta device has no value that could be read."""
    meter = Meter(torch.device(device))
    meter.add(torch.ones((), device=device, requires_grad=True) * 2)
    if device == "meta":
        assert isinstance(meter._sum, Tensor)
        assert not meter._sum.requires_grad
        assert meter._sum.dtype == torch.float64
    else:
        assert meter._sum == 2.0


def test_a_loss_is_kept_without_its_graph() -> None:
    meter = Meter(CPU)
    meter.add(torch.ones((), requires_grad=True) * 2)
    assert meter.losses() == ([2.0], 1)
    assert isinstance(meter._sum, float)


def test_an_interval_goes_on_where_a_checkpoint_was_written() -> None:
    losses = torch.rand(20, generator=torch.Generator().manual_seed(0))
    whole, before, after = (Meter(CPU) for _ in range(3))
    for number, loss in enumerate(losses):
        whole.add(loss)
        (before if number < 7 else after).add(loss)
        if number == 6:
            after.restore(*before.losses())
    assert after.losses() == whole.losses()


def test_reading_the_loss_changes_nothing_and_a_new_interval_begins_at_zero() -> None:
    meter = Meter(CPU)
    meter.add(torch.tensor(0.5))
    assert meter.losses() == meter.losses() == ([0.5], 1)
    meter.restart()
    assert meter.losses() == ([0.0], 0)


def meters(processes: int) -> list[Meter]:
    """Those of several processes: a sum over all adds what each would give."""
    found: list[Meter] = []

    def total(tensor: Tensor) -> Tensor:
        parts = torch.zeros_like(tensor)
        for number, meter in enumerate(found):
            parts[number] = meter._sum
            parts[-1] += meter._count
        return parts

    found += [Meter(CPU, 0, number, processes, total) for number in range(processes)]
    return found


def test_the_mean_is_over_all_processes() -> None:
    first, second = meters(2)
    first.add(torch.tensor(0.5))
    second.add(torch.tensor(1.5))
    assert first.losses() == second.losses() == ([0.5, 1.5], 2)
    assert first.loss() == second.loss() == 1.0


def test_each_process_takes_up_its_own_sum() -> None:
    for meter in (restored := meters(2)):
        meter.restore([0.5, 1.5], 6)
    assert restored[0].losses() == ([0.5, 1.5], 6)


@pytest.mark.parametrize("processes", [1, 3])
def test_on_another_number_of_processes_no_loss_is_lost(processes: int) -> None:
    for meter in (restored := meters(processes)):
        meter.restore([0.5, 1.5], 6)
    sums, count = restored[-1].losses()
    assert (sum(sums), count) == (2.0, 6)


def test_a_run_that_kept_no_losses_has_none() -> None:
    """A checkpoint before the first step of training."""
    for meter in (restored := meters(2)):
        meter.restore([], 0)
    assert restored[0].losses() == ([0.0, 0.0], 0)


def test_a_loss_that_is_not_finite_stays_so() -> None:
    meter = Meter(CPU)
    for value in (1.0, float("nan"), 1.0):
        meter.add(torch.tensor(value))
    assert math.isnan(meter.loss())


def test_the_pace_is_samples_over_time(clock: Clock) -> None:
    meter = Meter(CPU)
    meter.stepped(30)
    meter.stepped(30)
    meter.waited = 1.0
    clock.now += 4
    assert meter.pace() == {"train/samples_per_s": 15.0, "train/data_wait": 0.25}


def test_evaluating_and_saving_do_not_count(clock: Clock) -> None:
    meter = Meter(CPU)
    meter.stepped(60)
    clock.now += 10
    meter.set_aside(6)
    assert meter.pace()["train/samples_per_s"] == 15.0


def test_an_interval_without_time_or_samples_has_no_pace(clock: Clock) -> None:
    meter = Meter(CPU)
    clock.now += 1
    assert meter.pace() == {"train/samples_per_s": 0.0, "train/data_wait": 0.0}
    meter.restart()
    meter.stepped(60)
    assert meter.pace() == {"train/samples_per_s": 0.0, "train/data_wait": 0.0}


def test_the_share_of_waiting_is_at_most_one(clock: Clock) -> None:
    meter = Meter(CPU)
    meter.stepped(1)
    meter.waited = 5
    clock.now += 1
    assert meter.pace()["train/data_wait"] == 1.0


def test_the_first_step_of_an_attempt_does_not_count(clock: Clock) -> None:
    meter = Meter(CPU)
    meter.stepped(60)
    meter.waited = 30
    clock.now += 60
    meter.first_step_done()
    for _ in range(2):
        meter.stepped(60)
        clock.now += 4
        meter.first_step_done()
    assert meter.pace() == {"train/samples_per_s": 15.0, "train/data_wait": 0.0}


def test_the_first_step_does_not_take_its_loss_with_it(clock: Clock) -> None:
    meter = Meter(CPU)
    meter.add(torch.tensor(0.5))
    meter.first_step_done()
    assert meter.losses() == ([0.5], 1)


def test_seconds_go_on_over_attempts(clock: Clock) -> None:
    meter = Meter(CPU, before=50.0)
    clock.now += 7
    meter.restart()
    assert meter.seconds() == 57.0
