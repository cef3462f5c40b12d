"""Data sets as sources, by name.

    sources.load("cifar10", "train")                    3 x 32 x 32
    sources.load("mnist", "test", size=32, channels=3)  padded from 28, repeated over channels

`digits` and `synthetic` need no file; `mnist`, `fashion_mnist` and `cifar10` lie in the folder of
the run setting `data_dir`, in torchvision's layout, and are downloaded once when not there, from
`mirror` first if one is set.
"""

from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from launcher.catalog import NAMES as NAMES
from launcher.download import mirror as mirror
from launcher.errors import SettingsError, did_you_mean
from launcher.sources.arrays import Arrays as Arrays
from launcher.sources.cifar10 import cifar10
from launcher.sources.digits import digits
from launcher.sources.mnist import fashion_mnist, mnist
from launcher.sources.synthetic import synthetic as synthetic

SplitName = Literal["train", "test"]

# A recipe's `data` takes hyperparameters only, and where files lie is not one: the launcher sets
# the folder before it calls a recipe.
folder: ContextVar[Path] = ContextVar("folder", default=Path("data"))

NAMED: dict[str, Callable[[SplitName, Path], Arrays]] = {
    "digits": lambda split, root: digits(split),
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "synthetic": lambda split, root: synthetic(split),
}


def load(
    name: str, split: SplitName, size: int | None = None, channels: int | None = None
) -> Arrays:
    """A data set by name, with every image brought to one shape.

    `size`: height and width; an image is enlarged by whole pixels if that fits (8 to 32), padded
    with zeros if it is smaller (28 to 32), else resized. `channels`: 1 or 3. Without them images
    keep their own. Raises SettingsError for an unknown name and DataError for missing or damaged
    files.
    """
    if name not in NAMED:
        raise SettingsError(
            f"dataset={name!r} is none of {', '.join(NAMED)}.{did_you_mean(name, NAMED)}"
        )
    return NAMED[name](split, folder.get()).fit(size, channels)
