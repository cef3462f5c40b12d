"""A multilayer perceptron on Fashion-MNIST.

accelerate launch -m launcher recipes/fashion_mlp.py
accelerate launch -m launcher recipes/fashion_mlp.py --config configs/runs/quick.yaml
accelerate launch -m launcher recipes/fashion_mlp.py widths=none init=normal  # softmax regression

Expect 89 % test accuracy (mean of 3 seeds: 88.8, 88.5, 89.0), 5 s on 2 CPU cores.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from launcher import Data, Hparams, Recipe, Split, augment, models, schedules, sources


@dataclass(frozen=True, kw_only=True)
class MlpHparams(Hparams):
    epochs: int = 10
    batch_size: int = 256
    dataset: str = "fashion_mnist"
    """digits, mnist, fashion_mnist, cifar10, synthetic, or the path of a folder of images."""
    size: int | None = None
    """Height and width of images; by default their own, and 32 for those of a folder."""
    peak_lr: float = 0.1
    """The first learning rate; it falls along half a cosine."""
    momentum: float = 0.9
    """Of SGD."""
    widths: tuple[int, ...] | None = (256,)
    """Units of each hidden layer; none: no hidden layer, which is softmax regression."""
    init: Literal["default", "normal", "xavier", "kaiming"] = "default"
    """First weights: torch's own, normal(0.01), Glorot's or He's."""
    dropout: float = 0.0
    """Share of hidden units that a training pass leaves out."""


def data(hparams: MlpHparams) -> Data:
    return Data(
        train=Split(sources.load(hparams.dataset, "train", hparams.size)),
        test=Split(sources.load(hparams.dataset, "test", hparams.size)),
        prepare=augment.normalize(mean=(0.5,), std=(0.5,)),
    )


def model(hparams: MlpHparams, data: Data) -> nn.Module:
    inputs = math.prod(data.shape)
    return models.MLP(
        inputs, len(data.classes), hparams.widths or (), hparams.init, hparams.dropout
    )


def optimizer(hparams: MlpHparams, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(), lr=hparams.peak_lr, momentum=hparams.momentum, fused=True
    )


def schedule(hparams: MlpHparams, progress: float) -> float:
    return schedules.cosine(progress)


recipe = Recipe(hparams=MlpHparams, data=data, model=model, optimizer=optimizer, schedule=schedule)
