"""Data sets as sources: the right pixels, one shape, and refusals that name what is wrong."""

import gzip
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from launcher import sources
from launcher.errors import DataError, SettingsError
from launcher.sources import Arrays, synthetic
from launcher.sources.cifar10 import parse
from launcher.sources.digits import digits

ROOT = Path(__file__).resolve().parent.parent
# The package has functions of the same names as these modules.
CIFAR: Any = import_module("launcher.sources.cifar10")
MNIST: Any = import_module("launcher.sources.mnist")
Pixels = NDArray[np.uint8]
SplitName = Literal["train", "test"]


def random_images(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def loaded(
    name: str, split: SplitName, size: int | None = None, channels: int | None = None
) -> Arrays:
    source = sources.load(name, split, size, channels)
    assert isinstance(source, Arrays)
    return source


def arrays(*shape: int, classes: int = 3) -> Arrays:
    names = tuple(str(number) for number in range(classes))
    return Arrays.of(random_images(*shape), np.arange(shape[0]) % classes, names)


# ── arrays ────────────────────────────────────────────────────────────────────────────────────


def test_a_source_gives_the_samples_that_were_asked_for_in_that_order() -> None:
    source = arrays(9, 3, 4, 5)
    index = np.array([7, 0, 7, 3], dtype=np.int64)
    batch = source[index]
    assert set(batch) == {"image", "label"}
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(batch["image"].numpy(), random_images(9, 3, 4, 5)[index])
    assert batch["label"].tolist() == [1, 0, 1, 0]
    assert (len(source), source.shape) == (9, (3, 4, 5))


def test_a_batch_is_a_copy() -> None:
    source = arrays(3, 1, 2, 2)
    source[np.array([0], dtype=np.int64)]["image"].zero_()
    assert np.array_equal(source.image.numpy(), random_images(3, 1, 2, 2))


def test_images_without_a_channel_get_one() -> None:
    assert arrays(4, 6, 6).shape == (1, 6, 6)


def test_an_index_beyond_the_last_sample_is_an_error() -> None:
    with pytest.raises(IndexError):
        arrays(4, 1, 2, 2)[np.array([4], dtype=np.int64)]


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_refused_with_its_sample(label: int) -> None:
    labels = np.array([0, 1, 2, 0, label, label])
    with pytest.raises(DataError, match=rf"sample 4 has label {label}.*3 classes, 0 to 2 \(2 sam"):
        Arrays.of(random_images(6, 1, 2, 2), labels, ("a", "b", "c"))


def test_images_and_labels_of_different_number_are_refused() -> None:
    with pytest.raises(DataError, match="6 images have 5 labels"):
        Arrays.of(random_images(6, 1, 2, 2), np.zeros(5, np.int64), ("a",))


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(4, 1, 2, 2),
        torch.zeros(4, 2, 2, dtype=torch.uint8),
        torch.zeros(0, 1, 2, 2, dtype=torch.uint8),
    ],
    ids=["float", "no channel", "empty"],
)
def test_what_is_no_batch_of_uint8_images_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"images must be uint8 of shape \(N, C, H, W\)"):
        Arrays(image, torch.zeros(len(image), dtype=torch.int64), ("a",))


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match=r"at least one.*shape \(0, 1, 2, 2\)"):
        Arrays.of(random_images(0, 2, 2), np.zeros(0, np.int64), ("a",))


def test_float_pixels_are_refused_and_not_cut_to_zero() -> None:
    """Pixels in [0, 1] as uint8 would be black images, in silence."""
    image: Any = np.full((4, 1, 2, 2), 0.9, np.float32)
    with pytest.raises(DataError, match="images must be uint8"):
        Arrays.of(image, np.zeros(4, np.int64), ("a",))


