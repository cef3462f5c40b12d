"""Folders of images: the samples of torchvision's ImageFolder, and refusals that name the file."""

import logging
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from launcher import cli, sources
from launcher.errors import DataError, RecipeError, SettingsError
from launcher.sources.decoded import decode
from launcher.sources.files import Files
from launcher.sources.listing import Names

ROOT = Path(__file__).resolve().parent.parent
REAL = os.environ.get("LAUNCHER_REAL_DATA", "")


def picture(seed: int, width: int = 12, height: int = 9, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    return Image.fromarray(pixels).convert(mode)


def save(path: Path, seed: int = 0, mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, 12 + seed % 5, 9 + seed % 3, mode).save(path, **options)
    return path


def make(root: str, **counts: int) -> Path:
    """A folder of classes with small images: `make("photos", cat=3, dog=2)`."""
    for name, count in counts.items():
        for number in range(count):
            save(Path(root) / name / f"{number:03}.png", seed=len(name) * 100 + number)
    return Path(root)


@pytest.fixture
def odd() -> Path:
    """Every kind of file, and names that are hard to write."""
    root = Path("odd")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: shown turned by 90 degrees
    save(root / "b" / "1.jpg", 1, quality=90)
    save(root / "b" / "2.JPEG", 2, "L")
    save(root / "b" / "3.jpg", 3, "CMYK")
    save(root / "b" / "turned.jpg", 4, exif=turned)
    save(root / "B" / "palette.png", 5, "P")
    save(root / "B" / "bits.png", 6, "1")
    save(root / "B" / "clear.png", 7, "RGBA")
    save(root / "B" / "clear grey.png", 8, "LA")
    save(root / "B" / "deep.png", 9, "I;16")
    save(root / "B" / "x.gif.bmp", 10)
    save(root / "Ünïcode 😀" / "ä b'c\"d.webp", 11, lossless=True)
    save(root / "Ünïcode 😀" / "new\nline.tif", 12)
    save(root / "Ünïcode 😀" / "-rf *.ppm", 13)
    save(root / "Ünïcode 😀" / "10.png", 14)
    save(root / "Ünïcode 😀" / "9.PNG", 15)
    for place in ("a/c/1.png", "a/c/b/2.png", "a/c-d/3.png", "a/c.d/4.png", "a/z.png", "a/B/5.png"):
        save(root / place, len(place))
    return root


def names(source: Files) -> list[str]:
    return [os.path.join(source.root, name) for name in source.names]


def whole(source: Files) -> Any:
    return source[np.arange(len(source), dtype=np.int64)]


# ── as torchvision's ─────────────────────────────────────────────────────────────────────────────


def test_files_labels_and_classes_are_those_of_torchvision(odd: Path) -> None:
    ours, theirs = sources.folder(odd, size=8), ImageFolder(str(odd.absolute()))
    assert [*zip(names(ours), ours.labels().tolist(), strict=True)] == theirs.samples
    assert list(ours.classes) == theirs.classes
    assert len(ours) == len(theirs) == 21


@pytest.mark.filterwarnings("ignore:.*Truncated File Read.*")
def test_pixels_are_those_of_torchvision_under_the_same_transform(odd: Path) -> None:
    def transform(photo: Any) -> torch.Tensor:
        pixels = F.pil_to_tensor(photo)
        return torch.nn.functional.pad(pixels, (0, 24 - pixels.shape[2], 0, 24 - pixels.shape[1]))

    ours, theirs = sources.folder(odd, transform), ImageFolder(str(odd), transform)
    assert ours.shape == (3, 24, 24)
    batch = whole(ours)
    for number, (image, label) in enumerate(theirs):
        assert torch.equal(batch["image"][number], image), ours.where(number)
        assert batch["label"][number] == label


@pytest.mark.parametrize("size", [4, 7, 8, 9, 12, 33])
def test_pixels_without_a_transform_are_those_of_resize_and_center_crop(
    odd: Path, size: int
) -> None:
    theirs = ImageFolder(str(odd), v2.Compose([v2.Resize(size), v2.CenterCrop(size)]))
    ours = sources.folder(odd, size=size)
    batch = whole(ours)
    assert (batch["image"].dtype, ours.shape) == (torch.uint8, (3, size, size))
    for number, (photo, label) in enumerate(theirs):
        assert torch.equal(batch["image"][number], F.pil_to_tensor(photo)), ours.where(number)
        assert batch["label"][number] == label


def test_one_channel_is_grey(odd: Path) -> None:
    ours = sources.folder(odd, size=8, channels=1)
    assert ours.shape == (1, 8, 8)
    cut = v2.Compose([v2.Resize(8), v2.CenterCrop(8)])
    for number, path in enumerate(names(ours)):
        with Image.open(path) as photo:
            expected = F.pil_to_tensor(cut(photo.convert("L")))
        assert torch.equal(ours[np.array([number])]["image"][0], expected)


def test_a_random_transform_draws_as_under_the_seed_of_its_sample() -> None:
    transform = v2.Compose(
        [v2.RandomResizedCrop(8, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.5),
         v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    )  # fmt: skip
    source = sources.folder(make("photos", cat=6, dog=6), transform)
    index = np.array([4, 9, 2], dtype=np.int64)
    first = decode(source, index, 5, 1)["image"]
    assert (first.dtype, first.shape, type(first)) == (torch.float32, (3, 3, 8, 8), torch.Tensor)
    assert torch.equal(decode(source, index[::-1].copy(), 5, 1)["image"], first.flip(0))
    assert not torch.equal(decode(source, index, 5, 2)["image"], first)
    assert not torch.equal(decode(source, index, 6, 1)["image"], first)


def test_draws_do_not_depend_on_whether_the_shape_is_known() -> None:
    def transform(photo: Any) -> torch.Tensor:
        return torch.rand(2) + random.random()

    root, index = make("photos", cat=3), np.array([2, 0], dtype=np.int64)
    fresh, asked = sources.folder(root, transform), sources.folder(root, transform)
    assert asked.shape == (2,)
    assert torch.equal(decode(fresh, index, 3)["image"], decode(asked, index, 3)["image"])


def test_a_transform_may_give_a_pil_image() -> None:
    source = sources.folder(make("photos", cat=2), lambda photo: photo.resize((5, 4)).convert("L"))
    batch = whole(source)
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 1, 4, 5), torch.uint8)


