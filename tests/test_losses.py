"""Losses against the formulas written out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import command, write_recipe
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from launcher import losses, mixing
from launcher.data import Batch
from launcher.errors import RecipeError


def classified(samples: int = 12, classes: int = 5) -> tuple[Tensor, Batch]:
    """Logits, and a batch that a model which gives its input back turns into them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, classes, generator=generator) * 3
    label = torch.randint(classes, (samples,), generator=generator)
    return logits, {"image": logits, "label": label}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_the_mean_of_minus_the_log_probability(smoothing: float) -> None:
    logits, batch = classified()
    target = F.one_hot(batch["label"], 5) * (1 - smoothing) + smoothing / 5
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    found = losses.cross_entropy(nn.Identity(), batch, label_smoothing=smoothing)
    assert found.shape == ()
    torch.testing.assert_close(found, expected)


def test_cross_entropy_smooths_nothing_unless_asked_to() -> None:
    logits, batch = classified()
    expected = F.cross_entropy(logits, batch["label"])
    assert torch.equal(losses.cross_entropy(nn.Identity(), batch), expected)
    smoothed = partial(losses.cross_entropy, label_smoothing=0.1)
    assert not torch.equal(smoothed(nn.Identity(), batch), expected)


def test_the_mean_of_micro_batches_is_the_loss_of_the_batch() -> None:
    logits, batch = classified()
    parts = [
        losses.cross_entropy(nn.Identity(), {"image": image, "label": label}, 0.1)
        for image, label in zip(logits.chunk(3), batch["label"].chunk(3), strict=True)
    ]
    torch.testing.assert_close(
        torch.stack(parts).mean(), losses.cross_entropy(nn.Identity(), batch, 0.1)
    )


def test_mse_is_the_mean_squared_difference() -> None:
    output = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    found = losses.mse(nn.Identity(), {"image": output, "target": target})
    assert found.shape == ()
    assert found.item() == (0 + 4 + 9 + 1) / 4


@pytest.mark.parametrize(
    ("output", "target"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (4, 1)), ((1, 1), (1,))]
)
def test_mse_of_two_shapes_is_refused_with_both(
    output: tuple[int, ...], target: tuple[int, ...]
) -> None:
    """torch would only warn, and compare every sample with every other one's target."""
    with pytest.raises(RecipeError, match="squeeze") as error:
        losses.mse(nn.Identity(), {"image": torch.zeros(output), "target": torch.zeros(target)})
    assert f"output of shape {output} with a target of shape {target}" in str(error.value)


@pytest.mark.parametrize(
    ("loss", "name"), [(losses.cross_entropy, "label"), (losses.mse, "target")]
)
def test_a_batch_without_what_a_loss_needs_is_refused_with_what_it_has(
    loss: Callable[[nn.Module, Batch], Tensor], name: str
) -> None:
    with pytest.raises(RecipeError, match=f"needs `{name}`, and a batch of this data has image, x"):
        loss(nn.Identity(), {"image": torch.zeros(2, 2), "x": torch.zeros(2)})


# ── weights of classes ──────────────────────────────────────────────────────────────────────────

WEIGHT = (0.5, 3.0, 0.0, 1.0, 7.0)


def gradient(loss: Callable[[nn.Module, Batch], Tensor], parts: int, *, soft: bool) -> Tensor:
    """Of a batch of 64 in so many micro-batches, as the launcher accumulates it."""
    image, batch = classified(64)
    label = mixing.soft(batch["label"], 5) if soft else batch["label"]
    if soft:
        label = (label + label.flip(0)) / 2
    torch.manual_seed(0)
    model = nn.Linear(5, 5)
    for some, of in zip(image.chunk(parts), label.chunk(parts), strict=True):
        (loss(model, {"image": some, "label": of}) / parts).backward()  # type: ignore[no-untyped-call]
    assert model.weight.grad is not None
    return model.weight.grad


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [WEIGHT, list(WEIGHT), torch.tensor(WEIGHT).double()], ids=type)
def test_the_gradient_of_a_weighted_loss_does_not_depend_on_micro_batches(
    weight: Tensor | tuple[float, ...], smoothing: float, soft: bool
) -> None:
    loss = partial(losses.cross_entropy, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(gradient(loss, 4, soft=soft), gradient(loss, 1, soft=soft))


def test_that_of_torchs_weighted_mean_does() -> None:
    """The negative control, and why there is a `weight` of our own."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["image"]), batch["label"], torch.tensor(WEIGHT))

    whole = gradient(loss, 1, soft=False)
    assert (gradient(loss, 4, soft=False) - whole).norm() > 0.01 * whole.norm()


def test_a_weighted_loss_is_the_mean_of_weight_times_cross_entropy() -> None:
    logits, batch = classified()
    each = F.cross_entropy(logits, batch["label"], reduction="none")
    expected = (torch.tensor(WEIGHT)[batch["label"]] * each).mean()
    found = losses.cross_entropy(nn.Identity(), batch, weight=WEIGHT)
    torch.testing.assert_close(found, expected)
    hot = batch | {"label": F.one_hot(batch["label"], 5).float()}
    torch.testing.assert_close(losses.cross_entropy(nn.Identity(), hot, weight=WEIGHT), expected)
    half = batch | {"image": logits.bfloat16()}
    found = losses.cross_entropy(nn.Identity(), half, weight=WEIGHT)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_weights_of_one_are_no_weights() -> None:
    _, batch = classified()
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            losses.cross_entropy(nn.Identity(), batch, smoothing, [1.0] * 5),
            losses.cross_entropy(nn.Identity(), batch, smoothing),
        )


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), -1.0])
def test_a_weight_that_is_no_number_from_zero_is_refused_with_its_class(wrong: float) -> None:
    _, batch = classified()
    with pytest.raises(RecipeError, match=f"the weight of class 3 is {wrong:g}"):
        losses.cross_entropy(nn.Identity(), batch, weight=[1.0, 1.0, 1.0, wrong, 1.0])


def test_weights_are_placed_on_a_device_once() -> None:
    _, batch = classified()
    losses._weights.cache_clear()
    weight = torch.tensor(WEIGHT)
    for _ in range(3):
        losses.cross_entropy(nn.Identity(), batch, weight=weight)
        losses.cross_entropy(nn.Identity(), batch, weight=list(WEIGHT))
    assert losses._weights.cache_info().misses == 2
    assert losses._weights.cache_info().hits == 4


def test_a_weighted_run_learns_the_same_in_micro_batches() -> None:
    recipe = write_recipe(
        "from functools import partial\n"
        "loss = partial(losses.cross_entropy, weight=[0.5, 3.0, 0.25, 7.0], label_smoothing=0.1)\n"
    )
    found = []
    for size in (64, 16):
        given = ("batch_size=64", f"micro_batch_size={size}", "threads=1", f"name=r{size}")
        assert command(recipe, *given) == 0
        (folder,) = Path(f"checkpoints/r{size}").glob("step-*2")
        found.append(load_file(folder / "model.safetensors"))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


def test_a_loss_runs_the_model_once_and_reaches_its_parameters() -> None:
    calls: list[int] = []
    model = nn.Linear(5, 5)
    model.register_forward_hook(lambda *_: calls.append(1))
    _, batch = classified()
    losses.cross_entropy(model, batch).backward()  # type: ignore[no-untyped-call]
    assert calls == [1]
    assert model.weight.grad is not None
    assert model.weight.grad.abs().sum() > 0
