"""What losses and metrics need of a batch and of an output, refused in words before a step."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from launcher.data import Batch
from launcher.errors import RecipeError, listed


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
