"""The data sets that are files: their names, sizes, checksums, and where they come from.

Known without torch, for `launcher data` and for the sources alike.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Remote:
    """A file to download: where it is, and its checksum."""

    dataset: str
    urls: tuple[str, ...]
    md5: str
    path: str = ""
    """Where it lies under `data_dir`, and under a mirror."""
    size: int | None = None
    """Its bytes, where known."""
    sha256: str = ""
    """How its sha256 begins, where that is what was published, and not an md5."""
    setting: str = "dataset"
    """What asked for it."""
    instead: str = "train on dataset=digits, which needs no download"
    """What a user without a network may do."""


@dataclass(frozen=True)
class Packed:
    """A compressed file, as its authors and torchvision publish it."""

    name: str
    md5: str
    size: int


@dataclass(frozen=True)
class Piece:
    """A file as it is read; it may lie there compressed, where it has a `packed` of its own."""

    name: str
    md5: str | None
    size: int
    packed: Packed | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set of files, in torchvision's layout."""

    name: str
    folder: str
    """Under `data_dir`."""
    pieces: tuple[Piece, ...]
    mirrors: tuple[str, ...]
    """URLs under which the compressed files lie by their names."""
    archive: Packed | None = None
    """All pieces in one, beside the folder."""
    elsewhere: tuple[Path, ...] = ()
    """Folders of the system that may have the pieces too."""

    def remote(self, packed: Packed) -> Remote:
        """A compressed file with everything that is needed to download it."""
        urls = tuple(mirror + packed.name for mirror in self.mirrors)
        path = packed.name if packed is self.archive else f"{self.folder}/{packed.name}"
        return Remote(self.name, urls, packed.md5, path, packed.size)


def _idx(name: str, md5: str, packed_size: int, packed_md5: str) -> Piece:
    count = 60_000 if name.startswith("train") else 10_000
    size = 16 + count * 28 * 28 if "images" in name else 8 + count
    return Piece(name, md5, size, Packed(f"{name}.gz", packed_md5, packed_size))


MNIST = DataSet(
    name="mnist",
    folder="MNIST/raw",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    pieces=(
        _idx("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb",
             9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _idx("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624",
             28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        _idx("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea",
             1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        _idx("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637",
             4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
)  # fmt: skip
FASHION_MNIST = DataSet(
    name="fashion_mnist",
    folder="FashionMNIST/raw",
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    pieces=(
        _idx("train-images-idx3-ubyte", "f4a8712d7a061bf5bd6d2ca38dc4d50a",
             26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        _idx("train-labels-idx1-ubyte", "9018921c3c673c538a1fc5bad174d6f9",
             29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        _idx("t10k-images-idx3-ubyte", "8181f5470baa50b63fa0f6fddb340f0a",
             4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        _idx("t10k-labels-idx1-ubyte", "15d484375f8d13e6eb1aabb0c3f46965",
             5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's dataset-fashion-mnist
)  # fmt: skip
CIFAR10 = DataSet(
    name="cifar10",
    folder="cifar-10-batches-py",
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    pieces=(
        Piece("data_batch_1", "c99cafc152244af753f735de768cd75f", 31_035_704),
        Piece("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec", 31_035_320),
        Piece("data_batch_3", "54ebc095f3ab1f0389bbae665268c751", 31_035_999),
        Piece("data_batch_4", "634d18415352ddfa80567beed471001a", 31_035_696),
        Piece("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb", 31_035_623),
        Piece("test_batch", "40351d587109b95175f43aff81a1287e", 31_035_526),
    ),
    archive=Packed("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071),
)
SETS = {found.name: found for found in (MNIST, FASHION_MNIST, CIFAR10)}
BUILT_IN = ("digits", "synthetic")
NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "synthetic")
