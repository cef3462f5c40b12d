"""Data that is missing, damaged, changed, too little, or no good."""

import gzip
import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, command, write_recipe

RUN = Path("checkpoints/r")

# A source written in the recipe: 64 samples that `spoil` may make worse.
SOURCE = """
import numpy as np

class Odd:
    classes, shape, fingerprint = ("a", "b", "c", "d"), (1, 4, 4), "odd"
    def __len__(self): return LENGTH
    def __getitem__(self, index):
        batch = {{"image": torch.zeros(len(index), 1, 4, 4), "label": torch.from_numpy(index) % 4}}
        return spoil(batch, index)

LENGTH = {length}
def spoil(batch, index):
    {spoil}
    return batch

def data(hparams):
    good = sources.synthetic("test", 40, (1, 4, 4), 4)
    split = Split(Odd())
    return Data(train={train}, test={test}, prepare=augment.normalize((0.5,), (0.5,)))
"""


def run(extra: str = "", *given: str) -> int:
    return command(write_recipe(extra), "name=r", "threads=1", *given)


def odd(spoil: str = "pass", length: int = 64, part: str = "train") -> str:
    splits = {"train": "Split(good)", "test": "Split(good)", part: "split"}
    return SOURCE.format(spoil=spoil, length=length, **splits)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


@pytest.mark.parametrize(
    "content",
    [gzip.compress(bytes(100)), bytes(100), b""],
    ids=["other content", "no gzip", "empty"],
)
def test_a_damaged_file_is_named_before_training_and_kept_as_bad(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """D2: it may be the user's only copy of something; nothing of a run is begun."""
    path = Path("data/FashionMNIST/raw/train-images-idx3-ubyte.gz")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert command(ROOT / "recipes" / "fashion_mlp.py", "name=r", "threads=1") == 4
    assert str(path) in said(capsys)
    assert path.with_name(f"{path.name}.bad").read_bytes() == content
    assert not path.exists()
    assert not Path("checkpoints").exists()


def test_a_source_that_fails_in_training_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """D5: the error is the source's own; what was committed before stays."""
    fails = "if len(index) > 2 and 40 in index: raise OSError(5, f'no sample {index[0]}')"
    assert run(odd(fails), "checkpoint_every=1") == 3
    words = said(capsys)
    assert "tiny.py:" in words
    assert "raised OSError: [Errno 5] no sample" in words
    assert json.loads((RUN / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_split_without_samples_is_refused_at_the_start(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """D8: which of the two it is, is said."""
    assert run(odd(length=0, part=part)) == 4
    assert f"the {part} split of tiny.py has no sample" in said(capsys)
    assert not Path("checkpoints").exists()


def test_less_data_than_one_batch_is_refused_at_the_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """D8: an epoch would have no step."""
    assert run(odd(length=15)) == 2
    assert "batch_size=16 is more than the 15 training samples" in said(capsys)
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("batch['label'][-1] = 4", "sample 1 of the {} split has label 4, but there are 4 classes"),
        ("batch['label'][0] = -7", "sample 0 of the {} split has label -7"),
        ("batch['image'][-1, 0, 2] = torch.nan", "sample 1 of the {} split is not finite"),
        ("batch['image'][0] = torch.inf", "sample 0 of the {} split is not finite"),
    ],
)
def test_a_label_or_a_pixel_that_is_none_is_refused_before_training(
    part: str, spoil: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """D9: on a GPU such a label would end the process without a word about the sample."""
    assert run(odd(spoil, part=part)) == 4
    assert words.format(part) in said(capsys)
    assert not Path("checkpoints").exists()


def test_a_pixel_that_is_none_later_is_named_with_the_samples_of_its_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """D9: only two samples are looked at before training; the guard sees the others."""
    assert run(odd("batch['image'][index == 50] = torch.nan"), "batch_size=8") == 6
    samples = re.search(r"whose samples are ([\d, and]+)", said(capsys))
    assert samples is not None
    assert "50" in re.findall(r"\d+", samples[1])


PIXEL = """
def data(hparams):
    whole = sources.synthetic("train", 64, (1, 4, 4), 4)
    image = whole.image.clone()
    image[17, 0, 1, 1] = int(os.environ["PIXEL"])
    train = sources.Arrays(image, whole.label, whole.classes)
    good = Split(sources.synthetic("test", 40, (1, 4, 4), 4))
    return Data(train=Split(train), test=good, prepare=augment.normalize((0.5,), (0.5,)))
"""


def test_one_pixel_that_changed_between_two_attempts_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """D7: and to go on in spite of it has to be said."""
    more = ("epochs=3", "--allow-change", "epochs")
    monkeypatch.setenv("PIXEL", "1")
    assert run(PIXEL) == 0
    monkeypatch.setenv("PIXEL", "2")
    assert run(PIXEL, *more) == 5
    assert "the data is not what the run in checkpoints/r was begun with" in said(capsys)
    assert run(PIXEL, *more, "--allow-change", "data") == 0
    assert json.loads((RUN / "run.json").read_text())["exact"] is False