def test_wider_integers_are_refused_and_not_wrapped() -> None:
    image: Any = np.full((4, 1, 2, 2), 256, np.int64)
    with pytest.raises(DataError, match="images must be uint8"):
        Arrays.of(image, np.zeros(4, np.int64), ("a",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_labels_of_another_type_are_refused(dtype: torch.dtype) -> None:
    """`cross_entropy` takes float labels for something else, and int32 ones not at all."""
    image = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(DataError, match="int64"):
        Arrays(image, torch.zeros(4, dtype=dtype), ("a",))


def test_a_fingerprint_is_of_the_content() -> None:
    image, label, names = random_images(5, 1, 3, 3), np.array([0, 1, 0, 1, 0]), ("a", "b")
    first = Arrays.of(image, label, names).fingerprint
    assert Arrays.of(image.copy(), label.copy(), names).fingerprint == first
    assert set(first) <= set("0123456789abcdef")
    brighter, relabelled = image.copy(), label.copy()
    brighter[4, 0, 2, 2] ^= 1
    relabelled[4] = 1
    others = [
        Arrays.of(brighter, label, names),
        Arrays.of(image, relabelled, names),
        Arrays.of(image, label, ("a", "c")),
        Arrays.of(image.reshape(5, 1, 1, 9), label, names),
        Arrays.of(image[:4], label[:4], names),
    ]
    assert len({first, *(source.fingerprint for source in others)}) == 6


def test_a_fingerprint_that_is_known_changes_with_the_shape() -> None:
    """So that a run does not continue with images of another size."""
    source = Arrays.of(random_images(4, 8, 8), np.zeros(4, np.int64), ("a",), fingerprint="abc")
    assert source.fit(None, None).fingerprint == source.fit(8, 1).fingerprint == "abc"
    fitted = {source.fit(size, channels).fingerprint for size in (16, 32) for channels in (1, 3)}
    assert len(fitted | {"abc"}) == 5


def test_a_source_says_how_many_bytes_it_takes() -> None:
    assert arrays(5, 3, 4, 4).nbytes == 5 * 3 * 4 * 4 + 5 * 8


def test_a_source_on_its_own_device_is_itself() -> None:
    source = arrays(5, 3, 4, 4)
    assert source.to(torch.device("cpu")) is source


# ── one shape ─────────────────────────────────────────────────────────────────────────────────


def test_images_of_8_pixels_are_enlarged_to_32_by_whole_pixels() -> None:
    source = arrays(4, 1, 8, 8)
    found = source.fit(32, None).image
    assert found.shape == (4, 1, 32, 32)
    for row in range(4):
        for column in range(4):
            assert torch.equal(found[:, :, row::4, column::4], source.image)


def test_images_of_28_pixels_are_padded_to_32_with_zeros() -> None:
    source = arrays(4, 1, 28, 28)
    found = source.fit(32, None).image
    assert found.shape == (4, 1, 32, 32)
    assert torch.equal(found[:, :, 2:30, 2:30], source.image)
    assert int(found.sum()) == int(source.image.sum())


def test_images_of_odd_height_and_width_are_padded_around_the_middle() -> None:
    source = arrays(4, 1, 5, 6)
    found = source.fit(8, None).image
    assert torch.equal(found[:, :, 1:6, 1:7], source.image)
    assert int(found.sum()) == int(source.image.sum())


def test_images_of_32_pixels_are_resized_to_28() -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, (1100, 3, 32, 32))
    found = Arrays.of(ramp, np.zeros(1100, np.int64), ("a",)).fit(28, None)
    assert (found.image.shape, found.image.dtype) == ((1100, 3, 28, 28), torch.uint8)
    assert torch.equal(found.image, found.image[:1, :1, :1].expand_as(found.image))
    line = found.image[0, 0, 0].double()
    expected = ((torch.arange(28) + 0.5) * 32 / 28 - 0.5) * 8
    assert (line - expected)[1:-1].abs().max() < 2


def test_a_bright_image_stays_bright_when_it_is_resized() -> None:
    """255 must neither overflow nor fade."""
    image = np.full((2, 1, 40, 40), 255, np.uint8)
    found = Arrays.of(image, np.zeros(2, np.int64), ("a",)).fit(28, None).image
    assert set(found.flatten().tolist()) == {255}


def test_one_channel_is_repeated_to_three() -> None:
    source = arrays(4, 1, 5, 5)
    found = source.fit(None, 3)
    assert found.shape == (3, 5, 5)
    assert torch.equal(found.image, source.image.expand(4, 3, 5, 5))


def test_three_channels_become_their_luma() -> None:
    source = arrays(1100, 3, 5, 5)
    found = source.fit(None, 1)
    assert found.shape == (1, 5, 5)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    expected = (source.image * weights).sum(1, keepdim=True)
    assert (found.image - expected).abs().max() <= 0.5 + 1e-4
    white = Arrays.of(np.full((1, 3, 1, 1), 255, np.uint8), np.zeros(1, np.int64), ("a",))
    assert white.fit(None, 1).image.item() == 255


def test_grey_images_stay_the_same_through_three_channels_and_back() -> None:
    source = arrays(4, 1, 5, 5)
    assert torch.equal(source.fit(None, 3).fit(None, 1).image, source.image)


@pytest.mark.parametrize(("have", "want"), [(3, 2), (2, 3), (2, 1)])
def test_other_numbers_of_channels_are_refused(have: int, want: int) -> None:
    with pytest.raises(DataError, match=f"{have} channels cannot be given {want}: use 1 or 3"):
        arrays(4, have, 5, 5).fit(None, want)


@pytest.mark.parametrize(("size", "channels"), [(None, None), (5, 3), (5, None), (None, 3)])
def test_images_that_fit_already_are_the_same_source(
    size: int | None, channels: int | None
) -> None:
    source = arrays(4, 3, 5, 5)
    assert source.fit(size, channels) is source


def test_labels_and_classes_stay_with_their_images() -> None:
    source = arrays(7, 1, 8, 8)
    fitted = source.fit(16, 3)
    assert fitted.classes == source.classes
    assert torch.equal(fitted.label, source.label)


# ── by name ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["digits", "synthetic"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("size", "channels"), [(None, None), (32, None), (None, 3), (32, 1)])
def test_what_the_recipes_load_has_the_shape_they_asked_for(
    name: str, split: SplitName, size: int | None, channels: int | None
) -> None:
    source = loaded(name, split, size, channels)
    own = {"digits": (1, 8, 8), "synthetic": (3, 32, 32)}[name]
    assert source.shape == (channels or own[0], size or own[1], size or own[2])
    assert source.classes == tuple("0123456789")
    assert source.image.float().std() > 20, "nothing to see"


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_training_and_test_images_are_different_ones(name: str) -> None:
    def seen(split: SplitName) -> set[bytes]:
        return {image.numpy().tobytes() for image in loaded(name, split).image}

    assert not seen("train") & seen("test")
    assert sources.load(name, "train").fingerprint != sources.load(name, "test").fingerprint


def test_an_unknown_data_set_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError) as refusal:
        sources.load("fashon_mnist", "train")
    assert "dataset='fashon_mnist'" in str(refusal.value)
    assert "digits, mnist, fashion_mnist, cifar10, synthetic" in str(refusal.value)
    assert "Did you mean 'fashion_mnist'?" in str(refusal.value)


