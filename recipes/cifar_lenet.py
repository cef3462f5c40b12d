"""LeNet-5 on CIFAR-10: the classic tutorial job.

accelerate launch -m launcher recipes/cifar_lenet.py
accelerate launch -m launcher recipes/cifar_lenet.py --config configs/runs/quick.yaml

Expect 53.5 % test accuracy (mean of 6 seeds, 51.9 to 54.5), 33 s on a CPU.
"""

from dataclasses import dataclass

import torch
from torch import nn

from launcher import Data, Hparams, Recipe, Split, augment, models, sources


@dataclass(frozen=True, kw_only=True)
class LeNetHparams(Hparams):
    epochs: int = 2
    batch_size: int = 4
    dataset: str = "cifar10"
    """digits, mnist, fashion_mnist, cifar10, synthetic, or the path of a folder of images."""
    peak_lr: float = 0.001
    """The learning rate; it stays constant."""
    momentum: float = 0.9
    """Of SGD."""


def data(hparams: LeNetHparams) -> Data:
    return Data(
        train=Split(sources.load(hparams.dataset, "train", size=32)),
        test=Split(sources.load(hparams.dataset, "test", size=32)),
        prepare=augment.normalize(mean=(0.5,), std=(0.5,)),
    )


def model(hparams: LeNetHparams, data: Data) -> nn.Module:
    return models.LeNet(classes=len(data.classes), channels=data.shape[0])


def optimizer(hparams: LeNetHparams, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(), lr=hparams.peak_lr, momentum=hparams.momentum, fused=True
    )


recipe = Recipe(hparams=LeNetHparams, data=data, model=model, optimizer=optimizer)