# ── which files ──────────────────────────────────────────────────────────────────────────────────


def test_strays_are_named_in_one_line_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    root = make("photos", cat=2, dog=1)
    (root / "LICENSE.txt").touch()
    save(root / "lonely.png")
    (root / "cat" / "notes\x1b[31m.txt").touch()
    (root / "dog" / "gone.png").symlink_to("nowhere.png")
    for hidden in ("cat/.DS_Store", "cat/._000.png", "dog/Thumbs.db", "desktop.ini"):
        (root / hidden).touch()
    save(root / ".ipynb_checkpoints" / "1.png")
    save(root / "cat" / ".cache" / "1.png")
    with caplog.at_level(logging.WARNING, "launcher"):
        source = sources.folder(root, size=8)
    assert len(source) == 3
    assert source.classes == ("cat", "dog")
    (line,) = caplog.messages
    assert f"{root.absolute()} holds 4 files that are no images" in line
    for name in ("LICENSE.txt", "lonely.png", r"cat/notes\x1b[31m.txt", "dog/gone.png"):
        assert name in line
    assert "Thumbs" not in line


def test_of_many_strays_ten_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    root = make("photos", cat=5)
    for number in range(25):
        (root / "cat" / f"{number}.txt").touch()
    with caplog.at_level(logging.WARNING, "launcher"):
        for split in ("train", "test"):
            sources.load("photos", split)
    (line,) = caplog.messages
    assert line.count(".txt") == 10
    assert line.endswith(" and 15 more")


def test_other_extensions_are_taken_when_they_are_named() -> None:
    root = make("photos", cat=2)
    save(root / "cat" / "moving.gif")
    assert len(sources.folder(root, size=8)) == 2
    assert [*sources.folder(root, size=8, extensions=(".gif",)).names] == ["cat/moving.gif"]


def test_linked_folders_are_followed() -> None:
    root = make("photos", cat=2)
    (root / "dog").symlink_to(root.absolute() / "cat")
    assert sources.folder(root, size=8).labels().tolist() == [0, 0, 1, 1]


def test_a_link_to_a_folder_around_it_is_refused() -> None:
    root = make("photos", cat=2)
    (root / "cat" / "again").symlink_to(root.absolute() / "cat")
    with pytest.raises(DataError, match="cat/again is a link to a folder that it lies in"):
        sources.folder(root, size=8)


