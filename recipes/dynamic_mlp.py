"""A network that draws its depth anew in every step: control flow in `forward`.

accelerate launch -m launcher recipes/dynamic_mlp.py
accelerate launch -m launcher recipes/dynamic_mlp.py --config configs/runs/quick.yaml

One hidden layer is applied between none and three times, the same number of times on every process
of a step. A step that draws none leaves its parameters without a gradient, which several processes
must know of: find_unused_parameters=true is this recipe's default.

Expect 86.35 % test accuracy (seed 0).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from launcher import Data, Hparams, Recipe, Split, augment, draws, sources


@dataclass(frozen=True, kw_only=True)
class DynamicHparams(Hparams):
    epochs: int = 10
    batch_size: int = 256
    find_unused_parameters: bool = True
    dataset: str = "fashion_mnist"
    """digits, mnist, fashion_mnist, cifar10, synthetic, or the path of a folder of images."""
    peak_lr: float = 0.02
    """The learning rate; it stays constant."""
    momentum: float = 0.9
    """Of SGD."""
    width: int = 100
    """Units of the hidden layer."""
    most: int = 3
    """How often the hidden layer is applied at most."""


class DynamicMlp(nn.Module):
    """Input layer, one hidden layer applied 0 to `most` times, output layer; ReLU between them."""

    def __init__(self, inputs: int, outputs: int, width: int, most: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)
        self.most = most

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image.flatten(1)).relu()
        # In training another depth in every step; in an evaluation always the same.
        for _ in range(draws.integer(0, self.most + 1) if self.training else self.most):
            x = self.middle(x).relu()
        logits: Tensor = self.last(x)
        return logits


def data(hparams: DynamicHparams) -> Data:
    return Data(
        train=Split(sources.load(hparams.dataset, "train")),
        test=Split(sources.load(hparams.dataset, "test")),
        prepare=augment.normalize(mean=(0.5,), std=(0.5,)),
    )


def model(hparams: DynamicHparams, data: Data) -> nn.Module:
    inputs = math.prod(data.shape)
    return DynamicMlp(inputs, len(data.classes), hparams.width, hparams.most)


def optimizer(hparams: DynamicHparams, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=hparams.peak_lr, momentum=hparams.momentum)


recipe = Recipe(hparams=DynamicHparams, data=data, model=model, optimizer=optimizer)
