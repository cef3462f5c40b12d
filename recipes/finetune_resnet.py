"""A residual network that begins with the weights of another one: transfer learning.

accelerate launch -m launcher recipes/finetune_resnet.py dataset=photos [frozen=true]
accelerate launch -m launcher recipes/finetune_resnet.py dataset=photos stem=cifar size=32 \\
    weights=checkpoints/cifar_resnet

On 200 flowers (5 classes, 50 for tests) at 32 px, epochs=5 body_rate=1, from one epoch of CIFAR-10
at 16 px (54.6 %): 47.3 % (seeds 0 to 2: 44, 56, 42), with weights=none 42.0 % (30, 50, 46).
"""

from dataclasses import dataclass
from typing import Any, Literal

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
    models,
    optim,
    pretrained,
    schedules,
    sources,
)


@dataclass(frozen=True, kw_only=True)
class FinetuneHparams(Hparams):
    epochs: int = 25
    batch_size: int = 32
    dataset: str = "photos"
    """The path of a folder of images; or digits, mnist, fashion_mnist, cifar10, synthetic."""
    size: int = 224
    """Height and width of images."""
    depth: Literal[18, 34] = 34
    """Layers of the network."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """Its first layer: torchvision's, or that of recipes/cifar_resnet.py."""
    weights: str | None = "https://download.pytorch.org/models/resnet34-b627a593.pth"
    """A file in torchvision's format, its URL, a finished run's folder, or none: random ones."""
    frozen: bool = False
    """Train the new last layer alone, on what the others give."""
    peak_lr: float = 0.01
    """The last layer's first learning rate; it falls along half a cosine."""
    body_rate: float = 0.1
    """Share of it that all other layers have, if they begin with weights."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    """On filters and matrices; not on norms and biases."""


def data(hparams: FinetuneHparams) -> Data:
    crop: Any = None
    if hparams.dataset not in sources.NAMES:  # photographs, which are cropped where they are read
        from torchvision.transforms import v2

        crop = v2.Compose([v2.RandomResizedCrop(hparams.size), v2.RandomHorizontalFlip()])

    def flip(batch: Batch, rng: SampleRng) -> Batch:
        return batch | {"image": augment.flip(batch["image"], rng)}

    mirrors = crop is None and hparams.dataset not in ("digits", "mnist")
    train = sources.load(hparams.dataset, "train", hparams.size, channels=3, transform=crop)
    return Data(
        train=Split(train, flip if mirrors else None),
        test=Split(sources.load(hparams.dataset, "test", hparams.size, channels=3)),
        prepare=augment.normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )


def model(hparams: FinetuneHparams, data: Data) -> nn.Module:
    build = models.resnet18 if hparams.depth == 18 else models.resnet34
    network = build(len(data.classes), channels=3, stem=hparams.stem)
    if hparams.weights is not None:
        pretrained.load(network, hparams.weights, head="fc")
    if hparams.frozen:
        pretrained.freeze(network, head="fc")
    return network


def optimizer(hparams: FinetuneHparams, model: nn.Module) -> torch.optim.Optimizer:
    rates = {"fc": 1.0, "": hparams.body_rate if hparams.weights else 1.0}
    groups = optim.layer_groups(model, hparams.peak_lr, rates, hparams.weight_decay)
    return torch.optim.SGD(groups, lr=hparams.peak_lr, momentum=hparams.momentum, fused=True)


def schedule(hparams: FinetuneHparams, progress: float) -> float:
    return schedules.cosine(progress)


recipe = Recipe(
    hparams=FinetuneHparams, data=data, model=model, optimizer=optimizer, schedule=schedule
)
