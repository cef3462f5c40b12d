"""The arithmetic of a run, over all sizes that hypothesis can think of."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from launcher import rng
from launcher.errors import SettingsError
from launcher.plan import Plan, Seeds, Ticket

some = settings(max_examples=80, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Sizes:
    """The hyperparameters that a plan is made of."""

    seed: int = 0
    epochs: int = 2
    batch_size: int = 12
    micro_batch_size: int | None = None


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of every shape, with sizes that divide, and often samples left over."""
    processes = draw(st.integers(1, 4))
    devices = draw(st.integers(1, 3))
    micro = draw(st.integers(1, 4))
    batch = micro * processes * devices * draw(st.integers(1, 3))
    samples = batch * draw(st.integers(1, 4)) + draw(st.integers(0, batch - 1))
    sizes = Sizes(
        seed=draw(st.integers(0, 2**63 - 1)),
        epochs=draw(st.integers(1, 3)),
        batch_size=batch,
        micro_batch_size=micro,
    )
    return Plan.of(sizes, samples, processes, devices)


def step_of_all_processes(plan: Plan, step: int) -> list[Ticket]:
    """The tickets of one step, sorted by number, as the processes together have them."""
    found = []
    for process in range(plan.processes):
        for ticket in plan.tickets(step, process):
            if ticket.step != step:
                break
            found.append(ticket)
    return sorted(found, key=lambda ticket: ticket.number)


def plain(tickets: list[Ticket]) -> list[tuple[int, int, int, list[int]]]:
    return [(t.step, t.epoch, t.number, t.samples.tolist()) for t in tickets]


# ── which samples ────────────────────────────────────────────────────────────────────────────────


@some
@given(plan=plans())
def test_a_sample_is_seen_at_most_once_in_an_epoch(plan: Plan) -> None:
    for epoch in range(plan.epochs):
        seen: list[int] = []
        for place in range(plan.steps_per_epoch):
            step = epoch * plan.steps_per_epoch + place
            for ticket in step_of_all_processes(plan, step):
                assert ticket.epoch == epoch
                seen += ticket.samples.tolist()
        assert len(set(seen)) == len(seen) == plan.steps_per_epoch * plan.batch_size
        assert plan.samples - plan.batch_size < len(seen) <= plan.samples
        assert set(seen) <= set(range(plan.samples))


def test_a_shift_by_one_epoch_would_be_seen() -> None:
    """The negative control: a plan that reads over an epoch's end sees a sample twice."""
    plan = Plan.of(Sizes(batch_size=4), samples=10)
    assert plan.steps_per_epoch == 2
    with_the_next = [sample for step in (1, 2) for sample in plan.batch(step).tolist()]
    assert len(set(with_the_next)) < len(with_the_next)


@some
@given(plan=plans(), data=st.data())
def test_the_processes_together_compute_the_batch(plan: Plan, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, plan.total_steps - 1))
    tickets = step_of_all_processes(plan, step)
    samples = np.concatenate([ticket.samples for ticket in tickets])
    assert samples.tolist() == plan.batch(step).tolist()
    assert len(tickets) == plan.processes * plan.accumulation
    assert {len(ticket.samples) for ticket in tickets} == {plan.devices * plan.micro_batch_size}


@some
@given(plan=plans(), data=st.data())
def test_a_batch_is_a_piece_of_its_epochs_order(plan: Plan, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, plan.total_steps - 1))
    epoch, place = divmod(step, plan.steps_per_epoch)
    order = rng.order(plan.seed, epoch, plan.samples)
    wanted = order[place * plan.batch_size : (place + 1) * plan.batch_size]
    assert plan.batch(step).tolist() == wanted.tolist()


def test_what_a_caller_does_to_a_batch_does_not_change_the_plan() -> None:
    plan = Plan.of(Sizes(), samples=30)
    before = plan.batch(0).tolist()
    plan.batch(0)[:] = 0
    next(plan.tickets()).samples[:] = 0
    assert plan.batch(0).tolist() == before


