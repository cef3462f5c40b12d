"""Numbers that are not finite are found in the step where they appear."""

import re
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from launcher.connect import connect
from launcher.errors import NonFiniteError, RecipeError
from launcher.guard import MOST_SKIPPED, Guard, gradient_norm
from launcher.launch import Launch
from launcher.plan import Plan
from launcher.settings import Hparams, RunSettings
from launcher.strategy import World

OPTIMIZER = torch.optim.SGD([torch.zeros(1)])
PLAN = Plan(seed=0, epochs=3, samples=10, batch_size=4, micro_batch_size=4)


@pytest.fixture
def world() -> World:
    return connect(Launch(), Hparams(epochs=1, batch_size=1), RunSettings())


def model_with_gradients(scale: float) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    (model(torch.randn(4, 5)).square().sum() * scale).backward()
    return model


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def norm_of(parameters: Iterable[nn.Parameter], clip: float | None = None) -> torch.Tensor:
    return gradient_norm([p.grad for p in parameters if p.grad is not None], clip)


class Steps:
    """A guard over one parameter, whose gradient each step gives."""

    def __init__(self, world: World, plan: Plan, clip: float | None = None) -> None:
        self.weight = nn.Parameter(torch.zeros(2))
        self.guard = Guard(world, plan, OPTIMIZER, [self.weight], clip)

    def __call__(self, step: int, value: float, *, norm: bool = False) -> torch.Tensor | None:
        self.weight.grad = torch.tensor([1.0, value])
        return self.guard.before_update(step, norm=norm)


# ── the norm ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("clip", [None, 1e-3, 0.5, 1e6])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_norm_and_clipping_are_those_of_torch(
    world: World, clip: float | None, scale: float
) -> None:
    ours, theirs = model_with_gradients(scale), model_with_gradients(scale)
    norm = norm_of(ours.parameters(), clip)
    expected = clip_grad_norm_(theirs.parameters(), float("inf") if clip is None else clip)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(gradients(ours), gradients(theirs))


def test_a_gradient_within_the_limit_is_not_touched(world: World) -> None:
    model, before = model_with_gradients(1), gradients(model_with_gradients(1))
    norm_of(model.parameters(), 1e6)
    assert all(map(torch.equal, gradients(model), before))


def test_a_parameter_without_a_gradient_does_not_count(world: World) -> None:
    model = model_with_gradients(1)
    parameters = list(model.parameters())
    alone = norm_of(parameters[:2])
    parameters[2].grad = parameters[3].grad = None
    assert torch.equal(norm_of(parameters), alone)


# ── the guard ───────────────────────────────────────────────────────────────────────────────────


def refused(step: int) -> str:
    """The sentence for a step of PLAN: two steps an epoch."""
    samples = ", ".join(map(str, PLAN.batch(step).tolist()))
    return f"in step {step + 1} (epoch {step // 2 + 1}), whose samples are {samples}."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_on_the_host_a_step_is_refused_at_once_with_its_samples(
    world: World, value: float, step: int
) -> None:
    of = Steps(world, PLAN)
    of(step, 1e38)
    with pytest.raises(NonFiniteError, match=re.escape(refused(step))):
        of(step, value)


def test_elsewhere_the_first_bad_step_is_named_at_the_next_line_of_metrics(world: World) -> None:
    of = Steps(world, PLAN)
    of.guard._at_once = False  # as on a GPU
    for step, value in enumerate((1.0, float("nan"), 1.0, float("inf"))):
        of(step, value)
    with pytest.raises(NonFiniteError, match=re.escape(refused(1))):
        of.guard.on_log(4, 0.5)


def test_elsewhere_finite_steps_pass(world: World) -> None:
    of = Steps(world, PLAN)
    of.guard._at_once = False
    for step in range(4):
        of(step, 1e38)
    of.guard.on_log(4, 0.5)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_norm_that_overflows_is_refused_where_it_would_clip(world: World, at_once: bool) -> None:
    """All gradients are finite, and clipping by such a norm would make them nothing."""
    of = Steps(world, PLAN, clip=1.0)
    of.guard._at_once = at_once
    if at_once:
        with pytest.raises(NonFiniteError, match=re.escape(refused(2))):
            of(2, 1e38)
    else:
        of(2, 1e38)
        with pytest.raises(NonFiniteError, match=re.escape(refused(2))):
            of.guard.before_save()


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_norm_is_taken_when_it_is_asked_for_and_before_clipping(
    world: World, clip: float | None
) -> None:
    of = Steps(world, PLAN, clip)
    assert (of(0, 0.0) is None) is (clip is None)
    norm = of(1, 0.0, norm=True)
    assert norm is not None
    assert norm.item() == 1.0
    assert of.weight.grad is not None
    assert of.weight.grad[0].item() == pytest.approx(clip or 1.0)


