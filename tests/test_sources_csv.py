"""Tables of paths and labels: the rows in their order, and refusals that name the line."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from launcher import sources
from launcher.errors import DataError, RecipeError
from launcher.sources.files import Files

IMAGES = ("1.png", "a/2.png", "a/b, c.png", 'a/"q".png', "ü/3 .png")


@pytest.fixture(autouse=True)
def images() -> None:
    """Five images in `photos/`, each of one grey."""
    for number, name in enumerate(IMAGES):
        path = Path("photos") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6 + number, 5), (number * 10,) * 3).save(path)


def table(text: str | bytes, name: str = "photos/labels.csv") -> Path:
    path = Path(name)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(text: str | bytes, **options: Any) -> Files:
    return sources.csv(table(text), size=4, **options)


ROWS = 'path,label\nü/3 .png,dog\n1.png,cat\n"a/b, c.png",cat\n"a/""q"".png",ant\n'


def greys(source: Files) -> list[int]:
    batch = source[np.arange(len(source), dtype=np.int64)]
    assert torch.equal(batch["label"], source.labels())
    return [int(image.float().mean()) // 10 for image in batch["image"]]


def test_rows_are_read_in_their_order_and_classes_are_sorted() -> None:
    source = read(ROWS)
    assert greys(source) == [4, 0, 2, 3]
    assert source.classes == ("ant", "cat", "dog")
    assert source.labels().tolist() == [2, 1, 1, 0]
    assert (len(source), source.shape) == (4, (3, 4, 4))


@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_tables_of_every_system_are_read(begin: bytes, ending: str) -> None:
    text = begin + ROWS.replace("\n", ending).encode()
    assert greys(read(text)) == [4, 0, 2, 3]
    assert read(text).fingerprint == read(ROWS).fingerprint


def test_other_columns_are_chosen_by_name() -> None:
    text = "kind, file ,note\ncat,1.png,x\ndog,a/2.png,\n\n"
    source = read(text, path="file", label="kind")
    assert greys(source) == [0, 1]
    assert source.classes == ("cat", "dog")


def test_paths_are_relative_to_the_root_that_is_given() -> None:
    path = table("path,label\n2.png,x\n", "elsewhere.csv")
    assert greys(sources.csv(path, root="photos/a", size=4)) == [1]


def test_absolute_paths_are_read_below_the_root_of_all() -> None:
    full = Path("photos/a/2.png").absolute()
    text = f"path,label\n{full},x\n"
    assert greys(sources.csv(table(text), root="/", size=4)) == [1]
    with pytest.raises(DataError, match=r"line 2 of .*begins with /: give root='/'"):
        read(text)


@pytest.mark.parametrize("path", ["../photos/1.png", "a/../1.png", ".."])
def test_a_path_that_leaves_its_folder_is_refused(path: str) -> None:
    with pytest.raises(
        DataError, match=r"line 3 of .*labels\.csv has the path .*leaves its folder"
    ):
        read(f"path,label\n1.png,x\n{path},x\n")


def test_links_in_the_folder_are_followed() -> None:
    os.symlink(Path("photos/a/2.png").absolute(), "photos/link.png")
    assert greys(read("path,label\nlink.png,x\n")) == [1]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "0"], ("0", "9", "10")),
        (["-1", "2", "10"], ("-1", "2", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        ([" b ", "a", "b"], ("a", "b")),
        (["ß", "Z", "a"], ("Z", "a", "ß")),
    ],
)
def test_classes_are_in_the_order_of_numbers_or_of_texts(
    labels: list[str], classes: tuple[str, ...]
) -> None:
    source = read("path,label\n" + "".join(f"1.png,{label}\n" for label in labels))
    assert source.classes == classes
    assert [classes[n] for n in source.labels()] == [label.strip() for label in labels]


def test_classes_can_be_given_for_a_table_without_some() -> None:
    source = read(ROWS, classes=["dog", "emu", "cat", "ant"])
    assert source.classes == ("dog", "emu", "cat", "ant")
    assert source.labels().tolist() == [0, 2, 2, 3]
    with pytest.raises(DataError, match=r"line 5 of .*'ant', which is none of dog, cat"):
        read(ROWS, classes=["dog", "cat"])
    with pytest.raises(RecipeError, match="different from each other"):
        read(ROWS, classes=["dog", "dog"])


def test_a_transform_and_channels_work_as_for_folders() -> None:
    source = sources.csv(table(ROWS), transform=lambda photo: photo.resize((3, 2)), channels=1)
    assert source.shape == (1, 2, 3)
    assert greys(source) == [4, 0, 2, 3]


def test_a_fingerprint_is_of_paths_sizes_labels_and_classes_and_not_of_the_place() -> None:
    first = read(ROWS).fingerprint
    others = [
        read(ROWS.replace("dog", "cow")),
        read(ROWS.replace("1.png,cat", "1.png,dog")),
        read(ROWS.replace("1.png", "a/2.png")),
        read(ROWS + "1.png,cat\n"),
        read(ROWS, classes=["ant", "cat", "dog", "emu"]),
    ]
    assert len({first, *(other.fingerprint for other in others)}) == 6
    read(ROWS)
    os.rename("photos", "same")
    assert sources.csv("same/labels.csv", size=4).fingerprint == first
    with open("same/1.png", "ab") as file:
        file.write(b"\0")
    assert sources.csv("same/labels.csv", size=4).fingerprint != first


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", r"names no column 'path': it has none"),
    "header only": ("path,label\n", "has no row below"),
    "no label column": ("path,lable\n1.png,x\n", r"no column 'label'.*Did you mean 'lable'"),
    "two path columns": ("path,path,label\n", "'path' more than once"),
    "short row": ("path,label\n1.png,x\n1.png\n", r"line 3 of .* has 1 cells"),
    "long row": ("path,label\n1.png,x,y\n", r"line 2 of .* has 3 cells, and the first row"),
    "no path": ("path,label\n,x\n", r"line 2 of .* has no path"),
    "no label": ("path,label\n1.png,x\n\n1.png, \n", r"line 4 of .* has no label"),
    "zero byte": ("path,label\n1.png\0,x\n", r"line 2"),
    "open quote": ('path,label\n1.png,x\n"1.png,x\n', r"cannot be read at line \d: unexpected end"),
    "latin-1": ("path,label\nü.png,x\n".encode("latin-1"), r"is not UTF-8"),
    "utf-16": ("path,label\n1.png,x\n".encode("utf-16"), r"cannot be read at line 1: is not UTF-8"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_wrong_in_a_table_is_named_with_its_line(kind: str) -> None:
    text, words = REFUSED[kind]
    with pytest.raises(DataError, match=words) as refusal:
        read(text)
    assert "labels.csv" in str(refusal.value)


def test_lines_are_counted_through_cells_of_several_lines() -> None:
    text = 'path,label,note\n1.png,x,"two\nlines"\nnone.png,x,\n'
    with pytest.raises(DataError, match=r"line 4 of .*No such file"):
        _ = read(text).fingerprint


def test_a_missing_table_is_refused() -> None:
    with pytest.raises(DataError, match=r"the table .*none\.csv cannot be read: No such file"):
        sources.csv("none.csv", size=4)


def test_a_missing_or_broken_image_is_named_with_its_line() -> None:
    Path("photos/broken.png").write_bytes(b"no image")
    source = read("path,label\nbroken.png,x\nnone.png,x\n")
    for number, words in enumerate(("UnidentifiedImageError", "FileNotFoundError")):
        with pytest.raises(DataError, match=rf"sample {number} .*line {number + 2} of .*{words}"):
            source[np.array([number])]
    with pytest.raises(DataError, match=r"sample 1 .*none\.png, line 3 of .*No such file"):
        _ = source.fingerprint
