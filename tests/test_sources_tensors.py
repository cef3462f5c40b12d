"""Tensors in memory: any type, labels or targets, and refusals of what does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import command, write_recipe

from launcher import sources
from launcher.data import Resident
from launcher.errors import DataError

DTYPES = [
    torch.bool, torch.uint8, torch.uint16, torch.int16, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64,
]  # fmt: skip


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    numbers = torch.arange(int(np.prod(shape))).reshape(shape)
    return (numbers % 2 if dtype == torch.bool else numbers).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_of_any_type_keep_it(dtype: torch.dtype) -> None:
    image = some(dtype, 5, 2, 3)
    source = sources.tensors(image=image, label=torch.tensor([0, 1, 0, 1, 1]))
    batch = source[np.array([4, 0, 4], dtype=np.int64)]
    assert batch["image"].dtype == dtype
    assert torch.equal(batch["image"], image[[4, 0, 4]])
    assert batch["label"].tolist() == [1, 0, 1]
    assert (len(source), source.shape, source.classes) == (5, (2, 3), ("0", "1"))
    assert len(source.fingerprint) == 64


def test_a_batch_is_a_copy() -> None:
    source = sources.tensors(image=torch.zeros(3, 2), label=torch.zeros(3, dtype=torch.int64))
    source[np.array([0])]["image"].fill_(1)
    assert not source.parts["image"].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, ">i2", np.uint16])
def test_labels_of_any_whole_type_become_int64(dtype: Any) -> None:
    label = np.array([2, 0, 1]).astype(dtype)
    label.flags.writeable = False
    batch = sources.tensors(image=np.zeros((3, 2), ">f4"), label=label)[np.arange(3)]
    assert (batch["label"].dtype, batch["label"].tolist()) == (torch.int64, [2, 0, 1])
    assert batch["image"].dtype == torch.float32


def test_targets_become_float32_and_have_no_classes() -> None:
    source = sources.tensors(x=np.zeros((4, 7)), target=np.arange(8.0).reshape(4, 2))
    batch = source[np.array([3, 1])]
    assert batch["target"].dtype == torch.float32
    assert batch["target"].tolist() == [[6, 7], [2, 3]]
    assert (source.classes, source.shape) == (None, (7,))


def test_the_shape_is_that_of_the_image_or_of_the_first_input() -> None:
    label = torch.zeros(2, dtype=torch.int64)
    a, b = torch.zeros(2, 3), torch.zeros(2, 4, 4)
    assert sources.tensors(mask=a, image=b, label=label).shape == (4, 4)
    assert sources.tensors(second=a, first=b, label=label).shape == (3,)


def test_a_source_is_resident_and_keeps_its_fingerprint_on_the_way() -> None:
    source = sources.tensors(image=torch.rand(4, 2), label=torch.tensor([0, 1, 2, 0]))
    assert isinstance(source, Resident)
    assert source.nbytes == 4 * 2 * 4 + 4 * 8
    moved = source.to(torch.device("meta"))
    assert moved.parts["label"].device.type == "meta"
    assert moved.fingerprint == source.fingerprint
    assert (moved.shape, moved.classes) == (source.shape, source.classes)


def test_a_fingerprint_is_of_names_types_shapes_and_content() -> None:
    def of(**parts: Any) -> str:
        return sources.tensors(**parts).fingerprint

    x, label = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 1])
    found = [
        of(image=x, label=label),
        of(image=x + torch.tensor([0, 1e-6]), label=label),
        of(image=x.reshape(3, 1, 2), label=label),
        of(image=x.double(), label=label),
        of(other=x, label=label),
        of(image=x, label=torch.tensor([0, 1, 0])),
        of(image=x, label=label, classes=["a", "b"]),
        of(image=x, target=label.float()),
    ]
    assert len({*found}) == len(found)
    zeros = [
        of(image=torch.zeros(3, dtype=dtype), label=label) for dtype in (torch.int32, torch.float32)
    ]
    assert zeros[0] != zeros[1], "the same bytes"
    strided = torch.stack([x, x], 2)[..., 0]
    assert of(image=strided, label=label.clone()) == found[0]
    assert of(image=x, label=label, fingerprint="mine") == "mine"


ZEROS = torch.zeros(3, dtype=torch.int64)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"label": ZEROS}, "need an input"),
    "no answer": ({"image": torch.zeros(3)}, "need an input and either"),
    "two answers": ({"x": ZEROS, "label": ZEROS, "target": ZEROS.float()}, "either label="),
    "lengths": ({"x": torch.zeros(4), "label": ZEROS}, "one length.*x has 4, label has 3"),
    "empty": ({"x": torch.zeros(0), "label": ZEROS[:0]}, "at least 1: x has 0"),
    "no dimension": ({"x": torch.tensor(1), "label": ZEROS}, "x must be .*it has no dimension"),
    "a list": ({"x": [1, 2, 3], "label": ZEROS}, "x must be .*the type list"),
    "texts": ({"x": np.array(["a"]), "label": ZEROS}, "x has the type <U1, which torch has not"),
    "float labels": ({"x": ZEROS, "label": ZEROS.float()}, "label must be whole.*target="),
    "several labels": (
        {"x": ZEROS, "label": torch.zeros(len(ZEROS), 3)},
        "label must be whole numbers.*several labels a sample .multi-hot., give target=",
    ),
    "bool labels": ({"x": ZEROS, "label": ZEROS.bool()}, "label must be whole numbers"),
    "label columns": ({"x": ZEROS, "label": ZEROS[:, None]}, r"of shape \(3, 1\)"),
    "negative": ({"x": ZEROS, "label": ZEROS - 1}, r"sample 0 has label -1.*\(3 samples"),
    "beyond": ({"x": ZEROS, "label": ZEROS + 2, "classes": ["a", "b"]}, "label 2, but .* 0 to 1"),
    "whole targets": ({"x": ZEROS, "target": ZEROS}, "target must be of a floating type"),
    "not finite": (
        {"x": ZEROS, "target": torch.tensor([0, torch.nan, torch.inf])},
        r"target of sample 1 is not finite as float32 \(2 samples",
    ),
    "too large": ({"x": ZEROS, "target": torch.tensor([0, 0, 1e300]).double()}, "of sample 2"),
    "classes": ({"x": ZEROS, "target": ZEROS.float(), "classes": ["a"]}, "classes= belong to lab"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused(kind: str) -> None:
    parts, words = REFUSED[kind]
    with pytest.raises(DataError, match=words):
        sources.tensors(**parts)


REGRESSION = """
def data(hparams):
    x = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    source = sources.tensors(image=x, target=x.sum(1, keepdim=True))
    return Data(train=Split(source), test=Split(source))


def model(hparams, data):
    return nn.Linear(3, 1)


loss = losses.mse


def metrics(model, batch):
    return {"error": (model(batch["image"]) - batch["target"]).square().mean(1)}


better = {"error": "smaller"}
"""


def test_a_run_learns_a_regression(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(REGRESSION)
    assert command(recipe, "epochs=20", "monitor=test/error", "name=sum") == 0
    last = (Path("checkpoints") / "sum" / "metrics.jsonl").read_text().splitlines()[-1]
    assert '"test/error"' in last
    assert ", no classes" in capsys.readouterr().out
