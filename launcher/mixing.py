"""Mixing samples of a micro-batch with each other, labels and all.

Each function takes a batch of a training split's transform, `image` (N, C, H, W) and `label`
(int64, N, or already float32, N x classes), and returns one with a soft label (float32, N x
classes) and float32 images in the numbers that they had. The partner of a sample comes from its own
micro-batch and everything is drawn from `SampleRng`, so that the result does not depend on
processes or workers. One line of a recipe's transform:

    return mixing.mixup(batch, rng, classes=10, alpha=0.2)

`losses.cross_entropy` takes soft labels as they are.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from launcher.data import Batch
from launcher.errors import RecipeError
from launcher.rng import Int64s, SampleRng


def mixup(batch: Batch, rng: SampleRng, classes: int, alpha: float = 0.2) -> Batch:
    """Each sample becomes a weighted mean of itself and another one (Zhang, Cisse, Dauphin,
    Lopez-Paz: mixup: Beyond Empirical Risk Minimization, ICLR 2018, section 2, equation 1).

    The weight is drawn from Beta(alpha, alpha), for each sample; `alpha` is above 0. Raises
    RecipeError for a label that does not fit.
    """
    partner, weight = rng.partners(), beta(rng, alpha)
    image = batch["image"].float()
    share = _on(weight.astype(np.float32), image)
    label = _mixed_label(batch, classes, partner, share)
    by = share.view(-1, 1, 1, 1)
    other = image[_on(partner, image)]
    return batch | {"image": image * by + other * (1 - by), "label": label}


def cutmix(batch: Batch, rng: SampleRng, classes: int, alpha: float = 1.0) -> Batch:
    """A rectangle of each sample is taken from another one, and as much of its label as that covers
    (Yun, Han, Oh, Chun, Choe, Yoo: CutMix, ICCV 2019, section 3.1).

    The share that stays is drawn from Beta(alpha, alpha), for each sample; the rectangle has the
    image's proportions, its centre is anywhere, and what lies outside is cut off. Raises
    RecipeError for a label that does not fit.
    """
    partner, weight = rng.partners(), beta(rng, alpha)
    height, width = batch["image"].shape[-2:]
    middle = rng.integers(0, height), rng.integers(0, width)
    inside, share = rectangles(weight, middle, height, width)
    image = batch["image"].float()
    label = _mixed_label(batch, classes, partner, _on(share.astype(np.float32), image))
    other = image[_on(partner, image)]
    return batch | {"image": torch.where(_on(inside, image)[:, None], other, image), "label": label}


def rectangles(
    weight: NDArray[np.float64], middle: tuple[Int64s, Int64s], height: int, width: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which pixels come from the partner, bool (N, height, width), and the share that stays.

    A rectangle has `1 - weight` of the image's area and its middle at (row, column), before it is
    cut at the border.
    """
    edges = []
    for place, side in zip(middle, (height, width), strict=True):
        half = np.floor(0.5 * np.sqrt(1 - weight) * side).astype(np.int64)
        low, high = np.maximum(place - half, 0), np.minimum(place + half, side)
        at = np.arange(side)
        edges.append((at >= low[:, None]) & (at < high[:, None]))
    rows, columns = edges
    covered = rows.sum(1) * columns.sum(1)
    return rows[:, :, None] & columns[:, None, :], 1 - covered / (height * width)


def beta(rng: SampleRng, alpha: float) -> NDArray[np.float64]:
    """A draw from Beta(alpha, alpha) for each sample: float64 in [0, 1], shape (samples,).

    In closed form from two uniform numbers, by way of Student's t (Bailey: Polar Generation of
    Random Variates with the t-Distribution, Mathematics of Computation 1994, algorithm 1; Devroye:
    Random Variate Generation in One Line of Code, 1996, section 5).
    """
    if not alpha > 0:
        raise RecipeError(f"alpha={alpha} of a mix must be above 0; leave the mix out for none.")
    angle = np.cos(2 * np.pi * rng.uniform())
    with np.errstate(divide="ignore", over="ignore"):
        odds = ((1 - rng.uniform()) ** (-1 / alpha) - 1) * angle**2
        away = 0.5 / np.sqrt(1 + 1 / odds)
    found: NDArray[np.float64] = 0.5 + np.copysign(away, angle)
    return found


def soft(label: Tensor, classes: int) -> Tensor:
    """A label as shares of all classes: float32, (N, classes). Raises RecipeError for another
    number of classes than a soft label has."""
    if not label.is_floating_point():
        return F.one_hot(label, classes).float()
    if label.shape[1:] != (classes,):
        raise RecipeError(
            f"a soft label of shape {tuple(label.shape)} has not {classes} classes: give the same "
            f"classes= in every mix."
        )
    return label


def _mixed_label(batch: Batch, classes: int, partner: Int64s, share: Tensor) -> Tensor:
    label = soft(batch["label"], classes)
    by = share.to(label.device).view(-1, 1)
    return label * by + label[_on(partner, label)] * (1 - by)


def _on(draws: np.ndarray, like: Tensor) -> Tensor:
    """Draws, made on the host, on the device of the images."""
    return torch.from_numpy(draws).to(like.device, non_blocking=True)
