"""The average of the weights over training, which takes their place in evaluations.

Polyak, Juditsky: Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim.
1992; as an exponential average that begins as the plain mean: Tarvainen, Valpola: Mean teachers are
better role models, NIPS 2017, section 3.

Whoever evaluates, predicts or exports a run's weights asks here which:

    with in_use(parts.model, parts.average): ...   # the model as evaluations see it
    put(model, found.weights)                      # of a checkpoint, by name
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's parameters and floating buffers after each of its steps.

    After step t, from 0, it is moved towards the model by `1 - min(decay, t / (t + 1))`: until
    `decay` is reached it is the mean of all steps so far, so that a short run is not weighed down
    by its first weights. What is not floating, or not finite from the beginning, as a mask, is
    the model's own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begins as the model is; `decay` in (0, 1)."""
        self.decay = decay
        self._model = model
        self.tensors = {name: value.clone() for name, value in model.state_dict().items()}
        self._averaged = {name for name, value in self.tensors.items() if _has_a_mean(value)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint holds; from the model as it is where that is nothing, since
        the run did not average until then."""
        saved = tensors or self._model.state_dict()
        for name, tensor in self.tensors.items():
            tensor.copy_(saved[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """The model has made its step number `step`, from 0."""
        average, now = [], []
        for name, value in self._model.state_dict().items():
            if name in self._averaged:
                average.append(self.tensors[name])
                now.append(value)
            else:
                self.tensors[name].copy_(value)
        torch._foreach_lerp_(average, now, 1 - min(self.decay, step / (step + 1)))


def _has_a_mean(tensor: Tensor) -> bool:
    """Infinity on the way to itself is NaN."""
    return (tensor.is_floating_point() or tensor.is_complex()) and bool(tensor.isfinite().all())


@contextmanager
def in_use(model: nn.Module, average: Average | None) -> Iterator[None]:
    """The model with the weights that evaluations use: the average, where there is one. Afterwards
    it has its own again, to the last bit."""
    if average is None:
        yield
        return
    own = {name: value.clone() for name, value in model.state_dict().items()}
    put(model, average.tensors)
    try:
        yield
    finally:
        put(model, own)


@torch.no_grad()
def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Weights by name into the model's own tensors: an optimizer, DDP and CUDA graphs hold on to
    them."""
    for name, value in model.state_dict().items():
        value.copy_(tensors[name])
