"""Metrics: a model and a batch → one number per sample, by name; evaluation averages them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launcher.data import Batch
from launcher.matching import entropy, of_one_shape, part

_INSTEAD = "metrics=metrics.regression or metrics of its own"


def classification(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`loss` (cross entropy, no smoothing) and `accuracy` (0 or 1): float32, shape (N,)."""
    label = part(batch, "label", "metrics.classification (the default)", _INSTEAD)
    logits = model(batch["image"]).float()
    return {
        "loss": entropy(logits, label, reduction="none"),
        "accuracy": (logits.argmax(1) == label).float(),
    }


def regression(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`loss`: the squared error, averaged over a sample's outputs; float32, shape (N,)."""
    target = part(batch, "target", "metrics.regression", "other metrics")
    output = model(batch["image"]).float()
    of_one_shape(output, target, "metrics.regression")
    return {"loss": F.mse_loss(output, target, reduction="none").reshape(len(output), -1).mean(1)}


Metrics = Callable[[nn.Module, Batch], dict[str, Tensor]]


def flipped(metrics: Metrics = classification) -> Metrics:
    """Metrics of what a classifier says of an image and of its mirror image together: the mean of
    its probabilities for both (Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep
    Convolutional Neural Networks, NIPS 2012, section 4.1). As a recipe's metrics:
    `metrics=metrics.flipped()`.

    `metrics` calls its model with `image` (N, C, H, W) for logits (N, classes), and gets the
    logarithm of the mean. An evaluation takes twice as long, and leaves no confusion matrix, since
    no single output of the model is what counted; predictions and exports are not mirrored.
    """

    def mirrored(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return metrics(_Mirrored(model), batch)

    return mirrored


class _Mirrored(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        sides = torch.stack([self.model(image).float(), self.model(image.flip(-1)).float()])
        return sides.log_softmax(-1).exp().mean(0).log()
