"""From the verdicts of an evaluation to its outcome: confusion matrix, mistakes, pictures.

The verdicts are there already; what is made here is read from the source for at most 48 samples.
"""

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from launcher import outcome, png, recipe
from launcher.build import Parts
from launcher.data import Data, Task, gathered
from launcher.evaluate import labels
from launcher.rng import EVALUATE
from launcher.train import evaluate
from launcher.verdicts import Verdicts

MOST_CLASSES: Final = 100
"""In a confusion matrix."""
SHOWN: Final = 24
"""Mistakes, and samples, of which a record is kept."""
SIDE: Final = 96
"""Pixels on the longer side of a picture, at most."""


def evaluated(parts: Parts, step: int) -> dict[str, Any]:
    """The outcome of the model as it is, from one evaluation. A collective; the same everywhere."""
    verdicts = Verdicts(len(parts.data.classes))
    evaluate(parts, verdicts, step)
    return judged(parts, verdicts)


def judged(parts: Parts, verdicts: Verdicts) -> dict[str, Any]:
    """The outcome of the evaluation that left these verdicts. Raises RecipeError and DataError for
    samples that cannot be read."""
    with recipe.blamed(parts.loaded.path, "reading samples for the outcome"):
        return of(parts.data, verdicts, parts.hparams.seed)


def of(data: Data, verdicts: Verdicts, seed: int) -> dict[str, Any]:
    """The outcome, as `launcher.outcome` describes it; `seed` is that of the evaluation."""
    found: dict[str, Any] = {
        "format": outcome.FORMAT,
        "step": verdicts.step,
        "classes": list(data.classes),
        "scores": dict(verdicts.scores),
        "confusion": None,
        "mistakes": [],
        "samples": [],
    }
    predicted, probability = verdicts.predicted, verdicts.probability
    if predicted is None or probability is None:
        return found
    label = labels(data)
    if len(data.classes) <= MOST_CLASSES:
        found["confusion"] = confusion(label, predicted, len(data.classes))
    wrong = (predicted != label).nonzero()[:, 0]
    surest = probability[wrong].nan_to_num(-1).argsort(descending=True, stable=True)
    chosen = {"mistakes": wrong[surest[:SHOWN]].tolist(), "samples": spread(len(label))}
    for name, indices in chosen.items():
        pictures = _pictures(data, indices, seed)
        found[name] = [
            {
                "index": index,
                "label": int(label[index]),
                "predicted": int(predicted[index]),
                "probability": _finite(float(probability[index])),
                "picture": picture,
            }
            for index, picture in zip(indices, pictures, strict=True)
        ]
    return found


def confusion(label: Tensor, predicted: Tensor, classes: int) -> list[list[int]]:
    """How often samples of each class (rows) were taken for each class (columns)."""
    counts = torch.bincount(label * classes + predicted, minlength=classes * classes)
    rows: list[list[int]] = counts.view(classes, classes).tolist()
    return rows


def spread(samples: int) -> list[int]:
    """At most `SHOWN` sample numbers, spread evenly."""
    count = min(SHOWN, samples)
    return [number * samples // count for number in range(count)]


def picture(image: Tensor) -> str | None:
    """A sample, (C, H, W), as a data URL; None for what is no picture.

    Bytes are shown as they are. Other numbers are stretched from their smallest to their largest
    value, since nobody says what is black and what is white.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
        return None
    pixels = image.detach().cpu().float()
    if image.dtype != torch.uint8:
        low, high = pixels.min(), pixels.max()
        if not bool((high - low).isfinite()):
            return None
        pixels = (pixels - low) * (255 / (high - low).clamp(min=1e-12))
    longer = max(pixels.shape[-2:])
    if longer > SIDE:
        size = [max(1, side * SIDE // longer) for side in pixels.shape[-2:]]
        pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    channels, height, width = pixels.shape
    data = pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy().tobytes()
    return png.data_url(data, width, height, channels)


def _pictures(data: Data, indices: list[int], seed: int) -> list[str | None]:
    """Of test samples as their source has them, with the draws of an evaluation."""
    if not indices:
        return []
    task = Task(np.array(indices, dtype=np.int64), (EVALUATE,))
    (batch,) = gathered(data.test.source, [task], seed)
    image = batch.get("image")
    return [None] * len(indices) if image is None else [picture(one) for one in image]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
