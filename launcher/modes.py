"""A model out of training for a moment, and as it was before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in.

    Each one, since a recipe may keep a part that it froze in evaluation mode.
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training


def remembered(model: nn.Module) -> Callable[[], None]:
    """What puts its parameters and buffers back: the same tensors, with the values of now.

    The values are copied to the host, which has room for them, since each checkpoint begins with
    such a copy; a device may have none.
    """
    places: list[tuple[dict[str, Any], dict[str, Any]]] = []
    values: dict[Tensor, Tensor] = {}
    for part in model.modules():
        for place in (part._parameters, part._buffers):
            places.append((place, dict(place)))
            for tensor in place.values():
                if tensor is not None and tensor not in values:
                    values[tensor] = tensor.detach().to("cpu", copy=True)

    @torch.no_grad()
    def put_back() -> None:
        for place, before in places:
            place.clear()
            place.update(before)
        for tensor, value in values.items():
            tensor.copy_(value)

    return put_back