# ── digits ────────────────────────────────────────────────────────────────────────────────────


def test_digits_are_those_of_scikit_learn_and_every_fifth_is_a_test_image() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    place = np.arange(1797)
    for split, mine, count in (("train", place % 5 != 4, 1438), ("test", place % 5 == 4, 359)):
        source = digits(split)  # type: ignore[arg-type]
        assert len(source) == count
        assert source.image.max() == 255
        expected = theirs.images[mine] * 255 / 16
        assert np.abs(source.image[:, 0].numpy() - expected).max() <= 0.5
        assert np.array_equal(source.label.numpy(), theirs.target[mine])


def test_reading_digits_imports_neither_scikit_learn_nor_scipy_nor_torchvision() -> None:
    code = (
        "import sys; from launcher import sources; assert len(sources.load('digits', 'test')); "
        "print({'sklearn', 'scipy', 'pandas', 'torchvision'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "set()"


def test_digits_without_scikit_learn_are_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        digits("train")


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"1,2,3\n"), gzip.compress(b"x")],
    ids=["no gzip", "too short", "no numbers"],
)
def test_a_damaged_file_of_digits_is_refused_with_its_path(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sklearn" / "datasets" / "data" / "digits.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (tmp_path / "sklearn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DataError, match=r"cannot read .*digits\.csv\.gz: .*Reinstall"):
        digits("train")


# ── synthetic ─────────────────────────────────────────────────────────────────────────────────


def test_synthetic_images_are_the_same_for_ever() -> None:
    """Golden values: a change here changes what every earlier run on `synthetic` was."""
    small = synthetic("test", samples=50, shape=(1, 8, 8))
    assert small.fingerprint == "dfb94ab48832eb506e1ed77353c0894f24defdba6d94dcae7691fd2f9bb4c96d"
    default = synthetic("train").fingerprint
    assert default == "22e97a4f15484ea37c0c40c6b105b1f4aca97a5783d45e53a1378f064a257a40"


def test_another_seed_gives_other_synthetic_images() -> None:
    prints = [synthetic("test", 50, (1, 8, 8), seed=seed).fingerprint for seed in (0, 1, 0)]
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize(
    ("samples", "shape", "classes"),
    [(1, (1, 1, 1), 2), (7, (2, 5, 3), 3), (101, (3, 9, 17), 100), (33, (1, 28, 28), 1)],
)
def test_synthetic_images_have_any_shape_and_number(
    samples: int, shape: tuple[int, int, int], classes: int
) -> None:
    source = synthetic("train", samples, shape, classes)
    assert (len(source), source.shape, len(source.classes)) == (samples, shape, classes)


def test_more_synthetic_samples_begin_with_the_fewer() -> None:
    few, many = synthetic("train", 20, (1, 4, 4)), synthetic("train", 30, (1, 4, 4))
    assert torch.equal(many.image[:20], few.image)
    assert torch.equal(many.label[:20], few.label)


def test_without_a_number_there_are_ten_thousand_and_two_thousand_synthetic_samples() -> None:
    assert (len(synthetic("train")), len(synthetic("test"))) == (10_000, 2_000)
    assert synthetic("test").shape == (3, 32, 32)


def accuracy(train: Arrays, test: Arrays) -> float:
    """Of a linear model, fitted by least squares."""

    def inputs(source: Arrays) -> torch.Tensor:
        return torch.nn.functional.pad(source.image.flatten(1).double() / 255, (0, 1), value=1.0)

    target = torch.nn.functional.one_hot(train.label).double()
    x = inputs(train)
    weights = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]).double(), x.T @ target)
    return float(((inputs(test) @ weights).argmax(1) == test.label).double().mean())


