"""Metrics: a model and a batch → one number per sample, by name; evaluation averages them."""

from torch import Tensor, nn
from torch.nn import functional as F

from launcher.data import Batch


def classification(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`loss` (cross entropy, no smoothing) and `accuracy` (0 or 1): float32, shape (N,)."""
    logits = model(batch["image"]).float()
    label = batch["label"]
    return {
        "loss": F.cross_entropy(logits, label, reduction="none"),
        "accuracy": (logits.argmax(1) == label).float(),
    }


def regression(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`loss`: the squared error, averaged over a sample's outputs; float32, shape (N,)."""
    output, target = model(batch["image"]).float(), batch["target"]
    return {"loss": F.mse_loss(output, target, reduction="none").reshape(len(output), -1).mean(1)}
