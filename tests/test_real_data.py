"""The real data sets, pixel by pixel, against torchvision."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from launcher import sources

SplitName = Literal["train", "test"]
SPLITS = pytest.mark.parametrize("split", ["train", "test"])
FOLDER = os.environ.get("LAUNCHER_REAL_DATA", "")

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not FOLDER, reason="LAUNCHER_REAL_DATA names no folder of data sets"),
]


@pytest.fixture(autouse=True)
def real_folder() -> Iterator[None]:
    token = sources.data_dir.set(Path(FOLDER))
    yield
    sources.data_dir.reset(token)


@SPLITS
@pytest.mark.filterwarnings("ignore:.*align.*")  # torchvision unpickles an old numpy dtype
def test_cifar10_is_that_of_torchvision(split: SplitName) -> None:
    from torchvision.datasets import CIFAR10

    ours: Any = sources.load("cifar10", split)
    theirs: Any = CIFAR10(FOLDER, train=split == "train")
    assert len(ours) == {"train": 50_000, "test": 10_000}[split]
    assert np.array_equal(ours.image.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert ours.label.tolist() == theirs.targets
    assert list(ours.classes) == theirs.classes


@SPLITS
@pytest.mark.parametrize(
    ("name", "theirs_name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_mnist_and_fashion_mnist_are_those_of_torchvision(
    name: str, theirs_name: str, split: SplitName
) -> None:
    import torchvision

    ours: Any = sources.load(name, split)
    theirs = getattr(torchvision.datasets, theirs_name)(FOLDER, train=split == "train")
    assert len(ours) == {"train": 60_000, "test": 10_000}[split]
    assert np.array_equal(ours.image[:, 0].numpy(), theirs.data.numpy())
    assert np.array_equal(ours.label.numpy(), theirs.targets.numpy())
    # Torchvision calls MNIST's classes "0 - zero" and so on.
    assert list(ours.classes) == [
        c.split(" - ")[0] if name == "mnist" else c for c in theirs.classes
    ]


@pytest.mark.parametrize("name", ["cifar10", "mnist", "fashion_mnist"])
def test_a_fingerprint_tells_the_splits_apart_and_is_the_same_again(name: str) -> None:
    train, test = (sources.load(name, split).fingerprint for split in ("train", "test"))
    assert train != test
    assert sources.load(name, "test").fingerprint == test


@SPLITS
@pytest.mark.parametrize("name", ["cifar10", "mnist", "fashion_mnist"])
def test_real_images_fit_the_shapes_that_recipes_ask_for(name: str, split: SplitName) -> None:
    assert sources.load(name, split, size=32).shape[1:] == (32, 32)
    assert sources.load(name, split, channels=3).shape[0] == 3
    assert sources.load(name, split, size=28, channels=1).shape == (1, 28, 28)
