"""LeNet-5 as in the PyTorch tutorials."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet(nn.Module):
    """Two 5 x 5 convolutions (6 and 16 channels), max-pooled, then 400-120-84-classes.

    After LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition,
    Proceedings of the IEEE 1998, figure 2, with ReLU and max-pooling as the tutorials have it and
    with their parameter names. Takes float images of shape (N, channels, 32, 32); gives logits of
    shape (N, classes).
    """

    def __init__(self, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, image: Tensor) -> Tensor:
        # Pooling before ReLU gives the same numbers as after it, on a quarter of them.
        x = F.relu(F.max_pool2d(self.conv1(image), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits
