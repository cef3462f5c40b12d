"""What the bench trains, as a recipe: one network on one data set, with or without augmentation.

The shipped recipes' networks and sources under one constant learning rate, so that every column of
the bench can do the same.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from launcher import Batch, Data, Hparams, Recipe, SampleRng, Split, augment, models, sources


@dataclass(frozen=True, kw_only=True)
class WorkloadHparams(Hparams):
    epochs: int = 1
    batch_size: int = 128
    dataset: str = "synthetic"
    """digits, mnist, fashion_mnist, cifar10, synthetic, or the path of a folder of images."""
    network: Literal["lenet", "mlp", "resnet34"] = "lenet"
    """Which of the launcher's networks."""
    augmented: bool = False
    """Flip each training image at random, and shift it by up to four pixels."""
    peak_lr: float = 0.01
    """The learning rate; it stays constant."""
    momentum: float = 0.9
    """Of SGD."""


def data(hparams: WorkloadHparams) -> Data:
    def transform(batch: Batch, rng: SampleRng) -> Batch:
        image = augment.flip(batch["image"], rng)
        return batch | {"image": augment.shift(image, rng, 4)}

    return Data(
        train=Split(
            sources.load(hparams.dataset, "train"), transform if hparams.augmented else None
        ),
        test=Split(sources.load(hparams.dataset, "test")),
        prepare=augment.normalize(mean=(0.5,), std=(0.5,)),
    )


def model(hparams: WorkloadHparams, data: Data) -> nn.Module:
    classes, channels = len(data.classes), data.shape[0]
    if hparams.network == "mlp":
        return models.MLP(math.prod(data.shape), classes, (256,))
    if hparams.network == "resnet34":
        return models.resnet34(classes, channels)
    return models.LeNet(classes, channels)


def optimizer(hparams: WorkloadHparams, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(), lr=hparams.peak_lr, momentum=hparams.momentum, fused=True
    )


recipe = Recipe(hparams=WorkloadHparams, data=data, model=model, optimizer=optimizer)
