"""What `scripts/tune_workers.py` measured on this machine, in the user's cache folder.

An answer belongs to a machine, a source, its transforms, a micro-batch size and a number of
processes: for anything else there is none.
"""

import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher import settings, storage
from launcher.data import Data
from launcher.errors import CheckpointError, StorageError
from launcher.plan import Plan
from launcher.recipe import Loaded
from launcher.record import read_json
from launcher.settings import Hparams
from launcher.strategy import World


@dataclass(frozen=True)
class Tuned:
    """How to load."""

    workers: int = 0
    """Loader processes for each training process."""
    prefetch: int = 2
    """Micro-batches that each makes ahead."""
    rate: float = 0.0
    """Samples per second of the loader alone."""
    at: str = ""
    """When it was measured."""


def place() -> Path:
    """The file with all answers."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "launcher" / "workers.json"


def key(loaded: Loaded, hparams: Hparams, data: Data, plan: Plan, world: World) -> str:
    """What an answer is for. The transform is part of the recipe's text and hyperparameters."""
    facts = {
        "machine": [socket.gethostname(), len(os.sched_getaffinity(0))],
        "source": data.train.source.fingerprint,
        "recipe": loaded.sha256,
        "transform": {
            name: value for name, value in settings.as_json(hparams).items()
            if name not in ("seed", "epochs")
        },
        "micro_batch_size": plan.micro_batch_size,
        "processes": world.processes,
        "threads": world.threads,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def lookup(name: str) -> Tuned | None:
    """The answer for a key, if there is one; a damaged file is none."""
    try:
        found = read_json(place()).get(name)
        return Tuned(**found) if found else None
    except (CheckpointError, StorageError, TypeError):
        return None


def store(name: str, tuned: Tuned) -> None:
    """Keep an answer beside the others. Raises StorageError."""
    storage.make_folder(place().parent)
    try:
        before = read_json(place())
    except CheckpointError:
        before = {}
    document = {**before, name: asdict(tuned)}
    storage.replace(place(), json.dumps(document, indent=1).encode())