def test_a_name_that_is_not_utf_8_is_read_and_shown_without_its_bytes() -> None:
    path = os.fsencode(make("photos", cat=1) / "cat") + b"/\xff.png"
    os.rename(b"photos/cat/000.png", path)
    os.rename(b"photos/cat", b"photos/c\xfft")
    source = sources.folder("photos", size=8)
    assert whole(source)["image"].shape == (1, 3, 8, 8)
    assert source.classes == (r"c\udcfft",)
    assert source.where(0).endswith(r"c\udcfft/\udcff.png")


def test_a_hundred_thousand_files_are_listed_quickly_and_small() -> None:
    for name in ("cat", "dog"):
        folder = Path("photos") / name
        folder.mkdir(parents=True)
        for number in range(50_000):
            os.close(os.open(folder / f"image_{number:05}.jpg", os.O_CREAT))
    begun = time.process_time()
    source = sources.folder("photos", size=8)
    listed = time.process_time() - begun
    assert source.fingerprint
    taken = time.process_time() - begun
    assert len(source) == 100_000
    assert source.names[70_000] == "dog/image_20000.jpg"
    assert listed < 5, "seconds; a tenth of one on an idle machine"
    assert taken < 10
    assert len(source.names._block) == 100_000 * len("dog/image_20000.jpg")


def test_names_in_one_block_are_those_that_went_in() -> None:
    given = ["a", "", "ü/b", "c" * 1000, "\udcff"]
    found = Names()
    found.extend(given[:2])
    found.extend(given[2:])
    assert [*found] == given
    for number in (5, -1):
        with pytest.raises(IndexError):
            found[number]


# ── fingerprints ─────────────────────────────────────────────────────────────────────────────────


def test_a_fingerprint_knows_neither_place_nor_time() -> None:
    first = sources.folder(make("photos", cat=3, dog=2), size=8).fingerprint
    Path("elsewhere").mkdir()
    os.rename("photos", "elsewhere/same")
    os.utime("elsewhere/same/cat/000.png", (0, 0))
    assert sources.folder("elsewhere/same", size=8).fingerprint == first


def test_a_fingerprint_knows_names_sizes_classes_and_the_shape() -> None:
    root = make("photos", cat=3, dog=2)
    found = {sources.folder(root, size=8).fingerprint, sources.folder(root, size=9).fingerprint}
    found.add(sources.folder(root, size=8, channels=1).fingerprint)
    found |= {sources.folder(root, size=8, split=s).fingerprint for s in ("train",)}
    with (root / "cat" / "000.png").open("ab") as file:
        file.write(b"\0")
    found.add(sources.folder(root, size=8).fingerprint)
    (root / "cat" / "001.png").rename(root / "cat" / "009.png")
    found.add(sources.folder(root, size=8).fingerprint)
    (root / "dog").rename(root / "cow")
    found.add(sources.folder(root, size=8).fingerprint)
    os.rename(root / "cow" / "000.png", root / "cat" / "cow.png")
    found.add(sources.folder(root, size=8).fingerprint)
    assert len(found) == 7  # fewer than five a class: all of them are for training


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


def broken(kind: str, path: Path) -> None:
    content = path.read_bytes()
    damages = {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "text": b"<html>not found</html>",
        "head only": content[:20],
    }
    path.write_bytes(damages[kind])


@pytest.mark.parametrize("kind", ["empty", "cut", "text", "head only"])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_broken_file_is_named_with_its_number(kind: str, ending: str) -> None:
    root = make("photos", cat=2)
    path = save(root / "dog" / f"broken.{ending}", 4)
    broken(kind, path)
    source = sources.folder(root, size=8)
    assert len(source[np.array([0, 1])]["image"]) == 2
    with pytest.raises(DataError) as refusal:
        source[np.array([1, 2])]
    assert f"sample 2 ({path.absolute()}) cannot be made: " in str(refusal.value)
    assert refusal.value.__cause__ is not None


def test_a_file_that_went_away_is_named() -> None:
    root = make("photos", cat=2)
    source = sources.folder(root, size=8)
    (root / "cat" / "001.png").unlink()
    for use in (lambda: source[np.array([1])], lambda: source.fingerprint):
        with pytest.raises(DataError, match=r"sample 1 \(.*photos/cat/001.png\).*No such file"):
            use()


