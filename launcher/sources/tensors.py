"""Tensors in memory, of any kind: for what is no image of bytes, and for regression."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher.data import Batch
from launcher.errors import DataError
from launcher.rng import Int64s


class Tensors:
    """A source of samples in memory, on the host or on a device."""

    def __init__(
        self, parts: Mapping[str, Tensor], classes: tuple[str, ...] | None, fingerprint: str | None
    ) -> None:
        """`parts` all have one length; the first that is neither label nor target is the input."""
        self.parts = dict(parts)
        self.classes = classes
        inputs = [part for name, part in parts.items() if name not in ("label", "target")]
        self.shape: tuple[int, ...] = tuple(parts.get("image", inputs[0]).shape[1:])
        self._known = fingerprint

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, index: Int64s) -> Batch:
        device = next(iter(self.parts.values())).device
        where = torch.from_numpy(index).to(device, non_blocking=True)
        return {name: part.index_select(0, where) for name, part in self.parts.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Of names, types, shapes and content, and of the classes."""
        if self._known is not None:
            return self._known
        digest = hashlib.sha256(repr(self.classes).encode())
        for name, part in sorted(self.parts.items()):
            digest.update(repr((name, str(part.dtype), tuple(part.shape))).encode())
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(part.nbytes for part in self.parts.values())

    def to(self, device: torch.device) -> "Tensors":
        """The same source with its tensors on the device."""
        moved = {name: part.to(device) for name, part in self.parts.items()}
        return Tensors(moved, self.classes, self.fingerprint)


def tensors(
    *, label: Any = None, target: Any = None, classes: Sequence[str] | None = None,
    fingerprint: str | None = None, **inputs: Any,
) -> Tensors:  # fmt: skip
    """Samples in memory: `tensors(image=..., label=...)`, `tensors(image=..., target=...)`.

    Everything is a tensor or a numpy array whose first dimension is the sample, all of one length.
    Inputs keep their type and go by their names in a batch; `image` is the one that has the
    source's `shape`, or else the first. `label`: whole numbers (N,), given as int64; `classes` are
    their names, by default the numbers from 0 to the largest label. `target`: finite numbers of a
    floating type (N, ...), given as float32, for regression or for several labels a sample (0 or 1
    for each): then there are no classes. Nothing is copied that has its type already: leave it as
    it is while a run goes on.

    The fingerprint is of the content unless it is given, which saves reading it all. Raises
    DataError for what does not fit together.
    """
    if not inputs or (label is None) == (target is None):
        raise DataError(
            "tensors in memory need an input and either label= (whole numbers) or target= "
            "(floating numbers): tensors(image=..., label=...)."
        )
    parts = {name: _tensor(name, value) for name, value in inputs.items()}
    names = None
    if label is not None:
        parts["label"] = _label(_tensor("label", label))
        if len(parts["label"]):
            names = _classes(parts["label"], classes)
    else:
        if classes is not None:
            raise DataError("classes= belong to label=; a target= has none.")
        parts["target"] = _target(_tensor("target", target))
    lengths = {name: len(part) for name, part in parts.items()}
    if len({*lengths.values()}) > 1 or not all(lengths.values()):
        counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(f"tensors in memory must have one length, at least 1: {counts}.")
    return Tensors(parts, names, fingerprint)


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        try:
            native = np.require(value, value.dtype.newbyteorder("="), ["C", "W"])
            value = torch.from_numpy(native)
        except TypeError as error:
            raise DataError(f"{name} has the type {value.dtype}, which torch has not.") from error
    if not isinstance(value, Tensor) or value.ndim == 0:
        what = "no dimension" if isinstance(value, Tensor) else f"the type {type(value).__name__}"
        raise DataError(
            f"{name} must be a tensor or a numpy array with one entry a sample; it has {what}."
        )
    return value.detach()


def _label(label: Tensor) -> Tensor:
    kind = label.dtype
    if kind.is_floating_point or kind.is_complex or kind == torch.bool or label.ndim != 1:
        raise DataError(
            f"label must be whole numbers of shape (N,); it is {kind} of shape "
            f"{tuple(label.shape)}. For regression, and for several labels a sample (multi-hot), "
            f"give target= of a floating type."
        )
    return label.long()


def _classes(label: Tensor, names: Sequence[str] | None) -> tuple[str, ...]:
    count = int(label.max()) + 1 if names is None else len(names)
    wrong = torch.nonzero((label < 0) | (label >= count)).flatten()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"sample {first} has label {int(label[first])}, but labels are from 0 to {count - 1} "
            f"({len(wrong)} samples have such labels)."
        )
    return tuple(map(str, range(count) if names is None else names))


def _target(target: Tensor) -> Tensor:
    if not target.dtype.is_floating_point:
        raise DataError(
            f"target must be of a floating type; it is {target.dtype}. For classes give label=."
        )
    target = target.float()
    wrong = torch.nonzero(~target.isfinite().reshape(len(target), -1).all(1)).flatten()
    if len(wrong):
        raise DataError(
            f"the target of sample {int(wrong[0])} is not finite as float32 ({len(wrong)} samples "
            f"have such targets)."
        )
    return target
