"""Any map-style Dataset of torch as a source."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher.data import Batch
from launcher.errors import DataError, RecipeError
from launcher.sources.decoded import Decoded, decode

Collate = Callable[[list[Any]], Any]


class FromDataset(Decoded):
    """A source that asks a Dataset for one sample after the other."""

    def __init__(
        self, dataset: Any, collate: Collate | None, classes: tuple[str, ...] | None,
        shape: tuple[int, ...] | None, fingerprint: str,
    ) -> None:  # fmt: skip
        self.dataset = dataset
        self.classes = classes
        self._collate = collate
        self._shape = shape
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, number: int) -> Any:
        """What the dataset gives."""
        return self.dataset[number]

    @property
    def transform(self) -> Any:
        """The dataset's attribute of this name, or that of the one it is a part of."""
        return _attribute(self.dataset, "transform")

    def where(self, number: int) -> str:
        """`CIFAR10[7]`, by the name of the dataset's class, and of the one it is a part of."""
        names = [f"{type(dataset).__name__}[{at}]" for dataset, at in _within(self.dataset, number)]
        return ", ".join(names)

    def collate(self, samples: Sequence[Any]) -> Batch:
        """A batch by the given function, or by torch's own, with its parts named.

        Raises RecipeError for what is no batch.
        """
        if self._collate is None:
            batch = _named(_stacked(list(samples)))
        else:
            batch = _named(self._collate(list(samples)))
        for name, value in batch.items():
            if not isinstance(value, Tensor) or not value.ndim or len(value) != len(samples):
                what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise RecipeError(
                    f"a batch of {len(samples)} samples from a Dataset must hold tensors with that "
                    f"many entries, and its {name!r} is {what}: give from_dataset a collate=."
                )
        return batch

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one image or input: as given, or that of sample 0, which is made once."""
        if self._shape is not None:
            return self._shape
        batch = decode(self, np.zeros(1, np.int64), 0)
        inputs = [value for name, value in batch.items() if name not in ("label", "target")]
        return tuple(batch.get("image", inputs[0] if inputs else torch.empty(1)).shape[1:])

    @property
    def fingerprint(self) -> str:
        """As given, or of the dataset's type and length."""
        return self._fingerprint


def from_dataset(
    dataset: Any, collate: Collate | None = None, classes: Sequence[str] | None = None,
    shape: Sequence[int] | None = None, fingerprint: str | None = None,
) -> FromDataset:  # fmt: skip
    """Any map-style Dataset of torch: what has `len` and gives sample `number` as `[number]`.

    Samples are pairs (image, label) or dicts; torch's default_collate makes a batch of them, or
    `collate`, which takes the list of samples as a DataLoader's does. What comes out, a pair or a
    dict again, must hold tensors whose first dimension is the sample. A pair's second part becomes
    `label` if it is of whole numbers and `target` if it is of a floating type; labels are given as
    int64, targets as float32. Samples may draw from torch's, Python's and numpy's global
    generators, which are seeded for each of them.

    `classes`: names of the labels 0, 1, ...; by default `dataset.classes`, if it has that, or for a
    Subset, as random_split makes them, that of its dataset. Without them labels are not checked.
    `shape`: of one image; by default that of sample 0, which is then made once more. `fingerprint`:
    a text that is another one when the content is; the default knows the type and the number of
    samples only, so that a run continues on changed content unseen.

    Raises RecipeError for what is no such Dataset or batch, DataError for a sample that fails.
    """
    kind = type(dataset)
    by_number = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    if not by_number or isinstance(dataset, torch.utils.data.IterableDataset):
        raise RecipeError(
            f"from_dataset takes a map-style Dataset, with __getitem__ and __len__; "
            f"{kind.__name__} is none."
        )
    found = _attribute(dataset, "classes") if classes is None else classes
    names = tuple(map(str, found)) if isinstance(found, Iterable) else None  # some keep a number
    if fingerprint is None:
        text = f"{kind.__module__}.{kind.__qualname__} {len(dataset)}"
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return FromDataset(
        dataset, collate, names, None if shape is None else tuple(shape), fingerprint
    )


def _within(dataset: Any, number: int) -> Iterator[tuple[Any, int]]:
    """A dataset and its sample, and, while it is a Subset, what it is a part of and which of that
    the sample is."""
    yield dataset, number
    while isinstance(dataset, torch.utils.data.Subset) and number < len(dataset.indices):
        dataset, number = dataset.dataset, int(dataset.indices[number])
        yield dataset, number


def _attribute(dataset: Any, name: str) -> Any:
    """An attribute of a dataset, or of what it is a part of; None where none has it."""
    while getattr(dataset, name, None) is None and isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    return getattr(dataset, name, None)


def _stacked(samples: list[Any]) -> Any:
    """By torch's own function; what it refuses is mostly one of two things."""
    from torch.utils.data import default_collate

    try:
        return default_collate(samples)
    except TypeError as error:
        raise RecipeError(
            f"torch's default_collate makes no batch of such samples of a Dataset: {error}. Give "
            f"it a transform that makes tensors, or from_dataset a collate=."
        ) from error
    except RuntimeError as error:
        raise DataError(
            f"samples of a Dataset do not fit into one batch: {error}. Give all of them one shape "
            f"and type, or give from_dataset a collate=."
        ) from error


def _named(found: Any) -> Batch:
    """A pair as `image` and `label` or `target`, with the types that losses take."""
    if isinstance(found, tuple | list) and len(found) == 2:
        image, answer = found
        floating = isinstance(answer, Tensor) and answer.is_floating_point()
        found = {"image": image, "target" if floating else "label": answer}
    if not isinstance(found, dict) or not found:
        what = f"{len(found)} parts" if isinstance(found, tuple | list) else type(found).__name__
        raise RecipeError(
            f"samples of a Dataset must be pairs (image, label) or dicts, and so must be what "
            f"collate makes of them; here are {what}. Give from_dataset a collate=."
        )
    batch = dict(found)
    if isinstance(label := batch.get("label"), Tensor):
        if label.is_floating_point():
            raise RecipeError("a Dataset's label must be a whole number; call another one target.")
        batch["label"] = label.long()
    if isinstance(target := batch.get("target"), Tensor):
        batch["target"] = target.float()
    return batch