def test_looking_leaves_every_bit_of_a_gradient(world: World) -> None:
    values = torch.tensor([1e-45, -0.0, 3e38, -1 / 3])
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = values.clone()
    Guard(world, PLAN, OPTIMIZER, [weight]).before_update(0, norm=False)
    assert torch.equal(weight.grad.view(torch.int32), values.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_gradients_of_any_type_are_looked_at(world: World, dtype: torch.dtype) -> None:
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, dtype=dtype))]
    guard = Guard(world, PLAN, OPTIMIZER, weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    guard.before_update(0, norm=False)
    weights[1].grad[1] = float("nan")  # type: ignore[index]
    with pytest.raises(NonFiniteError):
        guard.before_update(1, norm=False)


def embedding(*, sparse: bool) -> list[Any]:
    """A table and a bias, with gradients in which one row comes twice."""
    torch.manual_seed(0)
    table, bias = nn.Embedding(9, 3, sparse=sparse), nn.Parameter(torch.zeros(3))
    (table(torch.tensor([4, 1, 4])).exp().sum() + bias.sum()).backward()
    return [table.weight, bias]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_sparse_gradients_are_looked_at_and_clipped_as_dense_ones(
    world: World, clip: float | None
) -> None:
    ours, theirs = embedding(sparse=True), embedding(sparse=False)
    guards = [Guard(world, PLAN, OPTIMIZER, weights, clip) for weights in (ours, theirs)]
    norms = [guard.before_update(0, norm=True) for guard in guards]
    torch.testing.assert_close(norms[0], norms[1])
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.to_dense(), other.grad)
    assert ours[0].grad is not None
    assert ours[0].grad.is_sparse
    ours[0].grad._values()[1, 1] = float("nan")
    with pytest.raises(NonFiniteError):
        guards[0].before_update(1, norm=False)


def test_a_sparse_gradient_that_comes_later_is_looked_at(world: World) -> None:
    weights = embedding(sparse=True)
    later, weights[0].grad = weights[0].grad, None
    guard = Guard(world, PLAN, OPTIMIZER, weights)
    guard.before_update(0, norm=False)
    weights[0].grad = later
    guard.before_update(1, norm=False)


def test_a_model_without_any_gradient_is_refused(world: World) -> None:
    with pytest.raises(RecipeError, match="gave no parameter of the model a gradient"):
        Guard(world, PLAN, OPTIMIZER, [nn.Parameter(torch.zeros(2))]).before_update(0, norm=False)


def test_a_mean_loss_that_is_not_finite_is_refused(world: World) -> None:
    with pytest.raises(NonFiniteError, match=r"in step 4 \(epoch 2\)"):
        Guard(world, PLAN, OPTIMIZER, []).on_log(4, float("nan"))


def test_fifty_steps_left_out_in_a_row_are_refused(world: World) -> None:
    plan = Plan(seed=0, epochs=100, samples=10, batch_size=4, micro_batch_size=4)
    guard = Guard(world, plan, OPTIMIZER, [])
    for step in range(MOST_SKIPPED - 1):
        guard.after_update(step, skipped=True)
    guard.after_update(MOST_SKIPPED - 1, skipped=False)
    assert guard.skipped == MOST_SKIPPED - 1
    for step in range(MOST_SKIPPED, 2 * MOST_SKIPPED - 1):
        guard.after_update(step, skipped=True)
    with pytest.raises(NonFiniteError, match=f"in step {2 * MOST_SKIPPED} "):
        guard.after_update(2 * MOST_SKIPPED - 1, skipped=True)
    assert MOST_SKIPPED == 50


# ── a loss that is not finite ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_loss_with_good_gradients_makes_them_bad(world: World, value: float) -> None:
    """An added constant has no gradient: torch alone would train on."""
    weight = nn.Parameter(torch.ones(3))
    (weight.sum() + value).backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(norm_of([weight])), "nothing to see here"
    weight.grad = None
    world.backward(weight.sum() + value, 0.5)
    assert torch.isnan(norm_of([weight]))


