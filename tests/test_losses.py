"""Losses against the formulas written out."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launcher import losses
from launcher.data import Batch


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


def test_a_loss_runs_the_model_once_and_reaches_its_parameters() -> None:
    calls: list[int] = []
    model = nn.Linear(5, 5)
    model.register_forward_hook(lambda *_: calls.append(1))
    _, batch = classified()
    losses.cross_entropy(model, batch).backward()  # type: ignore[no-untyped-call]
    assert calls == [1]
    assert model.weight.grad is not None
    assert model.weight.grad.abs().sum() > 0
