"""A saved checkpoint of the launcher and one of Accelerate, and what each loader makes of them.

Their tensors are drawn, so that a changed byte is a changed value. `load` gives `refused`, `same`
when all that was saved came back, or `altered` when it loads without an error what was not saved.
"""

import logging
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, StepLR

from launcher import checkpoint
from launcher.errors import CheckpointError

WIDTH = 8
STEP = 20


def _drawn(seed: int) -> tuple[nn.Linear, SGD]:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(WIDTH, WIDTH)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            momentum = torch.randn(parameter.shape, generator=generator)
            optimizer.state[parameter]["momentum_buffer"] = momentum
    return model, optimizer


class LauncherLoader:
    """A checkpoint of the launcher, and `checkpoint.read`."""

    def __init__(self, run: Path, seed: int) -> None:
        self.folder = checkpoint.folder_of(run, STEP)
        self._run = run
        model, optimizer = _drawn(seed)
        checkpoint.save(run, STEP, model, optimizer, {"loss": 0.25, "best": None})
        self._saved = self._read()

    def load(self) -> str:
        """What `read` makes of the folder."""
        try:
            return "same" if _equal(self._read(), self._saved) else "altered"
        except CheckpointError:
            return "refused"

    def _read(self) -> list[Any]:
        return list(vars(checkpoint.read(self._run, STEP)).values())


class Counter:
    """Something of the user's that Accelerate saves too, as it is asked to."""

    def __init__(self) -> None:
        self.count = 7

    def state_dict(self) -> dict[str, int]:
        """What is saved."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """What is loaded."""
        self.count = state["count"]


class AccelerateLoader:
    """A checkpoint of Accelerate with a schedule and an object of the user's, and `load_state`."""

    def __init__(self, run: Path, seed: int) -> None:
        logging.getLogger("accelerate").setLevel(logging.ERROR)
        self.folder = run / "state"
        self._seed = seed
        self._accelerator = Accelerator(cpu=True)
        self._model, self._optimizer, self._schedule = self._prepared(seed)
        self._counter = Counter()
        self._accelerator.register_for_checkpointing(self._counter)
        _seed(seed)
        self._accelerator.save_state(str(self.folder))
        self._saved = self._state()

    def load(self) -> str:
        """What `load_state` makes of the folder, from a state that is another one."""
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.zero_()
                self._optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self._counter.count = 0
        _seed(0 if self._seed else 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._accelerator.load_state(str(self.folder))
            return "same" if _equal(self._state(), self._saved) else "altered"
        except Exception:  # whatever it is, the user sees it
            return "refused"

    def _prepared(self, seed: int) -> tuple[nn.Module, SGD, LRScheduler]:
        model, optimizer = _drawn(seed)
        prepared: Any = self._accelerator.prepare(model, optimizer, StepLR(optimizer, 3))
        model, optimizer, schedule = prepared
        return model, optimizer, schedule

    def _state(self) -> list[Any]:
        optimizer = self._optimizer.state_dict()
        return [
            {name: value.clone() for name, value in self._model.state_dict().items()},
            [dict(slots) for slots in optimizer["state"].values()],
            [dict(group) for group in optimizer["param_groups"]],
            dict(self._schedule.state_dict()),
            self._counter.count,
            random.getstate(),
            [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()],
            torch.get_rng_state(),
        ]


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


Loader = LauncherLoader | AccelerateLoader
LOADERS: dict[str, Callable[[Path, int], Loader]] = {
    "launcher": LauncherLoader,
    "accelerate": AccelerateLoader,
}


def _equal(first: Any, second: Any) -> bool:
    """Equality to the bit, through lists and mappings, with tensors and what is not a number."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            return False
        return first.numpy().tobytes() == second.numpy().tobytes()
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)
