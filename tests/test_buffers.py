"""Batch norm's running averages: the same however a step is split."""

import copy
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from launcher.buffers import StepAverage

MICRO_BATCHES, STEPS = 4, 3
Values = dict[str, Tensor]


def network(momentum: float | None = 0.1) -> nn.Sequential:
    """Two batch norms, one behind the other, and dropout's absence: nothing is random."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=momentum), nn.ReLU(), nn.Flatten(),
        nn.Linear(3 * 4, 5), nn.BatchNorm1d(5, momentum=momentum),
    )  # fmt: skip
    return model.double().train()


def inputs() -> Tensor:
    """Step, micro-batch, sample, channels, height, width: each micro-batch unlike the others."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, MICRO_BATCHES, 6, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x * (1 + torch.arange(MICRO_BATCHES).view(1, -1, 1, 1, 1, 1))


def buffers(model: nn.Module) -> Values:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def received(total: Tensor, part: Tensor) -> Tensor:
    return total


def run(processes: int, momentum: float | None = 0.1, restores: bool = True) -> list[Values]:
    """The buffers of every process after three steps of four micro-batches.

    The processes take turns; their sums are added here, as an all-reduce would.
    """
    passes = MICRO_BATCHES // processes
    models = [network(momentum) for _ in range(processes)]
    averages = [StepAverage(model, passes, processes) for model in models]
    for step in inputs():
        sums: list[Tensor] = []

        def note(part: Tensor, sums: list[Tensor] = sums) -> Tensor:
            sums.append(part.clone())
            return part

        for process, (model, average) in enumerate(zip(models, averages, strict=True)):
            average.begin_step()
            for number in range(process, MICRO_BATCHES, processes):
                if restores:
                    average.begin_pass()
                model(step[number])
                average.end_pass()
            if processes > 1:
                average.end_step(note)  # what this process sends
        for average in averages:
            total = torch.stack(sums).sum(0) if sums else None
            average.end_step(None if total is None else partial(received, total))
    return [buffers(model) for model in models]


def expected(momentum: float | None) -> Values:
    """The definition: every micro-batch starts from the step's first values; then the mean."""
    model = network(momentum)
    for step in inputs():
        after = []
        for micro_batch in step:
            one = copy.deepcopy(model)
            one(micro_batch)
            after.append(buffers(one))
        for name, buffer in model.named_buffers():
            mean = torch.stack([values[name].double() for values in after]).mean(0)
            buffer.copy_(mean)
    return buffers(model)


def assert_close(found: Values, wanted: Values) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_averages_do_not_depend_on_how_a_step_is_split(
    processes: int, momentum: float | None
) -> None:
    for found in run(processes, momentum):
        assert_close(found, expected(momentum))


@pytest.mark.parametrize("processes", [2, 4])
def test_all_processes_end_a_step_with_the_same_bits(processes: int) -> None:
    for one, other in pairwise(run(processes)):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_starting_every_pass_anew_the_split_would_matter() -> None:
    """The negative control."""
    one, four = run(1, restores=False)[0], run(4, restores=False)[0]
    assert_close(four, expected(0.1))  # one pass a step needs no restoring
    assert not torch.allclose(one["1.running_mean"], four["1.running_mean"])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_step_counts_once(processes: int) -> None:
    for found in run(processes):
        counts = {name: int(n) for name, n in found.items() if name.endswith("tracked")}
        assert counts == {"1.num_batches_tracked": STEPS, "5.num_batches_tracked": STEPS}


def test_one_micro_batch_a_step_is_left_alone() -> None:
    """Not even copied: the result is that of the model by itself, to the bit."""

    def never(part: Tensor) -> Tensor:
        raise AssertionError("nothing is to be exchanged")

    model, plain = network(), network()
    average = StepAverage(model, passes=1, processes=1)
    for step in inputs():
        average.begin_step()
        average.begin_pass()
        model(step[0])
        plain(step[0])
        average.end_pass()
        average.end_step(never)
    assert all(torch.equal(buffers(model)[name], value) for name, value in buffers(plain).items())


