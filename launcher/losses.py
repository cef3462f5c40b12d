"""Losses: a model and a batch → the mean over the micro-batch, a scalar to minimise.

A loss owns the forward pass, so that label smoothing, an auxiliary head or a teacher is another
function and not another setting.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from launcher.data import Batch


def cross_entropy(model: nn.Module, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of the logits (N, classes) with `batch["label"]` (int64, N).

    `label_smoothing` in [0, 1] is the share that is spread evenly over all classes (Szegedy et al.:
    Rethinking the Inception Architecture, CVPR 2016, section 7). As a recipe's loss:
    `partial(losses.cross_entropy, label_smoothing=0.1)`.
    """
    logits = model(batch["image"])
    return F.cross_entropy(logits, batch["label"], label_smoothing=label_smoothing)


def mse(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the output with `batch["target"]` (float32, of the same shape)."""
    return F.mse_loss(model(batch["image"]), batch["target"])