def test_the_samples_left_over_differ_from_epoch_to_epoch() -> None:
    plan = Plan.of(Sizes(epochs=20, batch_size=7), samples=10)
    assert plan.steps_per_epoch == 1
    left = {tuple(sorted(set(range(10)) - set(plan.batch(epoch).tolist()))) for epoch in range(20)}
    assert len(left) > 10


# ── which process ────────────────────────────────────────────────────────────────────────────────


@some
@given(plan=plans(), data=st.data())
def test_numbers_count_the_micro_batches_of_a_step_over_all_processes(
    plan: Plan, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, plan.total_steps - 1))
    numbers = [ticket.number for ticket in step_of_all_processes(plan, step)]
    assert numbers == list(range(0, plan.micro_batches, plan.devices))


@some
@given(plan=plans(), data=st.data())
def test_a_micro_batch_does_not_depend_on_who_computes_it(plan: Plan, data: st.DataObject) -> None:
    """The promise for an explicit micro_batch_size: the samples of (step, number) are the same."""
    alone = replace(plan, processes=1, devices=1)
    step = data.draw(st.integers(0, plan.total_steps - 1))
    wanted = {t.number: t.samples.tolist() for t in step_of_all_processes(alone, step)}
    found: dict[int, list[int]] = {}
    for ticket in step_of_all_processes(plan, step):
        for device, samples in enumerate(ticket.samples.reshape(plan.devices, -1)):
            found[ticket.number + device] = samples.tolist()
    assert found == wanted


def test_samples_taken_by_process_would_be_seen() -> None:
    """The negative control: who strides over samples, as a DistributedSampler does, fails above."""
    plan = Plan.of(Sizes(micro_batch_size=3), samples=12, processes=2)
    strided = plan.batch(0)[0::2][:3].tolist()
    assert strided != next(plan.tickets()).samples.tolist()


@some
@given(plan=plans(), data=st.data())
def test_to_continue_at_a_step_is_to_start_there(plan: Plan, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.total_steps))
    process = data.draw(st.integers(0, plan.processes - 1))
    whole = list(plan.tickets(0, process))
    assert len(whole) == plan.total_steps * plan.accumulation
    assert plain(list(plan.tickets(start, process))) == plain(whole[start * plan.accumulation :])


def test_a_finished_run_has_no_tickets() -> None:
    plan = Plan.of(Sizes(), samples=30)
    assert list(plan.tickets(plan.total_steps)) == []


def test_two_streams_of_tickets_do_not_disturb_each_other() -> None:
    """The orders are cached: other plans in between must not change one."""
    plan, other = (Plan.of(Sizes(seed=seed), samples=30) for seed in (0, 1))
    alone = plain(list(plan.tickets()))
    mixed = [ours for ours, _ in zip(plan.tickets(), other.tickets(), strict=True)]
    assert plain(mixed) == alone


# ── seeds ────────────────────────────────────────────────────────────────────────────────────────


