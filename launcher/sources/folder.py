"""Images in folders of classes, and which of them are for training and which for tests."""

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal, cast

import numpy as np

from launcher.errors import DataError, RecipeError
from launcher.rng import Int64s
from launcher.sources.absent import absent
from launcher.sources.files import Files
from launcher.sources.listing import Listing, Names, entries, printable, scan
from launcher.sources.photo import ImageTransform, Reader

log = logging.getLogger("launcher")
SplitName = Literal["train", "test"]
EXTENSIONS: Final = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Those of torchvision's ImageFolder."""
USUAL_SIZE: Final = 32
"""Height and width of what `sources.load` makes of a folder where the recipe asks for no size: the
one for which the shipped recipes were made."""
_TEST_FOLDERS: Final = ("val", "valid", "test")


def folder(
    root: str | os.PathLike[str], transform: ImageTransform | None = None,
    size: int | None = None, channels: int = 3, split: SplitName | None = None,
    extensions: Collection[str] = EXTENSIONS,
) -> Files:  # fmt: skip
    """Images in folders, one for each class, as torchvision's ImageFolder takes them.

    `root/cat/1.jpg` is of the class `cat`, and so is `root/cat/old/2.jpg`. Classes are the sorted
    names of the folders; samples are in the order of classes, folders and names. Hidden files and
    folders are passed over; other files without one of the `extensions` (small letters, with the
    dot) are left out and named in one line.

    A batch has `label` (int64, N) and `image`. Without a `transform`, `image` is uint8
    (N, channels, size, size): the short side is brought to `size` pixels (bilinear, antialiased)
    and the middle is cut out. A `transform` is any function from a PIL image (RGB, or L with
    `channels=1`) to a PIL image or a tensor (C, H, W), of one shape for all; it may draw from
    torch's, Python's and numpy's global generators, which are seeded for each sample.

    `split`: of each class every fifth file (`index % 5 == 4` in its order) is for `"test"`, the
    others are for `"train"`; None takes all. The fingerprint is of names, sizes in bytes and
    classes: it does not see pixels that change while a file's size stays. Raises RecipeError for
    arguments that do not fit, and DataError for a folder that is missing, empty or holds a class
    without images, and later, with its name, for a file that cannot be read.
    """
    if split not in (None, "train", "test"):
        raise RecipeError(f"split={split!r} must be 'train', 'test' or None.")
    reader = Reader(transform, size, channels)
    if (stand_in := absent(reader)) is not None:
        return cast(Files, stand_in)
    path = os.path.abspath(os.path.expanduser(root))
    listing = scan(path, extensions)
    if listing.strays.count and split != "test":  # the training half has named them
        log.warning(
            "%s holds %d files that are no images, or links to nothing, and are left out: %s",
            printable(path), listing.strays.count, listing.strays,
        )  # fmt: skip
    return _half(path, listing, split, reader)


def _half(root: str, listing: Listing, split: SplitName | None, reader: Reader) -> Files:
    label = listing.label
    if split is None:
        return Files(root, listing.names, label, listing.classes, reader)
    mine = _is_test(listing.counts) == (split == "test")
    if not mine.any():
        raise DataError(
            f"{printable(root)} has fewer than five images in each class, and every fifth of a "
            f"class is for tests. Put more there, or make the folders train/ and val/ yourself."
        )
    names = Names()
    names.extend(listing.names[int(number)] for number in np.flatnonzero(mine))
    return Files(root, names, label[mine], listing.classes, reader)


def _is_test(counts: tuple[int, ...]) -> np.ndarray:
    """Whether each file is a test image: bool, shape (files,). Of each class every fifth is, so
    that what is added to one class moves no image of another."""
    place: Int64s = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    found: np.ndarray = place % 5 == 4
    return found


def parted(
    name: str, split: SplitName, size: int | None, channels: int | None,
    transform: ImageTransform | None = None,
) -> Files:  # fmt: skip
    """The training or the test images of a folder, for `sources.load`.

    They lie in `train/` and in `val/`, `valid/` or `test/` (the first of these that is there)
    below it, each with the same classes, or together in folders of classes. Without a `size` images
    are 32 x 32, without `channels` they have 3. Raises DataError, as `folder` does.
    """
    root = Path(os.path.abspath(os.path.expanduser(name)))
    size = None if transform else USUAL_SIZE if size is None else size
    channels = 3 if channels is None else channels
    if (stand_in := absent(Reader(transform, size, channels))) is not None:
        return cast(Files, stand_in)
    folders, _ = entries(str(root))
    tests = [test for test in _TEST_FOLDERS if test in folders]
    if "train" not in folders or not (tests or entries(str(root / "train"))[0]):
        return folder(root, transform, size, channels, split)
    if not tests:
        raise DataError(
            f"{printable(str(root))} has train/ with folders of classes, but none of val/, valid/ "
            f"and test/ beside it. Make one, with the same classes."
        )
    both = {part: entries(str(root / part))[0] for part in ("train", tests[0])}
    if differ := sorted({*both["train"]} ^ {*both[tests[0]]}):
        raise DataError(
            f"train/ and {tests[0]}/ in {printable(str(root))} must have the same classes; only "
            f"one of them has {', '.join(map(printable, differ[:10]))}."
        )
    return folder(root / ("train" if split == "train" else tests[0]), transform, size, channels)
