"""What a checkpoint will hold, copied to the host, so that training can go on while it is written.

The copies go into memory that is kept from save to save: fresh memory would cost more than the
copy. On the CPU too they must be copies, since `.cpu()` of a tensor there is the tensor itself.
"""

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.slots import slots_of
from launcher.together import Together, kind_of

_OF_NUMPY: Final = (torch.float64, torch.float32, torch.float16)
"""The kinds of floating point that NumPy has too."""


@dataclass(frozen=True)
class Snapshot:
    """One step's weights, optimizer state and state of the run, on the host."""

    step: int
    model: Mapping[str, Tensor]
    kind: str
    """The optimizer's class."""
    optimizer: Mapping[str, Tensor]
    state: bytes
    """state.json"""
    average: Mapping[str, Tensor]
    """What evaluation uses in place of the weights; empty where it uses them."""
    parameters: Set[str]
    """Names in `model` of what is trained."""

    @property
    def nbytes(self) -> int:
        tensors = [*self.model.values(), *self.optimizer.values(), *self.average.values()]
        return sum(tensor.nbytes for tensor in tensors) + len(self.state)

    def is_finite(self) -> bool:
        """Whether all that is trained is. NumPy and not torch: this runs beside training, and torch
        would start a second team of threads."""
        return all(_is_finite(self.model[name]) for name in self.parameters)


class Host:
    """Takes snapshots into the same memory again and again: one at a time is valid."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}

    def take(
        self, step: int, model: nn.Module, optimizer: Optimizer | Together,
        state: Mapping[str, Any], average: Mapping[str, Tensor] | None = None,
    ) -> Snapshot:  # fmt: skip
        """Copy everything; waits for the device. Raises CheckpointError for optimizer state that
        is neither tensor nor number."""
        weights = model.state_dict()
        tensors, numbers = slots_of(model, optimizer)
        document = dict(state) | {"step": step, "slots": numbers}
        taken = Snapshot(
            step=step,
            model=self._copied("model/", weights),
            kind=kind_of(optimizer),
            optimizer=self._copied("optimizer/", tensors),
            state=json_bytes(document),
            average=self._copied("average/", average or {}),
            parameters=weights.keys() & {n for n, p in model.named_parameters() if p.requires_grad},
        )
        if any(tensor.is_cuda for tensor in weights.values()):
            torch.cuda.current_stream().synchronize()
        return taken

    def _copied(self, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in tensors.items():
            copy = self._copies.get(prefix + name)
            if copy is None or (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype):
                # In the tensor's memory format: rearranging is left to the writer.
                copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
                self._copies[prefix + name] = copy
            found[name] = copy.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        return found


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Strict JSON that is the same for equal documents."""
    return json.dumps(document, sort_keys=True, allow_nan=False, indent=1).encode()


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() and not tensor.is_complex():
        return True
    if tensor.is_floating_point() and tensor.dtype not in _OF_NUMPY:
        tensor = tensor.float()
    return bool(np.isfinite(tensor.numpy()).all())