def test_a_good_loss_keeps_its_gradients(world: World) -> None:
    weight = nn.Parameter(torch.ones(3))
    world.backward((weight * torch.tensor([1.0, 2.0, 4.0])).sum(), 0.5)
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.5, 1.0, 2.0]


def test_one_bad_micro_batch_of_several_is_seen(world: World) -> None:
    weight = nn.Parameter(torch.ones(3))
    for add in (0.0, float("inf"), 0.0):
        world.backward(weight.sum() + add, 1 / 3)
    assert torch.isnan(norm_of([weight]))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_clipping_does_not_hide_a_bad_gradient(world: World, clip: float | None) -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([float("inf"), 1.0])
    assert not torch.isfinite(norm_of([weight], clip))


# ── updates after a bad step, off the host ──────────────────────────────────────────────────────

FUSED = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True, fused=True),
}
UNFUSED = {"plain": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=False)}


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Copies of the parameters and of all that the optimizer keeps."""
    slots = [v for state in optimizer.state.values() for v in state.values()]
    kept = [*model.parameters(), *(v for v in slots if isinstance(v, torch.Tensor))]
    return [tensor.detach().clone() for tensor in kept]


def trained(
    world: World, make: Any, bad: dict[int, float], steps: int
) -> tuple[Guard, list[list[torch.Tensor]]]:
    """What there is after each step, as on a GPU; `bad` gives gradients that are not finite."""
    model = model_with_gradients(1)
    optimizer = make(model.parameters())
    guard = Guard(world, PLAN, optimizer, model.parameters())
    guard._at_once = False
    after = []
    for step in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        if step in bad:
            parameter.grad.view(-1)[0] = bad[step]  # type: ignore[union-attr]
        guard.before_update(step, norm=False)
        optimizer.step()
        guard.after_update(step, skipped=False)
        after.append(everything(model, optimizer))
    return guard, after


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_a_fused_optimizer_leaves_out_every_update_from_the_first_bad_step_on(
    world: World, make: Any, value: float
) -> None:
    """Also those of good steps that follow: they would begin from a step that was left out."""
    guard, after = trained(world, make, {3: value, 4: 1.0}, 6)
    assert not same(after[1], after[2]), "good steps are made"
    assert all(same(after[2], later) for later in after[3:])
    with pytest.raises(NonFiniteError, match=re.escape(refused(3))):
        guard.on_log(6, 0.5)
    with pytest.raises(NonFiniteError, match=re.escape(refused(3))):
        guard.before_save()
    with pytest.raises(NonFiniteError, match=re.escape(refused(3))):
        guard.before_evaluation(6, [])


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_good_steps_are_those_of_the_optimizer_alone(world: World, make: Any) -> None:
    guard, after = trained(world, make, {}, 4)
    guard.on_log(4, 0.5)
    model = model_with_gradients(1)
    optimizer = make(model.parameters())
    for found in after:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
        assert same(found, everything(model, optimizer))


@pytest.mark.parametrize("make", UNFUSED.values(), ids=UNFUSED)
def test_another_optimizer_goes_on_and_is_refused_all_the_same(world: World, make: Any) -> None:
    """The negative control: without the flag the weights take what is not finite."""
    guard, after = trained(world, make, {1: float("nan")}, 3)
    assert any(tensor.isnan().any() for tensor in after[-1])
    with pytest.raises(NonFiniteError, match=re.escape(refused(1))):
        guard.on_log(3, 0.5)


def test_weights_that_are_not_finite_are_not_evaluated(world: World) -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    empty = nn.Parameter(torch.empty(0))
    guard = Guard(world, PLAN, OPTIMIZER, [weight, empty])
    guard.before_evaluation(4, [weight, empty])
    with torch.no_grad():
        weight[1] = float("inf")
    with pytest.raises(NonFiniteError, match=re.escape(refused(3))):
        guard.before_evaluation(4, [weight, empty])


def test_weights_that_are_not_trained_may_be_anything(world: World) -> None:
    weight, mask = nn.Parameter(torch.ones(3)), torch.full((2,), -torch.inf)
    frozen = [nn.Parameter(value, requires_grad=False) for value in (mask, torch.arange(4))]
    Guard(world, PLAN, OPTIMIZER, [weight, *frozen]).before_evaluation(4, [weight, *frozen])
