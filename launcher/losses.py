"""Losses: a model and a batch → the mean over the micro-batch, a scalar to minimise.

A loss owns the forward pass, so that label smoothing, an auxiliary head or a teacher is another
function and not another setting.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launcher.data import Batch
from launcher.errors import RecipeError
from launcher.matching import entropy, of_one_shape, part

_INSTEAD = "loss=losses.mse or a loss of its own"


def cross_entropy(
    model: nn.Module, batch: Batch, label_smoothing: float = 0.0,
    weight: Tensor | Sequence[float] | None = None,
) -> Tensor:  # fmt: skip
    """Cross entropy of the logits (N, classes) with `batch["label"]` (int64, N; or float32, N x
    classes, as `mixing` makes it).

    `label_smoothing` in [0, 1] is the share that is spread evenly over all classes (Szegedy et al.:
    Rethinking the Inception Architecture, CVPR 2016, section 7). As a recipe's loss:
    `partial(losses.cross_entropy, label_smoothing=0.1)`.

    `weight`: what each class counts, a finite number from 0 for each; leave it as it is while a run
    goes on. The loss is the mean over the samples of weight[label] times their cross entropy (of a
    soft or smoothed label each class's share counts by its own weight). torch's `weight=` divides
    by the weights of the samples that are together in a micro-batch instead: there a sample counts
    by its company, and the gradient depends on micro_batch_size and on the number of processes. For
    a loss of the usual size give weights whose mean over the training samples is 1.
    """
    label = part(batch, "label", "losses.cross_entropy (the default loss)", _INSTEAD)
    logits = model(batch["image"])
    if weight is None:
        return entropy(logits, label, label_smoothing=label_smoothing)
    known = weight if isinstance(weight, Tensor) else tuple(weight)
    by = _weights(known, logits.device)
    return entropy(logits.float(), label, by, label_smoothing, "none").mean()


def mse(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the output with `batch["target"]` (float32, of the same shape)."""
    target = part(batch, "target", "losses.mse", "another loss")
    output = model(batch["image"])
    of_one_shape(output, target, "losses.mse")
    return F.mse_loss(output, target)


@lru_cache(maxsize=8)
def _weights(weight: Tensor | tuple[float, ...], device: torch.device) -> Tensor:
    """Once for each device: a copy to a GPU in every step would wait, and no graph may hold it."""
    found = torch.as_tensor(weight, dtype=torch.float32, device=device)
    if wrong := torch.nonzero(~((found >= 0) & found.isfinite())).flatten().tolist():
        raise RecipeError(
            f"the weight of class {wrong[0]} is {found[wrong[0]].item():g} in losses.cross_entropy:"
            f" weights are finite numbers from 0. A class without a sample gives 1 / 0."
        )
    return found
