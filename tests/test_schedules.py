"""Schedules: exact values, no jumps, and torch's own as the reference."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import schedules

STEPS = 100
WARM = [schedules.linear, schedules.cosine, schedules.one_cycle]
ALL: list[Callable[[float], float]] = [
    schedules.constant,
    partial(schedules.linear, warmup=0.2, final=0.1),
    partial(schedules.cosine, warmup=0.2, final=0.1),
    schedules.linear,
    schedules.cosine,
    schedules.one_cycle,
    schedules.step,
]


def of_torch(
    make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler], steps: int
) -> list[float]:
    """The learning rate of each step under one of torch's schedulers, for a base rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (schedules.constant(0.7), 1.0),
        (schedules.linear(0.25), 0.75),
        (schedules.linear(0.1, warmup=0.4), 0.25),
        (schedules.linear(0.7, warmup=0.4), 0.5),
        (schedules.linear(0.7, warmup=0.4, final=0.5), 0.75),
        (schedules.cosine(0.5), 0.5),
        (schedules.cosine(0.25), (1 + math.sqrt(0.5)) / 2),
        (schedules.cosine(0.05, warmup=0.2), 0.25),
        (schedules.cosine(0.6, warmup=0.2), 0.5),
        (schedules.cosine(0.6, warmup=0.2, final=0.2), 0.6),
        (schedules.one_cycle(0.15), 0.52),
        (schedules.one_cycle(0.65), (1 + 4e-6) / 2),
        (schedules.one_cycle(0.0, first=0.25), 0.25),
    ],
)
def test_a_schedule_has_the_value_that_its_formula_gives(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", WARM)
@pytest.mark.parametrize("warmup", [0.05, 0.3, 0.9])
def test_a_schedule_is_1_at_the_end_of_the_warm_up_from_both_sides(
    schedule: Callable[..., float], warmup: float
) -> None:
    assert schedule(warmup, warmup=warmup) == pytest.approx(1)
    assert schedule(warmup - 1e-9, warmup=warmup) == pytest.approx(1, abs=1e-6)
    assert schedule(warmup + 1e-9, warmup=warmup) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("schedule", WARM)
def test_a_schedule_rises_through_the_warm_up_and_falls_to_the_end(
    schedule: Callable[..., float],
) -> None:
    values = [schedule((step + 0.5) / STEPS, warmup=0.3, final=0.1) for step in range(STEPS)]
    assert values[:30] == sorted(values[:30])
    assert values[30:] == sorted(values[30:], reverse=True)
    assert values[-1] == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("schedule", WARM)
def test_a_schedule_without_a_warm_up_starts_at_1(schedule: Callable[..., float]) -> None:
    assert schedule(1e-9, warmup=0.0) == pytest.approx(1)


@pytest.mark.parametrize("schedule", WARM)
def test_a_run_may_be_nothing_but_warm_up(schedule: Callable[..., float]) -> None:
    assert schedule(1 - 1e-9, warmup=1.0) == pytest.approx(1)


@settings(deadline=None, max_examples=100, database=None)
@given(
    progress=st.floats(0, 1, exclude_min=True, exclude_max=True),
    warmup=st.floats(0, 0.99),
    final=st.floats(0, 1),
)
def test_a_factor_is_never_below_zero_or_above_one(
    progress: float, warmup: float, final: float
) -> None:
    assert 0 <= schedules.linear(progress, warmup, final) <= 1 + 1e-12
    assert 0 <= schedules.cosine(progress, warmup, final) <= 1 + 1e-12
    assert 0 <= schedules.one_cycle(progress, warmup, 0.04, final) <= 1 + 1e-12
    assert 0 <= schedules.step(progress) <= 1


@pytest.mark.parametrize("schedule", ALL)
def test_a_schedule_has_no_state(schedule: Callable[[float], float]) -> None:
    forward = [schedule((step + 0.5) / STEPS) for step in range(STEPS)]
    backward = [schedule((step + 0.5) / STEPS) for step in reversed(range(STEPS))]
    assert forward == backward[::-1]


def test_cosine_is_the_cosine_of_torch() -> None:
    """Torch's step k has the value at k / steps; ours are at the middle of a step."""
    theirs = of_torch(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS), STEPS
    )
    ours = [schedules.cosine(step / STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_linear_is_the_linear_decay_of_torch() -> None:
    theirs = of_torch(
        lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, STEPS), STEPS
    )
    ours = [schedules.linear(step / STEPS, final=0.2) for step in range(STEPS)]
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_one_cycle_with_its_defaults_has_the_shape_of_torch() -> None:
    """Torch puts its peak one step earlier, so values agree to about a step's change."""
    steps = 1000
    theirs = of_torch(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1.0, total_steps=steps, cycle_momentum=False
        ),
        steps,
    )
    ours = [schedules.one_cycle((step + 0.5) / steps) for step in range(steps)]
    assert ours == pytest.approx(theirs, abs=0.01)
    assert theirs[0] == pytest.approx(0.04)
    assert schedules.one_cycle(1.0) == pytest.approx(theirs[-1]) == pytest.approx(4e-6)


def test_step_falls_where_torch_falls_at_the_same_milestones() -> None:
    theirs = of_torch(
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [50, 75], 0.1), STEPS
    )
    ours = [schedules.step((step + 0.5) / STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(theirs)
    assert sorted(set(ours)) == pytest.approx([0.01, 0.1, 1])


def test_step_falls_at_the_point_itself_and_by_the_given_factor() -> None:
    assert schedules.step(0.4999, at=(0.5,), factor=0.5) == 1
    assert schedules.step(0.5, at=(0.5,), factor=0.5) == 0.5
    assert schedules.step(0.9, at=(), factor=0.5) == 1
