"""Ending loader processes leaves no word on standard error and no process."""

import gc
import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import torch

from launcher.data import Batch, Task
from launcher.loader import Loader, Origin
from launcher.rng import Int64s


class Slow:
    """A source whose worker is always in the middle of something."""

    classes = ("one", "two")
    shape = (1, 2, 2)
    fingerprint = "slow"

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: Int64s) -> Batch:
        return self.draw(index, 0)

    def draw(self, index: Int64s, seed: int, *words: int) -> Batch:
        time.sleep(0.05)
        return {"label": torch.from_numpy(index)}


def test_workers_end_in_silence_while_they_work() -> None:
    """Torch's handler of SIGCHLD raised wherever the main thread was; here that is an error."""
    before = signal.getsignal(signal.SIGCHLD)
    origin = Origin(Path("none.py"), "", "{}", Path("data"), "train")
    for _ in range(3):
        loader = Loader(Slow(), origin, 0, workers=2)
        batches = loader([Task(np.arange(4, dtype=np.int64))] * 20)
        next(batches)
        loader.close()
        del batches
        gc.collect()
        assert not multiprocessing.active_children()
    loader.close()  # a second time is nothing
    assert callable(signal.getsignal(signal.SIGCHLD)) or before is signal.SIG_DFL
