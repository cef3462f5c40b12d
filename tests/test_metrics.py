"""Metrics: one number per sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from launcher import losses, metrics
from launcher.data import Batch
from launcher.errors import RecipeError

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0], [5.0, 1.0, 0.0]])
LABEL = torch.tensor([0, 2, 2, 1])
BATCH: Batch = {"image": LOGITS, "label": LABEL}


def test_classification_has_one_loss_and_one_hit_per_sample() -> None:
    found = metrics.classification(nn.Identity(), BATCH)
    assert set(found) == {"loss", "accuracy"}
    for values in found.values():
        assert (values.shape, values.dtype) == ((4,), torch.float32)
    assert found["accuracy"].tolist() == [1, 0, 1, 0]
    expected = [-LOGITS[row].log_softmax(0)[label] for row, label in enumerate(LABEL.tolist())]
    torch.testing.assert_close(found["loss"], torch.stack(expected))


def test_the_average_loss_is_the_training_loss_without_smoothing() -> None:
    found = metrics.classification(nn.Identity(), BATCH)["loss"].mean()
    torch.testing.assert_close(found, losses.cross_entropy(nn.Identity(), BATCH))
    smoothed = losses.cross_entropy(nn.Identity(), BATCH, label_smoothing=0.1)
    assert not torch.isclose(found, smoothed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_classification_of_half_precision_logits_is_computed_in_float32(
    dtype: torch.dtype,
) -> None:
    half = LOGITS.to(dtype)
    found = metrics.classification(nn.Identity(), BATCH | {"image": half})
    assert found["loss"].dtype == torch.float32
    torch.testing.assert_close(
        found["loss"], F.cross_entropy(half.float(), LABEL, reduction="none"), rtol=0, atol=0
    )


def test_a_sample_counts_the_same_in_any_batch() -> None:
    together = metrics.classification(nn.Identity(), BATCH)
    alone = metrics.classification(nn.Identity(), {"image": LOGITS[2:3], "label": LABEL[2:3]})
    for name, values in alone.items():
        assert torch.equal(values, together[name][2:3])


def test_regression_averages_the_squares_of_a_sample() -> None:
    output = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    found = metrics.regression(nn.Identity(), {"image": output, "target": target})
    assert set(found) == {"loss"}
    assert found["loss"].tolist() == [2.0, 5.0]
    assert found["loss"].dtype == torch.float32


def test_regression_with_one_output_has_one_number_per_sample() -> None:
    output, target = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 1.0])
    found = metrics.regression(nn.Identity(), {"image": output, "target": target})
    assert found["loss"].tolist() == [0.0, 4.0, 9.0]


@pytest.mark.parametrize(("output", "target"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (4, 1))])
def test_regression_of_two_shapes_is_refused_with_both(
    output: tuple[int, ...], target: tuple[int, ...]
) -> None:
    """Broadcast, it would still be one number per sample: its mean distance to all targets."""
    batch = {"image": torch.zeros(output), "target": torch.zeros(target)}
    with pytest.raises(RecipeError, match="give both one shape") as error:
        metrics.regression(nn.Identity(), batch)
    assert f"output of shape {output} with a target of shape {target}" in str(error.value)


@pytest.mark.parametrize(
    ("function", "name"), [(metrics.classification, "label"), (metrics.regression, "target")]
)
def test_a_batch_without_what_metrics_need_is_refused_with_what_it_has(
    function: metrics.Metrics, name: str
) -> None:
    with pytest.raises(RecipeError, match=f"needs `{name}`, and a batch of this data has image, x"):
        function(nn.Identity(), {"image": torch.zeros(2, 2), "x": torch.zeros(2)})


class Sided(nn.Module):
    """Logits of an image's left edge."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :, 0, 0]


def test_a_flipped_metric_is_of_the_mean_probability_of_both_sides() -> None:
    torch.manual_seed(0)
    batch: Batch = {"image": torch.randn(4, 3, 2, 5), "label": LABEL}
    found = metrics.flipped()(Sided(), batch)
    sides = [batch["image"][:, :, 0, 0].softmax(1), batch["image"][:, :, 0, -1].softmax(1)]
    both = (sides[0] + sides[1]) / 2
    expected = -both.gather(1, LABEL[:, None])[:, 0].log()
    torch.testing.assert_close(found["loss"], expected)
    assert torch.equal(found["accuracy"], (both.argmax(1) == LABEL).float())
    assert not torch.allclose(metrics.classification(Sided(), batch)["loss"], expected)


def test_a_flipped_metric_of_symmetric_images_is_the_metric_itself() -> None:
    image = LOGITS[:, :, None, None].expand(4, 3, 1, 2)
    found = metrics.flipped()(Sided(), {"image": image, "label": LABEL})
    torch.testing.assert_close(found, metrics.classification(nn.Identity(), BATCH))
