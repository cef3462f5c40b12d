"""Any Dataset of torch as a source: pairs, dicts, draws, and what is no batch."""

import hashlib
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import command, write_recipe
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from launcher import checkpoint, sources
from launcher.errors import DataError, RecipeError
from launcher.sources import dataset
from launcher.sources.decoded import decode

RUNS = ("parts", "begun")


class Pairs(Dataset[Any]):
    """Twelve images with what is given as their second parts."""

    transform: Any = None

    classes = ("even", "odd")

    def __init__(self, *answers: Any) -> None:
        self.answers = answers or tuple(number % 2 for number in range(12))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> Any:
        assert type(number) is int
        image = torch.full((3, 4, 5), number, dtype=torch.uint8)
        return image, self.answers[number % len(self.answers)]


class Samples(Pairs):
    """Twelve samples made by a function of their number."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Any:
        return self.make(number)


def some(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int64)


def test_pairs_become_batches_in_the_order_that_was_asked_for() -> None:
    source = sources.from_dataset(Pairs())
    batch = source[some(7, 2, 7)]
    assert batch["image"][:, 0, 0, 0].tolist() == [7, 2, 7]
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.uint8, torch.int64)
    assert batch["label"].tolist() == [1, 0, 1]
    assert (len(source), source.shape, source.classes) == (12, (3, 4, 5), ("even", "odd"))
    assert source.labels().tolist() == [0, 1] * 6


@pytest.mark.parametrize(
    "answer", [1, np.int32(1), torch.tensor(1, dtype=torch.uint8), np.array(1)], ids=repr
)
def test_labels_of_any_whole_type_become_int64(answer: Any) -> None:
    batch = sources.from_dataset(Pairs(answer))[some(0, 1)]
    assert (batch["label"].dtype, batch["label"].tolist()) == (torch.int64, [1, 1])


@pytest.mark.parametrize("answer", [0.5, np.float64(0.5), torch.tensor(0.5)], ids=repr)
def test_answers_of_a_floating_type_are_targets(answer: Any) -> None:
    batch = sources.from_dataset(Pairs(answer))[some(0, 1)]
    assert {*batch} == {"image", "target"}
    assert (batch["target"].dtype, batch["target"].tolist()) == (torch.float32, [0.5, 0.5])


def test_dicts_keep_their_names() -> None:
    def make(number: int) -> Any:
        return {"image": np.ones((1, 2), np.float32) * number, "label": number, "weight": 2.0}

    batch = sources.from_dataset(Samples(make))[some(3, 5)]
    assert {*batch} == {"image", "label", "weight"}
    assert batch["image"].tolist() == [[[3, 3]], [[5, 5]]]
    assert batch["label"].dtype == torch.int64


def test_a_collate_gets_the_samples_as_the_dataset_gives_them() -> None:
    def collate(samples: list[Any]) -> Any:
        return torch.stack([image for image, _ in samples]), torch.tensor(
            [len(t) for _, t in samples]
        )

    source = sources.from_dataset(Pairs("a", "bb", "ccc"), collate)
    assert source[some(1, 2, 3)]["label"].tolist() == [2, 3, 1]
    assert source.shape == (3, 4, 5)


def test_a_dataset_of_torch_and_a_part_of_it_are_taken() -> None:
    whole = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))
    part = sources.from_dataset(Subset(whole, [5, 1]), classes="abcdef")
    assert part[some(0, 1)]["label"].tolist() == [5, 1]
    assert (part.shape, part.classes) == ((2,), ("a", "b", "c", "d", "e", "f"))
    assert sources.from_dataset(whole).classes is None


def test_what_a_dataset_draws_depends_on_seed_epoch_and_sample_alone() -> None:
    def make(number: int) -> Any:
        return torch.tensor([float(torch.rand(())), random.random(), np.random.random()]), 0

    source = sources.from_dataset(Samples(make))
    first = decode(source, some(1, 2, 3), 5, 0)["image"]
    assert torch.equal(decode(source, some(3, 1), 5, 0)["image"], first[[2, 0]])
    assert not (decode(source, some(1, 2, 3), 5, 1)["image"] == first).any()


def test_a_fingerprint_is_of_type_and_length_or_as_given() -> None:
    first = sources.from_dataset(Pairs()).fingerprint
    assert sources.from_dataset(Pairs(1)).fingerprint == first
    others = {sources.from_dataset(Samples(None)).fingerprint, first}
    others.add(sources.from_dataset(Subset(Pairs(), [0])).fingerprint)
    others.add(sources.from_dataset(Subset(Pairs(), [0, 1])).fingerprint)
    assert len(others) == 4
    assert sources.from_dataset(Pairs(), fingerprint="v2").fingerprint == "v2"


def test_a_part_has_the_classes_and_the_transform_of_the_whole_and_a_fingerprint_of_its_own() -> (
    None
):
    """The fingerprints are those with which runs were begun."""
    whole = Pairs()
    whole.transform = abs
    part = Subset(Subset(whole, [1, 3, 5, 7]), [3, 1])
    source = sources.from_dataset(part)
    assert (source.classes, source.transform) == (("even", "odd"), abs)
    assert source[some(0)]["image"][0, 0, 0, 0] == 7
    assert source.where(0) == "Subset[0], Subset[3], Pairs[7]"
    text = "torch.utils.data.dataset.Subset 2"
    assert source.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert sources.from_dataset(part, classes="ab").classes == ("a", "b")
    split = torch.utils.data.random_split(whole, [0.75, 0.25])
    assert [sources.from_dataset(one).classes for one in split] == [("even", "odd")] * 2


def test_a_part_with_names_of_its_own_keeps_them() -> None:
    part = Subset(Pairs(), [0])
    part.classes = ["all"]  # type: ignore[attr-defined]
    assert sources.from_dataset(part).classes == ("all",)
    part.classes = 2  # type: ignore[attr-defined]
    assert sources.from_dataset(part).classes is None


def test_a_shape_that_is_given_makes_no_sample() -> None:
    source = sources.from_dataset(Samples(None), shape=[3, 4, 4])
    assert source.shape == (3, 4, 4)


def test_a_sample_that_fails_is_named() -> None:
    source = sources.from_dataset(Samples(lambda number: {}[number]))
    with pytest.raises(DataError, match=r"sample 4 \(Samples\[4\]\) cannot be made: KeyError: 4\."):
        source[some(4)]


def test_samples_of_different_shapes_are_named() -> None:
    source = sources.from_dataset(Samples(lambda number: (torch.zeros(number), 0)))
    with pytest.raises(DataError, match=r"samples 3, 5 \(Samples\[3\].*do not fit .*\[3\].*\[5\]"):
        source[some(3, 5)]


REFUSED: dict[str, tuple[Any, str]] = {
    "image alone": (lambda n: torch.zeros(3, 3), "must be pairs .* or dicts.*here are Tensor"),
    "three parts": (lambda n: (torch.zeros(3), 1, 2), "here are 3 parts"),
    "text": (
        lambda n: (torch.zeros(3), "cat"),
        "its 'label' is tuple: give from_dataset a collate",
    ),
    "object": (lambda n: (object(), 1), "default_collate makes no batch .*give it a transform"),
    "empty": (lambda n: {}, "must be pairs"),
    "float label": (lambda n: {"image": torch.zeros(1), "label": 0.5}, "label must be a whole"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_batch_is_refused(kind: str) -> None:
    make, words = REFUSED[kind]
    with pytest.raises(RecipeError, match=f"(?i){words}"):
        sources.from_dataset(Samples(make))[some(0, 1)]


def test_a_collate_that_loses_samples_is_refused() -> None:
    source = sources.from_dataset(Pairs(), lambda samples: {"image": samples[0][0][:1]})
    with pytest.raises(RecipeError, match=r"batch of 2 samples .* 'image' is \(1, 4, 5\)"):
        source[some(0, 1)]


class Stream(IterableDataset[Any]):
    """One that has a length, and no samples by number."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize("dataset", [Stream(), iter([1]), {1, 2}], ids=["stream", "iter", "set"])