def test_a_linear_model_learns_synthetic_images() -> None:
    train, test = (synthetic(split, 1500, (1, 8, 8)) for split in ("train", "test"))
    assert accuracy(train, test) > 0.6
    shuffled = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    unlearnable = Arrays(train.image, train.label[shuffled], train.classes)
    assert accuracy(unlearnable, test) < 0.2


# ── mnist and fashion_mnist ───────────────────────────────────────────────────────────────────


def idx(values: Pixels) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


IMAGES = random_images(30, 28, 28)
LABELS = (np.arange(30) % 10).astype(np.uint8)
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fashion-MNIST with 30 training and 20 test samples; its raw folder."""
    counts = {
        "train": (TRAIN_IMAGES, TRAIN_LABELS, 30),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 20),
    }
    monkeypatch.setattr(MNIST, "_NAMES", counts)
    pieces = tuple(replace(piece, md5=None) for piece in MNIST._FASHION.pieces)
    monkeypatch.setattr(MNIST, "_FASHION", replace(MNIST._FASHION, pieces=pieces))
    monkeypatch.setattr(MNIST, "fetch", no_download)
    folder = tmp_path / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for images, labels, count in counts.values():
        (folder / images).write_bytes(idx(IMAGES[:count]))
        (folder / labels).write_bytes(idx(LABELS[:count]))
    return folder


def no_download(remote: Any, target: Path) -> Path:
    raise AssertionError(f"{target} would be downloaded")


def shown(path: Path) -> str:
    """As a refusal shows it: the folder of the data sets is `data`, here."""
    return str(path.relative_to(Path.cwd()))


def fashion(split: SplitName = "train") -> Arrays:
    return loaded("fashion_mnist", split)


def compress(raw: Path) -> None:
    for path in list(raw.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("split", "count"), [("train", 30), ("test", 20)])
def test_idx_files_are_read_plain_and_compressed(
    raw: Path, split: SplitName, count: int, compressed: bool
) -> None:
    if compressed:
        compress(raw)
    source = fashion(split)
    assert source.shape == (1, 28, 28)
    assert np.array_equal(source.image[:, 0].numpy(), IMAGES[:count])
    assert source.label.tolist() == LABELS[:count].tolist()
    assert source.classes is not None
    assert source.classes[9] == "Ankle boot"


def test_files_are_found_where_the_package_of_debian_puts_them(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(raw)
    elsewhere = tmp_path / "usr"
    raw.rename(elsewhere)
    monkeypatch.setattr(MNIST, "_FASHION", replace(MNIST._FASHION, elsewhere=(elsewhere,)))
    assert len(fashion()) == 30


def test_the_folder_of_the_data_sets_is_the_run_setting(raw: Path, tmp_path: Path) -> None:
    raw.parent.parent.rename(tmp_path / "mine")
    token = sources.data_dir.set(tmp_path / "mine")
    try:
        assert len(fashion()) == 30
    finally:
        sources.data_dir.reset(token)
    with pytest.raises(AssertionError, match="would be downloaded"):
        fashion()


def test_the_pixels_of_idx_files_can_be_written_to(raw: Path) -> None:
    """They come from bytes, which numpy will not let change; torch would warn."""
    source = fashion()
    source.image[0, 0, 0, 0] += 1
    source.label[0] = 1


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda raw: raw[:-1],
    "longer": lambda raw: raw + b"\0",
    "empty": lambda raw: b"",
    "wrong type": lambda raw: b"\0\0\x09" + raw[3:],
    "wrong count": lambda raw: raw[:7] + b"\x1f" + raw[8:],
    "a web page": lambda raw: b"<html>not found</html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_idx_file_is_refused_with_its_path(
    raw: Path, damage: str, name: str, compressed: bool
) -> None:
    path = raw / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if compressed:
        compress(raw)
        path = raw / f"{name}.gz"
    with pytest.raises(DataError) as refusal:
        fashion()
    assert f"{shown(path)} is damaged: fashion_mnist's {name} has" in str(refusal.value)
    assert f"kept as {shown(path)}.bad" in str(refusal.value)
    assert [left.name for left in raw.glob("*.bad")] == [f"{path.name}.bad"]


PACKED_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda raw: raw[: len(raw) // 2],
    "flipped bits": lambda raw: raw[:40] + bytes(255 - byte for byte in raw[40:60]) + raw[60:],
    "wrong checksum": lambda raw: raw[:-8] + b"\0\0\0\0" + raw[-4:],
    "not gzip": lambda raw: b"<html>not found</html>",
    "rubbish after the header": lambda raw: raw[:10] + b"\xff" * 30,
}


@pytest.mark.parametrize("damage", PACKED_DAMAGES)
def test_a_damaged_compressed_file_is_refused_with_its_path(raw: Path, damage: str) -> None:
    compress(raw)
    path = raw / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(PACKED_DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DataError) as refusal:
        fashion()
    assert shown(path) in str(refusal.value)
    assert f"kept as {shown(path)}.bad" in str(refusal.value)
    assert [left.name for left in raw.glob("*.bad")] == [f"{path.name}.bad"]


def test_mnist_of_the_right_size_with_another_pixel_is_refused_with_its_path(
    raw: Path, tmp_path: Path
) -> None:
    """Fashion-MNIST's files have the same names and sizes: only the content tells them apart."""
    mine = tmp_path / "data" / "MNIST" / "raw"
    mine.parent.mkdir()
    raw.rename(mine)
    with pytest.raises(DataError) as refusal:
        sources.load("mnist", "train")
    assert f"{shown(mine / TRAIN_IMAGES)} is damaged: its content has the md5" in str(refusal.value)


