"""A network of two layers learns random numbers by heart: the classic regression of the tutorials.

accelerate launch -m launcher recipes/regression_mlp.py evaluate_every=100 checkpoint_every=100

Expect a summed squared error of 2.7e-7 after 500 steps (seed 0; the tutorial's own loop from the
same weights: the same within rounding), 3 s on a CPU with threads=1. An epoch is one step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from launcher import Batch, Data, Hparams, Recipe, Split, metrics, models, sources

SAMPLES, INPUTS, HIDDEN, OUTPUTS = 64, 1000, 100, 10


@dataclass(frozen=True, kw_only=True)
class RegressionHparams(Hparams):
    epochs: int = 500
    """Of one step each, with the batch size as it is."""
    batch_size: int = SAMPLES
    lr: float = 1e-4
    """Of Adam; it stays constant."""


def data(hparams: RegressionHparams) -> Data:
    numbers = torch.Generator().manual_seed(hparams.seed)
    source = sources.tensors(
        image=torch.randn(SAMPLES, INPUTS, generator=numbers),
        target=torch.randn(SAMPLES, OUTPUTS, generator=numbers),
    )
    return Data(train=Split(source), test=Split(source))  # there is nothing behind random numbers


def model(hparams: RegressionHparams, data: Data) -> nn.Module:
    return models.MLP(INPUTS, OUTPUTS, (HIDDEN,))


def optimizer(hparams: RegressionHparams, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=hparams.lr)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    # Summed over outputs and all samples: a mean over samples, so that micro-batches can be
    # averaged, times the number of samples.
    error = model(batch["image"]) - batch["target"]
    summed: Tensor = error.square().sum(1)
    return SAMPLES * summed.mean()


recipe = Recipe(
    hparams=RegressionHparams,
    data=data,
    model=model,
    optimizer=optimizer,
    loss=loss,
    metrics=metrics.regression,
)