def test_what_has_no_samples_by_number_is_refused(dataset: Any) -> None:
    with pytest.raises(RecipeError, match="from_dataset takes a map-style Dataset"):
        sources.from_dataset(dataset)


OWN = """
class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, number):
        return torch.full((1, 4, 4), number / 32), number % LABELS


def data(hparams):
    train = sources.from_dataset(Squares(), classes=["a", "b"])
    return Data(train=Split(train), test=Split(sources.from_dataset(Squares(), classes=TEST)))
"""


def test_a_run_trains_on_a_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(OWN.replace("LABELS", "2").replace("TEST", '["a", "b"]'))
    assert command(recipe, "name=own") == 0
    assert "32 training and 32 test samples of 1 x 4 x 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "test", "words"),
    [
        ("3 + 2", '["a", "b"]', "sample 0 of the train split has label 2, but there are 2 classes"),
        (
            "2",
            '["b", "a"]',
            "'b' is class 1 in the train split of tiny.py and class 0 in the test split",
        ),
    ],
)
def test_labels_and_classes_that_do_not_fit_end_a_run_before_it_begins(
    labels: str, test: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(OWN.replace("LABELS", labels).replace("TEST", test))
    assert command(recipe, "name=own") == 4
    assert words in " ".join(capsys.readouterr().err.replace("│", "").split())


PARTS = """
import torchvision
from torchvision.transforms import v2


def data(hparams):
    pixels = v2.Compose([v2.Resize(4), v2.PILToTensor()])
    images = torchvision.datasets.ImageFolder("photos", pixels)
    first = torch.Generator().manual_seed(0)
    train, rest = torch.utils.data.random_split(images, [0.5, 0.5], generator=first)
    test = torch.utils.data.Subset(rest, range(len(rest) // 2))
    return Data(
        train=Split(sources.from_dataset(train)), test=Split(sources.from_dataset(test)),
        prepare=augment.normalize((0.5,), (0.5,)),
    )


def model(hparams, data):
    return models.MLP(48, 4, (8,))
"""


def photos() -> None:
    """Forty of each of four classes, in photos/."""
    for number, name in enumerate("abcd"):
        Path("photos", name).mkdir(parents=True)
        for place in range(40):
            Image.new("RGB", (4, 4), (60 * number, place, 9)).save(f"photos/{name}/{place}.png")


def test_parts_of_a_folder_are_evaluated_by_class_and_predicted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torchvision")
    photos()
    assert command(write_recipe(PARTS), "name=parts") == 0
    assert "80 training and 40 test samples of 3 x 4 x 4, 4 classes" in capsys.readouterr().out
    assert command("evaluate", "parts") == 0
    shown = capsys.readouterr().out
    assert "Accuracy of each class" in shown
    assert "Confusion" in shown
    assert "These are the scores that the run noted at this step." in shown
    assert command("predict", "parts", "photos/a/0.png") == 0
    assert capsys.readouterr().out.startswith("photos/a/0.png: ")


def test_a_run_on_parts_that_was_begun_without_their_classes_continues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an earlier version began it."""
    pytest.importorskip("torchvision")
    photos()
    whole = dataset._attribute
    monkeypatch.setattr(dataset, "_attribute", lambda one, name: getattr(one, name, None))
    recipe = write_recipe(PARTS)
    assert command(recipe, "name=parts", "epochs=2") == 0
    shutil.copytree("checkpoints/parts", "checkpoints/begun")
    capsys.readouterr()
    assert command(recipe, "name=begun", "--resume", "5") == 0
    assert "no classes" in capsys.readouterr().out
    monkeypatch.setattr(dataset, "_attribute", whole)
    assert command("evaluate", "parts", "step=last") == 0
    shown = capsys.readouterr().out
    assert "Accuracy of each class" in shown
    assert "These are the scores that the run noted at this step." in shown
    assert command(recipe, "name=parts", "--resume", "5") == 0
    shown = capsys.readouterr().out
    assert "continues at step 5 of 10" in shown
    assert "exact=false" not in shown
    weights = [checkpoint.read(Path("checkpoints", name), 10).weights for name in RUNS]
    assert all(weights[0][key].equal(weights[1][key]) for key in weights[0])