# ── cifar10 ───────────────────────────────────────────────────────────────────────────────────


def batch_file(image: Pixels, label: list[int]) -> bytes:
    """A batch file opcode by opcode: Python 3 does not write the strings of Python 2 any more."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def memo(number: int) -> bytes:
        return b"q" + bytes([number])

    groups = [label[start : start + 1000] for start in range(0, len(label), 1000)]
    numbers = b"".join(
        b"(" + b"".join(b"K" + bytes([number]) for number in group) + b"e" for group in groups
    )
    pixels = b"T" + image.size.to_bytes(4, "little") + image.tobytes()
    shape = b"M" + len(image).to_bytes(2, "little") + b"M" + (3072).to_bytes(2, "little") + b"\x86"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + memo(7) + b"cnumpy\nndarray\n" + memo(8)
        + b"K\x00\x85" + text(b"b") + b"\x87R" + memo(9) + b"(K\x01" + shape
        + b"cnumpy\ndtype\n" + memo(10) + text(b"u1") + b"K\x00K\x01\x87R" + memo(11)
        + b"(K\x03" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb\x89"
        + pixels + b"tb"
    )  # fmt: skip
    names = b"](" + text(b"a.png") + text(b"b.png") + b"e"
    return (
        b"\x80\x02}" + memo(1) + b"(" + text(b"batch_label") + memo(2)
        + text(b"training batch 1 of 5") + memo(3) + text(b"labels") + memo(4) + b"]" + memo(5)
        + numbers + text(b"data") + memo(6) + array + text(b"filenames") + memo(12) + names
        + b"u."
    )  # fmt: skip


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> tuple[Pixels, list[int]]:
    """Batch files of 2,050 images instead of 10,000: two whole groups of labels, and a part."""
    image = random_images(2050, 3, 32, 32)
    label = np.random.default_rng(1).integers(0, 10, 2050).tolist()
    monkeypatch.setattr(CIFAR, "_IMAGES", len(image))
    monkeypatch.setattr(CIFAR, "_PIXELS", image.size)
    return image, label


@pytest.mark.filterwarnings("ignore:.*align.*", "ignore:.*numpy.core.*:DeprecationWarning")
def test_a_batch_file_is_read_without_unpickling_it(
    small_batches: tuple[Pixels, list[int]],
) -> None:
    image, label = small_batches
    content = batch_file(image, label)
    found, numbers = parse(content)
    assert np.array_equal(found, image)
    assert numbers.tolist() == label
    theirs = pickle.loads(content, encoding="bytes")  # noqa: S301 - our own bytes
    assert np.array_equal(theirs[b"data"].reshape(-1, 3, 32, 32), image)
    assert theirs[b"labels"] == label


def test_a_damaged_cifar_file_is_refused_with_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    md5 = {piece.name: piece.md5 for piece in CIFAR._SET.pieces}
    for name in md5:
        (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(DataError) as refusal:
        sources.load("cifar10", "test")
    assert shown(folder / "test_batch") in str(refusal.value)
    assert str(md5["test_batch"]) in str(refusal.value)
    with pytest.raises(DataError, match="data_batch_1"):
        sources.load("cifar10", "train")
