"""What losses and metrics need of a batch and of an output, refused in words."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn import functional as F

from launcher.data import Batch, Data
from launcher.errors import DataError, RecipeError, listed
from launcher.rng import Int64s

_IGNORED = -100
"""A label that torch's cross entropy leaves out."""


def check_batch(data: Data, part: str, batch: Batch) -> None:
    """Raises DataError for numbers that are not finite and labels without a class."""
    for name, value in batch.items():
        if value.is_floating_point():
            bad = ~value.isfinite().reshape(len(value), -1).all(1)
        elif name == "label" and data.classes:
            bad = (value < 0) | (value >= len(data.classes))
        else:
            continue
        for sample in bad.nonzero().flatten().tolist():
            what = "is not finite when it reaches the model: look at it, its transform and prepare"
            if name == "label":
                what = f"has label {value[sample]}, but there are {len(data.classes)} classes"
            raise DataError(f"sample {sample} of the {part} split {what}.")


class NoOutput(DataError):  # noqa: N818
    """A label for which the model has no output."""

    def __init__(self, label: int, outputs: int, place: int) -> None:
        """`place` is that of the sample in its micro-batch."""
        self.place = place
        self.what = (
            f"has label {label}, but the model gives {outputs} outputs, for labels from 0 to "
            f"{outputs - 1}"
        )
        super().__init__(f"sample {place} of a micro-batch {self.what}.")

    def of(self, split: str, samples: Int64s) -> DataError:
        """The same of a sample by its number; `samples` are those of the micro-batch."""
        return DataError(f"sample {samples[self.place]} of the {split} split {self.what}.")


@contextmanager
def numbered(split: str, samples: Int64s) -> Iterator[None]:
    """Name a sample whose label has no output by its number in the split."""
    try:
        yield
    except NoOutput as error:
        raise error.of(split, samples) from None


def entropy(
    logits: Tensor, label: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """torch's cross entropy. Raises NoOutput where a CPU would name no sample; a GPU finds out
    when it is too late to ask."""
    try:
        return F.cross_entropy(
            logits, label, weight, label_smoothing=label_smoothing, reduction=reduction
        )
    except IndexError:
        if logits.ndim != 2 or label.ndim != 1:
            raise
        outputs = logits.shape[1]
        wrong = (((label < 0) & (label != _IGNORED)) | (label >= outputs)).nonzero().flatten()
        if not len(wrong):
            raise
        place = int(wrong[0])
        raise NoOutput(int(label[place]), outputs, place) from None


def of_one_shape(output: Tensor, target: Tensor, who: str) -> None:
    """Raises RecipeError for shapes that torch would broadcast: (N, 1) and (N,) to (N, N), of which
    every number is wrong and none looks so."""
    if output.shape != target.shape:
        raise RecipeError(
            f"{who} compares an output of shape {tuple(output.shape)} with a target of shape "
            f"{tuple(target.shape)}: give both one shape, by output.squeeze(1) in the model or "
            f"target[:, None] in the data."
        )


def part(batch: Batch, name: str, who: str, instead: str) -> Tensor:
    """A part of a batch by its name. Raises RecipeError for one that the data has not."""
    found = batch.get(name)
    if found is None:
        raise RecipeError(
            f"{who} needs `{name}`, and a batch of this data has {listed(batch)}: give the recipe "
            f"{instead}."
        )
    return found


@contextmanager
def no_broadcasting() -> Iterator[None]:
    """torch's own losses only warn of such shapes: here that is an error, in a recipe's own loss
    and metrics."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size")
        yield
