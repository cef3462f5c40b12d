"""How many loader processes a run has, and the loaders of both its splits."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from launcher import settings as fields
from launcher.ahead import Ahead
from launcher.data import Data, Drawn, Resident
from launcher.evaluate import BLOCK
from launcher.loader import Loader, Origin, check_shared_memory
from launcher.plan import Plan
from launcher.recipe import Loaded
from launcher.settings import Hparams, RunSettings
from launcher.strategy import World
from launcher.tuned import Tuned, key, lookup

MOST_GUESSED = 8


@dataclass(frozen=True)
class Loaders:
    """Of one process; workers and threads begin with the first batch that is asked for."""

    train: Loader | Ahead
    test: Loader | Ahead
    how: str
    """Why there are as many workers as there are, for the banner."""

    @classmethod
    def of(
        cls, loaded: Loaded, hparams: Hparams, settings: RunSettings, world: World, data: Data,
        plan: Plan, *, resident: bool = False,
    ) -> "Loaders":  # fmt: skip
        """The loaders of one process of a run, not begun yet; `resident`: what is in memory is on
        the device already. Raises DataError when what they would make ahead does not fit into
        shared memory."""
        workers, how, tuned = choose(loaded, hparams, settings, world, data, plan)
        if workers and isinstance(data.train.source, Drawn):
            one = data.train.source.draw(np.zeros(1, dtype=np.int64), hparams.seed)
            size = max(BLOCK, plan.micro_batch_size * world.devices)
            batch = {name: value.expand(size, *value.shape[1:]) for name, value in one.items()}
            check_shared_memory(batch, workers, tuned.prefetch)
        made: dict[str, Loader | Ahead] = {}
        for part in ("train", "test"):
            source = data.train.source if part == "train" else data.test.source
            if world.device.type == "cuda" and isinstance(source, Resident) and not resident:
                made[part] = Ahead(source, world.device)
                continue
            origin = Origin(
                path=loaded.path, sha256=loaded.sha256, part=part,
                hparams=json.dumps(fields.as_json(hparams)), data_dir=Path(settings.data_dir),
            )  # fmt: skip
            made[part] = Loader(
                source, origin, hparams.seed, workers, timeout=settings.timeout,
                prefetch=tuned.prefetch, pin=world.device.type == "cuda",
            )  # fmt: skip
        if isinstance(made["train"], Ahead):
            how = "0 (a thread gathers data in memory, and copies it to the device ahead)"
        return cls(made["train"], made["test"], how)

    def close(self) -> None:
        """End all workers and threads."""
        self.train.close()
        self.test.close()


def choose(
    loaded: Loaded, hparams: Hparams, settings: RunSettings, world: World, data: Data, plan: Plan
) -> tuple[int, str, Tuned]:
    """Workers for each training process, in words why, and what goes with them."""
    if not isinstance(data.train.source, Drawn):
        return 0, "0 (data in memory needs none)", Tuned()
    if settings.workers != "auto":
        return settings.workers, f"{settings.workers} (given)", Tuned()
    measured = lookup(key(loaded, hparams, data, plan, world))
    if measured is not None:
        return measured.workers, f"{measured.workers} (measured {measured.at})", measured
    cores = len(os.sched_getaffinity(0)) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    guess = max(1, min(MOST_GUESSED, cores))
    return guess, f"{guess} (guessed; scripts/tune_workers.py measures)", Tuned()
