"""ResNet-34 on CIFAR-10, from scratch.

accelerate launch -m launcher recipes/cifar_resnet.py
accelerate launch -m launcher recipes/cifar_resnet.py --config configs/runs/quick.yaml

Expect 98 % on digits with quick.yaml after 40 s on 2 CPU cores, and 93.5 % of the full run, after
78 s on an H100.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from launcher import (
    Batch,
    Data,
    Hparams,
    Recipe,
    SampleRng,
    Split,
    augment,
    losses,
    models,
    optim,
    schedules,
    sources,
)


@dataclass(frozen=True, kw_only=True)
class ResNetHparams(Hparams):
    epochs: int = 40
    batch_size: int = 512
    precision: Literal["no", "fp16", "bf16", "auto"] | None = "auto"
    dataset: str = "cifar10"
    """digits, mnist, fashion_mnist, cifar10, synthetic, or the path of a folder of images."""
    size: int | None = None
    """Height and width of images; by default their own, and 32 for those of a folder."""
    peak_lr: float = 0.2
    """The highest learning rate, after the warm-up; then it falls along half a cosine."""
    warmup: float = 0.15
    """Share of the run in which the learning rate rises."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """On filters and matrices; not on norms and biases."""
    max_shift: int = 4
    """Pixels by which a training image moves in each direction; none if it is 8 pixels wide."""
    flip: bool = True
    """Mirror half of the training images, unless they are digits."""


def data(hparams: ResNetHparams) -> Data:
    mirrors = hparams.flip and hparams.dataset not in ("digits", "mnist")

    def transform(batch: Batch, rng: SampleRng) -> Batch:
        image = batch["image"]
        if mirrors:
            image = augment.flip(image, rng)
        if image.shape[-1] >= 28:
            image = augment.shift(image, rng, hparams.max_shift)
        return batch | {"image": image}

    return Data(
        train=Split(sources.load(hparams.dataset, "train", hparams.size, channels=3), transform),
        test=Split(sources.load(hparams.dataset, "test", hparams.size, channels=3)),
        prepare=augment.normalize(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)),
    )


def model(hparams: ResNetHparams, data: Data) -> nn.Module:
    return models.resnet34(len(data.classes), data.shape[0], zero_init_residual=True)


def optimizer(hparams: ResNetHparams, model: nn.Module) -> torch.optim.Optimizer:
    groups = optim.decay_groups(model, hparams.weight_decay)
    return torch.optim.SGD(
        groups, lr=hparams.peak_lr, momentum=hparams.momentum, nesterov=True, fused=True
    )


def schedule(hparams: ResNetHparams, progress: float) -> float:
    return schedules.cosine(progress, warmup=hparams.warmup)


recipe = Recipe(
    hparams=ResNetHparams,
    data=data,
    model=model,
    optimizer=optimizer,
    schedule=schedule,
    loss=partial(losses.cross_entropy, label_smoothing=0.1),
)