def test_a_model_without_buffers_exchanges_nothing() -> None:
    def never(part: Tensor) -> Tensor:
        raise AssertionError("nothing is to be exchanged")

    model = nn.Linear(2, 2)
    average = StepAverage(model, passes=2, processes=2)
    average.begin_step()
    for _ in range(2):
        average.begin_pass()
        model(torch.zeros(1, 2))
        average.end_pass()
    average.end_step(never)


def test_buffers_of_different_types_keep_them() -> None:
    model = nn.Module()
    model.register_buffer("short", torch.zeros(2, dtype=torch.bfloat16))
    model.register_buffer("long", torch.zeros(3, dtype=torch.float64))
    model.register_buffer("count", torch.zeros((), dtype=torch.int64))
    own: dict[str, Any] = dict(model.named_buffers())
    average = StepAverage(model, passes=2, processes=1)
    average.begin_step()
    for value in (1.0, 3.0):
        average.begin_pass()
        own["short"] += value
        own["long"] += value
        own["count"] += 1
        average.end_pass()
    average.end_step(None)
    assert own["short"].tolist() == [2.0] * 2
    assert own["long"].tolist() == [2.0] * 3
    assert own["count"].item() == 1
    kept = [buffer.dtype for buffer in model.buffers()]
    assert kept == [torch.bfloat16, torch.float64, torch.int64]


def test_a_backward_pass_works_after_the_buffers_were_restored() -> None:
    """The buffers are changed in place between the passes whose gradients are added."""
    model = network()
    average = StepAverage(model, passes=MICRO_BATCHES, processes=1)
    average.begin_step()
    for micro_batch in inputs()[0]:
        average.begin_pass()
        loss: Any = model(micro_batch).square().sum()
        loss.backward()
        average.end_pass()
    average.end_step(None)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_mask_of_minus_infinity_keeps_its_bits() -> None:
    """Its change, minus infinity less itself, is no number."""
    model = nn.BatchNorm1d(3)
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    average, mask = StepAverage(model, 2, 1), model.get_buffer("mask").clone()
    average.begin_step()
    for value in (1.0, 2.0):
        average.begin_pass()
        model(torch.randn(4, 3) + value)
        average.end_pass()
    average.end_step(None)
    assert torch.equal(model.get_buffer("mask"), mask)
    assert model.get_buffer("running_mean").isfinite().all()


def averaged(first: Tensor, *passes: list[Tensor], processes: int = 1) -> list[Tensor]:
    """A buffer after each step, of which the passes, one list a step, set it to these values."""
    model = nn.BatchNorm1d(2)
    model.register_buffer("best", first)
    average, found = StepAverage(model, len(passes[0]), processes), []
    for values in passes:
        average.begin_step()
        for value in values:
            average.begin_pass()
            model(torch.randn(4, 2))
            model.best = torch.minimum(model.get_buffer("best"), value)
            average.end_pass()
        average.end_step(lambda part: part * processes)  # as if all processes had the same
        found.append(model.get_buffer("best").clone())
    assert model.get_buffer("running_mean").isfinite().all()
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_a_minimum_that_begins_at_infinity_becomes_the_mean_of_the_new_values(
    processes: int,
) -> None:
    steps = [torch.tensor([1.0, 5.0]), torch.tensor([3.0, torch.inf])], [torch.zeros(2)] * 2
    one, other = averaged(torch.full((2,), torch.inf), *steps, processes=processes)
    assert one.tolist() == [2, torch.inf]
    assert other.tolist() == [0, 0]


def test_what_becomes_infinite_in_a_later_step_stays_so() -> None:
    """Infinity less itself, a step later, is no number."""
    lowest, low = torch.tensor(-torch.inf), torch.tensor(-1.0)
    found = averaged(torch.tensor(0.0), [low, low], [low, lowest], [low, low], [lowest, low])
    assert [float(value) for value in found] == [-1, -torch.inf, -torch.inf, -torch.inf]


def test_complex_buffers_are_averaged_part_by_part() -> None:
    model = nn.Module()
    model.register_buffer("phase", torch.tensor([complex(torch.inf, 1), 1j]))
    average = StepAverage(model, 2, 1)
    average.begin_step()
    for value in (1.0, 3.0):
        average.begin_pass()
        model.phase = torch.tensor([complex(value, value), complex(value, 0)])
        average.end_pass()
    average.end_step(None)
    assert model.get_buffer("phase").tolist() == [2 + 2j, 2 + 0j]