def test_an_image_of_another_shape_is_named() -> None:
    root = make("photos", cat=2)
    picture(0, 50, 40).save(root / "cat" / "001.png")
    source = sources.folder(root, v2.ToImage())
    with pytest.raises(DataError) as refusal:
        whole(source)
    assert "sample 1 (" in str(refusal.value)
    assert "cat/001.png" in str(refusal.value)
    assert "(3, 40, 50)" in str(refusal.value)
    assert f"sample 0 has {source.shape}" in str(refusal.value)


def test_a_transform_that_gives_no_image_is_refused() -> None:
    source = sources.folder(make("photos", cat=2), np.asarray)
    with pytest.raises(DataError, match="must give a PIL image or a tensor; it gave ndarray"):
        whole(source)


def test_a_mistake_of_a_transform_keeps_its_lines() -> None:
    def transform(photo: Any) -> Any:
        return photo.no_such_method()

    with pytest.raises(DataError, match=r"AttributeError: .*no_such_method") as refusal:
        whole(sources.folder(make("photos", cat=2), transform))
    assert "photo.no_such_method()" in refusal.value.frames


def test_a_class_without_images_is_named() -> None:
    """D8."""
    root = make("photos", cat=2)
    (root / "dog").mkdir()
    (root / "cow").mkdir()
    (root / "cow" / "moo.txt").touch()
    with pytest.raises(DataError, match=r"classes without an image .*: cow, dog\. Remove"):
        sources.folder(root, size=8)


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("nowhere", "nowhere cannot be read: No such file"),
        ("empty", "empty has no folders in it, and each class needs one"),
        ("flat", "flat has no folders in it, and each class needs one"),
        ("file", "file cannot be read: Not a directory"),
    ],
)
def test_what_is_no_folder_of_classes_is_refused(root: str, words: str) -> None:
    """D8."""
    Path("empty").mkdir()
    save(Path("flat") / "1.png")
    Path("file").touch()
    with pytest.raises(DataError, match=words):
        sources.folder(root, size=8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "neither is given"),
        ({"size": 8, "transform": v2.ToImage()}, "both is given"),
        ({"size": 0}, "size=0 must be at least 1"),
        ({"size": 8, "channels": 4}, "channels=4 must be 1"),
        ({"size": 8, "split": "val"}, "split='val' must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        sources.folder(make("photos", cat=1), **arguments)


# ── training and test images ─────────────────────────────────────────────────────────────────────


def halves(root: Path | str) -> tuple[list[str], list[str]]:
    train, test = (sources.load(str(root), split, 8) for split in ("train", "test"))
    assert isinstance(train, Files)
    assert isinstance(test, Files)
    assert train.classes == test.classes
    return [*train.names], [*test.names]


def test_of_each_class_every_fifth_image_is_for_tests() -> None:
    train, test = halves(make("./photos", cat=11, dog=4, emu=5))
    assert test == ["cat/004.png", "cat/009.png", "emu/004.png"]
    assert len(train) == 17
    assert not {*train} & {*test}


def test_the_split_of_a_class_stays_when_another_one_gets_an_image() -> None:
    before = halves(make("./photos", cat=11, dog=7))
    save(Path("photos") / "cat" / "0000.png")
    save(Path("photos") / "ant" / "1.png")
    after = halves("./photos")
    for old, new in zip(before, after, strict=True):
        assert [n for n in old if n[0] == "d"] == [n for n in new if n[0] == "d"]
    assert before != after


def test_labels_stay_with_their_images_through_the_split() -> None:
    make("photos", cat=11, dog=7)
    for split in ("train", "test"):
        source = sources.folder("photos", size=8, split=split)
        assert [source.classes[n] for n in source.labels()] == [n[:3] for n in source.names]
        assert torch.equal(whole(source)["label"], source.labels())


def test_classes_too_small_for_a_test_image_are_refused() -> None:
    make("photos", cat=4, dog=4)
    assert len(sources.load("photos", "train")) == 8
    with pytest.raises(DataError, match="fewer than five images in each class"):
        sources.load("photos", "test")


@pytest.mark.parametrize("test", ["val", "valid", "test"])
def test_folders_of_training_and_test_images_are_taken_as_they_are(test: str) -> None:
    make("photos/train", cat=6, dog=1)
    make(f"photos/{test}", cat=1, dog=2)
    train, found = halves("photos")
    assert (len(train), len(found)) == (7, 3)
    assert sources.load("photos", "test").shape == (3, 32, 32)
    assert sources.load("photos", "test", channels=1).shape == (1, 32, 32)


def test_validation_images_win_over_test_images_which_may_have_no_labels() -> None:
    make("photos/train", cat=1, dog=1)
    make("photos/val", cat=2, dog=2)
    (make("photos/test", cat=9) / "cat").rename("photos/test/unknown")
    assert len(sources.load("photos", "test")) == 4


def test_splits_of_different_classes_are_refused() -> None:
    make("photos/train", cat=1, dog=1)
    make("photos/val", cat=2)
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"must have the same classes.*: only|has dog\."):
            sources.load("photos", split)


