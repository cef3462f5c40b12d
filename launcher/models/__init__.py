"""Networks for images. Each imports torch and nothing of the launcher."""

from launcher.models.lenet import LeNet as LeNet
from launcher.models.mlp import MLP as MLP
from launcher.models.resnet import ResNet as ResNet
from launcher.models.resnet import resnet18 as resnet18
from launcher.models.resnet import resnet34 as resnet34
