"""Exact averages over a split, on any number of processes.

The split is cut into blocks that do not depend on the number of processes. Each process computes
every n-th block and writes its samples' numbers at their places in one vector; adding the vectors
of all processes adds nothing but zeros, so that every process ends with the same numbers, to the
last bit those of one process alone. The last block is padded to full size, so that the model sees
one shape, and the padding's numbers are dropped.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from launcher import draws
from launcher.data import Batch, Data, Gather, Task, finish, gathered
from launcher.errors import RecipeError
from launcher.matching import numbered
from launcher.modes import evaluating
from launcher.rng import EVALUATE, Int64s, SampleRng, torch_seed
from launcher.sources.decoded import Decoded
from launcher.verdicts import Verdicts

BLOCK: Final = 256
"""Samples in one forward pass of an evaluation: a constant, so that no setting changes a score."""
MOST_NAMED: Final = 1_000
"""Classes with a number of their own in every record: a hundred times as many would make a record
of megabytes."""

Metrics = Callable[[nn.Module, Batch], dict[str, Tensor]]
Total = Callable[[Tensor], Tensor]


def scores(
    model: nn.Module, metrics: Metrics, data: Data, device: torch.device, *, seed: int,
    process: int = 0, processes: int = 1, total: Total | None = None,
    before: Callable[[list[int]], None] | None = None, gather: Gather | None = None,
    verdicts: Verdicts | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Every metric of every test sample, in the split's order: float32, (samples,), on the host.

    `total` is the sum of a tensor over all processes; `before` seeds the generators, before each
    block, for transforms that do not draw from `SampleRng`; `gather` makes the blocks, perhaps
    ahead and elsewhere; `verdicts` notes what the model said. The model's modes are left as they
    were.
    """
    samples = len(data.test.source)
    block = min(BLOCK, samples)
    found: dict[str, Tensor] = {}
    # A process without a block computes the first one for its shape and keeps nothing.
    firsts = range(process * block, samples, processes * block) or (0,)
    tasks = (Task(_padded(first, block, samples), (EVALUATE,)) for first in firsts)
    batches = gather(tasks) if gather else gathered(data.test.source, tasks, seed)
    verdicts = verdicts or Verdicts(0)  # which notes nothing
    draws.begin(seed, draws.EVALUATION)
    with evaluating(model), verdicts.noting(model, samples, device):
        for first, batch in zip(firsts, batches, strict=True):
            index = _padded(first, block, samples)
            if before is not None:
                before([torch_seed(seed, EVALUATE, first)])
            batch = finish(data, data.test, batch, SampleRng(seed, 0, index), device)
            mine = first // block % processes == process
            real = min(block, samples - first) if mine else 0
            with numbered("test", index):
                line = metrics(model, batch)
            for name, values in checked(line, block, found).items():
                place = found.setdefault(name, torch.zeros(samples, device=device))
                place[first : first + real] = values[:real] + 0.0  # -0.0 does not survive a sum
            verdicts.keep(first, block, real)
        verdicts.gather(total)
    if total is not None and found:
        # In the recipe's order, which is that of every process.
        found = dict(zip(found, total(torch.stack([*found.values()])), strict=True))
    return {name: values.cpu() for name, values in found.items()}


def _padded(first: int, block: int, samples: int) -> Int64s:
    """A block's samples; the last one is repeated to full size."""
    return np.minimum(np.arange(first, first + block, dtype=np.int64), samples - 1)


def checked(values: Any, samples: int, before: Mapping[str, object]) -> dict[str, Tensor]:
    """What a recipe's metrics returned. Raises RecipeError unless it is one number per sample, by
    the same names as before."""
    names = sorted(values) if isinstance(values, dict) else None
    if not names or (before and names != sorted(before)):
        what = type(values).__name__ if names is None else f"{names}"
        raise RecipeError(
            f"recipe.metrics must return a dict of metrics, the same ones each time; it returned "
            f"{what}" + (f" after {sorted(before)}." if before else ".")
        )
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.shape != (samples,):
            what = str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
            raise RecipeError(
                f"recipe.metrics must return one number per sample; {name!r} is {what} for "
                f"{samples} samples."
            )
    found: dict[str, Tensor] = values
    return found


def averages(found: dict[str, Tensor], data: Data) -> dict[str, float | None]:
    """`test/<metric>` for each metric, and `test/accuracy/<class>` where there are classes.

    A class without a test sample has no line, and where there are more than `MOST_NAMED` classes
    none has; an average that is not finite is None.
    """
    line = {f"test/{name}": _mean(values) for name, values in found.items()}
    if 0 < len(data.classes) <= MOST_NAMED and "accuracy" in found:
        label = labels(data)
        count = torch.bincount(label)
        means = torch.bincount(label, found["accuracy"].double()) / count
        for number in count.nonzero().flatten().tolist():
            mean = means[number].item()
            name = f"test/accuracy/{data.classes[number]}"
            line[name] = mean if math.isfinite(mean) else None
    return line


def _mean(values: Tensor) -> float | None:
    mean = values.double().mean().item()
    return mean if math.isfinite(mean) else None


def labels(data: Data) -> Tensor:
    """The label of every test sample: int64, (samples,), on the host."""
    source = data.test.source
    if isinstance(source, Decoded):
        return source.labels()
    parts = [
        source[np.arange(first, min(first + BLOCK, len(source)), dtype=np.int64)]["label"].cpu()
        for first in range(0, len(source), BLOCK)
    ]
    return torch.cat(parts)
