"""Where samples come from.

    sources.load("cifar10", "train")                    3 x 32 x 32
    sources.load("mnist", "test", size=32, channels=3)  padded from 28, repeated over channels
    sources.load("photos", "train", size=64)            a folder of images
    sources.folder("photos", transform)                 the same, as the recipe wants it
    sources.csv("labels.csv", size=64)                  a table of paths and labels
    sources.tensors(image=image, label=label)           in memory
    sources.from_dataset(dataset)                       any map-style Dataset of torch

`digits` and `synthetic` need no file; `mnist`, `fashion_mnist` and `cifar10` lie in the folder of
the run setting `data_dir`, in torchvision's layout, and are downloaded once when not there, from
`mirror` first if one is set.
"""

import os
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from launcher.catalog import NAMES as NAMES
from launcher.data import Source
from launcher.download import mirror as mirror
from launcher.errors import RecipeError, SettingsError, did_you_mean
from launcher.sources.absent import absent, known
from launcher.sources.arrays import Arrays as Arrays
from launcher.sources.cifar10 import cifar10
from launcher.sources.dataset import from_dataset as from_dataset
from launcher.sources.digits import digits
from launcher.sources.folder import folder as folder
from launcher.sources.folder import parted
from launcher.sources.mnist import fashion_mnist, mnist
from launcher.sources.photo import ImageTransform
from launcher.sources.synthetic import synthetic as synthetic
from launcher.sources.table import csv as csv
from launcher.sources.tensors import tensors as tensors

SplitName = Literal["train", "test"]

# A recipe's `data` takes hyperparameters only, and where files lie is not one: the launcher sets
# the folder before it calls a recipe.
data_dir: ContextVar[Path] = ContextVar("data_dir", default=Path("data"))

NAMED: dict[str, Callable[[SplitName, Path], Arrays]] = {
    "digits": lambda split, root: digits(split),
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "synthetic": lambda split, root: synthetic(split),
}


def load(
    name: str, split: SplitName, size: int | None = None, channels: int | None = None,
    transform: ImageTransform | None = None,
) -> Source:  # fmt: skip
    """A data set by name, or a folder of images by its path, with every image in one shape.

    `size`: height and width; an image of a named set is enlarged by whole pixels if that fits (8 to
    32), padded with zeros if it is smaller (28 to 32), else resized. `channels`: 1 or 3. Without
    them images keep their own.

    A path is relative to the current folder. Below it lie `train/` and `val/`, `valid/` or `test/`
    with folders of classes, or folders of classes alone: then every fifth image of each is for
    tests. See `folder`; `size` is 32 and `channels` 3 unless given. A `transform` takes the place
    of `size` there, in the loader processes; of the named sets, which are in memory, none has one.

    Raises SettingsError for an unknown name and DataError for missing or damaged files.
    """
    if name in NAMED:
        if transform is not None:
            raise RecipeError(f"{name} is in memory: give its Split a transform for whole batches.")
        if (stand_in := absent(None)) is not None:
            return stand_in
        return NAMED[name](split, data_dir.get()).fit(size, channels)
    path = os.path.expanduser(name)
    if os.path.isdir(path) or (known.get() is not None and os.sep in name):
        return parted(path, split, size, channels, transform)
    if os.sep in name:
        what = "is no folder, but a file" if os.path.exists(path) else "is not there"
        raise SettingsError(
            f"dataset={name} {what}: give a folder of folders of images, from {Path.cwd()}, or "
            f"one of {', '.join(NAMED)}."
        )
    raise SettingsError(
        f"dataset={name!r} is none of {', '.join(NAMED)}, and no folder in {Path.cwd()}."
        f"{did_you_mean(name, NAMED)}"
    )