def test_training_images_alone_are_refused() -> None:
    make("photos/train", cat=6)
    with pytest.raises(DataError, match=r"none of val/, valid/ and test/ beside it"):
        sources.load("photos", "train")


def test_a_class_may_be_called_train() -> None:
    train, test = halves(make("photos", train=5, plane=5))
    assert test == ["plane/004.png", "train/004.png"]
    assert len(train) == 8


def test_a_folder_in_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    make("photos", cat=5)
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert len(sources.load("~/photos", "train")) == 4


def test_a_known_name_is_no_folder() -> None:
    make("digits", cat=5)
    assert sources.load("digits", "train").shape == (1, 8, 8)
    assert sources.load("./digits", "train").shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such", "dataset=no/such is not there: give a folder"),
        ("photos/cat/000.png", "dataset=photos/cat/000.png is no folder, but a file"),
        ("fotos", "dataset='fotos' is none of .*, and no folder in"),
    ],
)
def test_a_path_that_is_no_folder_is_refused_by_its_name(name: str, words: str) -> None:
    make("photos", cat=1)
    with pytest.raises(SettingsError, match=words):
        sources.load(name, "train")


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────


ON_DATA_SETS = [
    path for path in sorted((ROOT / "recipes").glob("*.py")) if "dataset: str" in path.read_text()
]


@pytest.mark.parametrize("path", ON_DATA_SETS, ids=lambda path: path.stem)
def test_every_recipe_of_data_sets_trains_on_a_folder(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("my photos", cat=10, dog=10)
    given = ["dataset=my photos", "batch_size=8"]
    if path.stem == "finetune_resnet":
        given += ["weights=none", "size=32", "depth=18"]
    assert cli.main(["show", str(path), *given]) == 0
    assert cli.main([str(path), *given, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "16 training and 4 test samples of 3 x 32 x 32, 2 classes" in shown
    assert "dry run: one step and one evaluation of 4 samples worked" in shown


def test_a_run_on_a_folder_ends_and_is_not_continued_on_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make("photos", cat=10, dog=10)
    recipe = str(ROOT / "recipes" / "fashion_mlp.py")
    given = [recipe, "dataset=./photos", "batch_size=8", "name=photos"]
    assert cli.main([*given, "epochs=1"]) == 0
    assert "test/accuracy" in capsys.readouterr().out
    save(root / "cat" / "new.png")
    assert cli.main([*given, "epochs=2", "--allow-change", "epochs"]) == 5
    assert "data" in capsys.readouterr().err


def test_scores_do_not_read_images_for_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from launcher.data import Data, Split
    from launcher.evaluate import labels

    source = sources.folder(make("photos", cat=3, dog=2), size=8)
    monkeypatch.setattr(source, "sample", None)
    assert labels(Data(train=Split(source), test=Split(source))).tolist() == [0, 0, 0, 1, 1]


# ── photographs ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.real_data
@pytest.mark.skipif(not REAL, reason="LAUNCHER_REAL_DATA names no folder of data sets")
@pytest.mark.parametrize("split", ["train", "val"])
def test_photographs_are_those_of_torchvision(split: str) -> None:
    root = os.path.join(REAL, "flowers", split)
    cut = v2.Compose([v2.Resize(64), v2.CenterCrop(64)])
    ours, theirs = sources.folder(root, size=64), ImageFolder(root, cut)
    assert [*zip(names(ours), ours.labels().tolist(), strict=True)] == theirs.samples
    batch = whole(ours)
    for number, (photo, _) in enumerate(theirs):
        assert torch.equal(batch["image"][number], F.pil_to_tensor(photo))
