"""Residual networks of basic blocks, with torchvision's parameter names and outputs.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016: table 1 (18 and 34
layers), figure 5 left (the block), option B (projections where the shape changes). Written here
because importing torchvision takes longer than building the network.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Stem = Literal["cifar", "imagenet"]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and the input added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.drop = 0.0  # the probability with which a training pass leaves the convolutions out
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.training and self.drop:
            x = x * _survivors(x, self.drop)
        x = x + shortcut
        out: Tensor = self.relu(x)
        return out


def _survivors(x: Tensor, drop: float) -> Tensor:
    """Zero for samples that leave a block out, 1 / (1 - drop) for the others: (N, 1, 1, 1)."""
    keep = 1 - drop
    return torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep).div_(keep)


class ResNet(nn.Module):
    """Four stages of basic blocks with 64, 128, 256 and 512 channels.

    `stem="imagenet"` is the paper's 7 x 7 convolution with stride 2 and max-pooling; `"cifar"` is
    one 3 x 3 convolution, so that a 32 x 32 image keeps its size in the first stage. Takes float
    images of shape (N, channels, H, W) of any size; gives logits of shape (N, classes).

    `zero_init_residual` starts every block as the identity, which trains better when there are few
    steps (Goyal et al.: Accurate, Large Minibatch SGD, 2017, section 5.1).

    `stochastic_depth` in [0, 1) is the probability with which a training pass leaves the last block
    out, for each sample; the first of n blocks has an n-th of it, the second two (Huang, Sun, Liu,
    Sedra, Weinberger: Deep Networks with Stochastic Depth, ECCV 2016, equation 4). It draws from
    torch's generator, which the launcher seeds for each micro-batch.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        classes: int = 10,
        channels: int = 3,
        stem: Stem = "cifar",
        zero_init_residual: bool = False,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, 64, 3, 1, padding=1, bias=False)
        self.pools = stem == "imagenet"
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        first, second, third, fourth = blocks
        self.layer1 = _stage(64, 64, first, stride=1)
        self.layer2 = _stage(64, 128, second, stride=2)
        self.layer3 = _stage(128, 256, third, stride=2)
        self.layer4 = _stage(256, 512, fourth, stride=2)
        self.fc = nn.Linear(512, classes)
        every = [module for module in self.modules() if isinstance(module, BasicBlock)]
        for number, block in enumerate(every, start=1):
            block.drop = stochastic_depth * number / len(every)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock) and zero_init_residual:
                nn.init.zeros_(module.bn2.weight)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(image)))
        if self.pools:
            x = F.max_pool2d(x, 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        logits: Tensor = self.fc(x)
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def resnet18(
    classes: int = 10, channels: int = 3, stem: Stem = "cifar", zero_init_residual: bool = False,
    stochastic_depth: float = 0.0,
) -> ResNet:  # fmt: skip
    """Blocks 2-2-2-2: 11.2 million parameters with 10 classes."""
    return ResNet((2, 2, 2, 2), classes, channels, stem, zero_init_residual, stochastic_depth)


def resnet34(
    classes: int = 10, channels: int = 3, stem: Stem = "cifar", zero_init_residual: bool = False,
    stochastic_depth: float = 0.0,
) -> ResNet:  # fmt: skip
    """Blocks 3-4-6-3: 21.3 million parameters with 10 classes."""
    return ResNet((3, 4, 6, 3), classes, channels, stem, zero_init_residual, stochastic_depth)
