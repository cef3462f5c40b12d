"""The two that are tortured: the launcher's checkpoints, and Accelerate's `save_state`.

Both train a small model of which every weight and every momentum is the number of the step, so that
any mixture of two steps shows. Both keep one checkpoint.
"""

import os
import random
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import Tensor, nn
from torch.optim import SGD

from launcher import checkpoint
from launcher.checkpoint import Checkpoint
from launcher.errors import CheckpointError

_MEMORY = "/dev/shm"


@contextmanager
def scratch(*, in_memory: bool = True) -> Iterator[Path]:
    """A folder to break things in: where only the order of calls counts, in memory if it can be."""
    there = in_memory and os.access(_MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="torture-", dir=_MEMORY if there else None) as folder:
        yield Path(folder)


def made(width: int, step: int = 0) -> tuple[nn.Linear, SGD]:
    """A model and an optimizer as they are at a step."""
    model = nn.Linear(width, width)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter)
    put(step, model, optimizer)
    return model, optimizer


def put(step: int, model: nn.Module, optimizer: Any) -> None:
    """Train until a step, in no time."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(step)
            optimizer.state[parameter]["momentum_buffer"].fill_(step)


def is_of(step: int, *tensors: Tensor) -> bool:
    """Whether all tensors are those of one step."""
    return bool(tensors) and all(bool((tensor == step).all()) for tensor in tensors)


def is_whole(found: Checkpoint) -> bool:
    """Whether a checkpoint of the launcher is what was saved at its step, and nothing else."""
    tensors = (*found.model.values(), *found.optimizer.values())
    return (
        is_of(found.step, *tensors)
        and sorted(found.model) == ["bias", "weight"]
        and len(found.optimizer) == 2
        and found.state == {"at": found.step, "step": found.step}
    )


class LauncherSubject:
    """A run folder of the launcher."""

    def __init__(self, run: Path, width: int) -> None:
        self.run = run
        self._model, self._optimizer = made(width)

    def save(self, step: int) -> None:
        """Save and then make room, as training does."""
        put(step, self._model, self._optimizer)
        checkpoint.save(self.run, step, self._model, self._optimizer, {"at": step})
        checkpoint.prune(self.run, keep=1)

    def load(self) -> tuple[str, int]:
        """What the next start finds: `whole`, `torn`, `unusable` or `none`, and the step."""
        checkpoint.tidy(self.run)
        try:
            found, _ = checkpoint.newest(self.run)
        except CheckpointError:
            return "unusable", 0
        if found is None:
            return "none", 0
        return ("whole" if is_whole(found) else "torn"), found.step


class AccelerateSubject:
    """A project folder of Accelerate, used as its documentation says: named and kept by it."""

    def __init__(self, run: Path, width: int) -> None:
        automatic = ProjectConfiguration(
            project_dir=str(run), automatic_checkpoint_naming=True, total_limit=1
        )
        self.folder = run / "checkpoints"
        self._accelerator = Accelerator(cpu=True, project_config=automatic)
        self._model, self._optimizer = self._accelerator.prepare(*made(width))

    def save(self, step: int) -> None:
        """Save as `checkpoint_STEP`; Accelerate makes room first."""
        put(step, self._model, self._optimizer)
        _seed(step)
        self._accelerator.project_configuration.iteration = step
        self._accelerator.save_state()

    def load(self) -> tuple[str, int]:
        """What `load_state` makes of the newest folder; Accelerate takes no other."""
        folders = {
            int(re.sub(r"\D", "", path.name)): path for path in self.folder.glob("checkpoint_*")
        }
        if not folders:
            return "none", 0
        step = max(folders)
        put(0, self._model, self._optimizer)
        _seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._accelerator.load_state(str(folders[step]))
        except Exception:  # whatever it is: the user has no checkpoint
            return "unusable", 0
        momenta = [self._optimizer.state[p]["momentum_buffer"] for p in self._model.parameters()]
        if not is_of(step, *self._model.parameters(), *momenta):
            return "torn", step
        return ("whole" if _is_seeded(step) else "without its random state"), step


def _seed(step: int) -> None:
    random.seed(step)
    torch.manual_seed(step)


def _is_seeded(step: int) -> bool:
    """Whether the random states are those of a step."""
    return (
        random.getstate() == random.Random(step).getstate()
        and bool((torch.get_rng_state() == torch.Generator().manual_seed(step).get_state()).all())
    )  # fmt: skip