@some
@given(plan=plans(), data=st.data(), purpose=st.sampled_from([(), (rng.AUGMENT,)]))
def test_seeds_in_blocks_are_those_of_each_micro_batch(
    plan: Plan, data: st.DataObject, purpose: tuple[int, ...]
) -> None:
    """From any step on, in blocks of any length, and after going back."""
    process = data.draw(st.integers(0, plan.processes - 1))
    start = data.draw(st.integers(0, plan.total_steps - 1))
    seeds = Seeds(plan, *purpose)
    seeds._steps = data.draw(st.integers(1, 5))
    tickets = list(plan.tickets(start, process))
    for ticket in [*tickets, *tickets[: plan.accumulation]]:
        assert seeds(ticket) == [
            rng.torch_seed(plan.seed, ticket.step, ticket.number + device, *purpose)
            for device in range(plan.devices)
        ]


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("processes", "devices", "micro", "expected"),
    [
        (1, 1, None, (12, 1, 1)),
        (2, 1, None, (6, 2, 1)),
        (1, 3, None, (4, 3, 1)),
        (2, 3, None, (2, 6, 1)),
        (1, 1, 3, (3, 4, 4)),
        (2, 1, 3, (3, 4, 2)),
        (4, 1, 3, (3, 4, 1)),
        (1, 2, 1, (1, 12, 6)),
    ],
)
def test_the_micro_batch_is_the_batch_over_the_processes_unless_given(
    processes: int, devices: int, micro: int | None, expected: tuple[int, int, int]
) -> None:
    plan = Plan.of(Sizes(micro_batch_size=micro), 100, processes, devices)
    assert (plan.micro_batch_size, plan.micro_batches, plan.accumulation) == expected
    assert (plan.steps_per_epoch, plan.total_steps) == (8, 16)


@some
@given(
    batch=st.integers(1, 60),
    micro=st.none() | st.integers(1, 12),
    processes=st.integers(1, 5),
    devices=st.integers(1, 3),
    samples=st.integers(1, 100),
)
def test_sizes_that_do_not_divide_are_refused_with_sizes_that_do(
    batch: int, micro: int | None, processes: int, devices: int, samples: int
) -> None:
    unit = processes * devices * (micro or 1)
    assume(batch <= samples and (micro or 0) <= batch)
    sizes = Sizes(batch_size=batch, micro_batch_size=micro)
    if batch % unit == 0:
        plan = Plan.of(sizes, samples, processes, devices)
        assert plan.micro_batch_size * plan.accumulation * processes * devices == batch
        return
    with pytest.raises(SettingsError) as refused:
        Plan.of(sizes, samples, processes, devices)
    text = str(refused.value)
    assert f"batch_size={batch}" in text
    assert f"a multiple of {unit}." in text
    fits = [int(number) for number in re.findall(r"\d+", text.partition("that fit: ")[2])]
    if "none" in text:
        assert fits == [samples]
        assert unit > samples
        return
    possible = list(range(unit, samples + 1, unit))
    nearest = {max((s for s in possible if s < batch), default=None)}
    nearest |= {min((s for s in possible if s > batch), default=None)}
    assert set(fits) == nearest - {None}
    for size in fits:
        Plan.of(replace(sizes, batch_size=size), samples, processes, devices)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"batch_size=31 .* 30 training samples.*=30 or less"):
        Plan.of(Sizes(batch_size=31), samples=30)
    assert Plan.of(Sizes(batch_size=30), samples=30).steps_per_epoch == 1


def test_a_micro_batch_larger_than_the_batch_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"micro_batch_size=13 is more than batch_size=12"):
        Plan.of(Sizes(micro_batch_size=13), samples=30)


def test_no_data_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match="0 training samples"):
        Plan.of(Sizes(batch_size=1), samples=0)


# ── durations and progress ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("1", 1),
        ("200", 200),
        ("1 epoch", 10),
        ("0.5 epochs", 5),
        ("3 epochs", 30),
        ("5 %", 2),
        ("100 %", 40),
        ("0.001 epochs", 1),
        ("0.1 %", 1),
    ],
)
def test_a_duration_in_steps(duration: str, steps: int) -> None:
    plan = Plan.of(Sizes(epochs=4, batch_size=10), samples=105)
    assert plan.steps(duration) == steps


def test_a_duration_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="a duration is"):
        Plan.of(Sizes(), samples=30).steps("often")


@some
@given(plan=plans())
def test_progress_runs_from_0_to_1_and_reaches_neither(plan: Plan) -> None:
    progress = [plan.progress(step) for step in range(plan.total_steps)]
    assert progress[0] > 0
    assert progress[-1] < 1
    assert progress == sorted(set(progress))
    assert sum(progress) / len(progress) == pytest.approx(0.5)
