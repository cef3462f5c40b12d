"""Whether what processes do not average is the same in all of them.

A buffer of whole numbers or of truth has no mean that it could hold, so that each process keeps
what its own samples made of it. A checkpoint holds the first process's alone.
"""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from launcher.agree import table
from launcher.errors import RecipeError, counted, listed
from launcher.strategy import World


def refuse_differences(world: World, model: nn.Module, step: int) -> None:
    """Compare what a checkpoint would hold beside floating-point numbers. A collective, of a number
    for each process while they are the same.

    Raises RecipeError on every process when another one has other values than the first.
    """
    if world.total is None:
        return
    hashes = {name: _hash(value) for name, value in _discrete(model)}
    if not _differing(world, [hashes]):
        return
    # Columns need the same names everywhere.
    names = [] if _differing(world, [sorted(hashes)]) else list(hashes)
    differing = [names[n] for n in _differing(world, list(hashes.values()))] if names else []
    raise RecipeError(
        f"after {counted(step, 'step')} the processes have different values of "
        f"{listed(differing) or 'buffers of different names'}, and a checkpoint holds those of one "
        f"process. Make what training changes by a process's own samples a floating-point buffer, "
        f"whose changes are averaged over micro-batches and processes, or use one process."
    )


def _differing(world: World, values: Sequence[object]) -> list[int]:
    """The places of what is not the same in all processes."""
    rows = table(world, values)
    return torch.nonzero((rows != rows[0]).any(0)).flatten().tolist()


def _discrete(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.state_dict().items():
        if not (value.is_floating_point() or value.is_complex()):
            yield name, value


def _hash(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
