"""What `scripts/tune_workers.py` measured on this machine, in the user's cache folder.

An answer belongs to a machine, a source, its transforms, a micro-batch size and a number of
processes: for anything else there is none.
"""

import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from launcher import held, settings, storage
from launcher.data import Data
from launcher.documents import read_json
from launcher.errors import CheckpointError, StorageError
from launcher.plan import Plan
from launcher.recipe import Loaded
from launcher.settings import Hparams
from launcher.strategy import World

MOST_WORKERS: Final = 1024
MOST_PREFETCH: Final = 64


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
            name: value for name, value in settings.recorded(hparams).items()
            if name not in ("seed", "epochs")
        },
        "micro_batch_size": plan.micro_batch_size,
        "processes": world.processes,
        "threads": world.threads,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def lookup(name: str) -> Tuned | None:
    """The answer for a key, if there is one; a damaged file is none, whatever is wrong with it."""
    try:
        found = read_json(place()).get(name)
    except (CheckpointError, StorageError, RuntimeError):  # or this user has no home
        return None
    return _sound(found) if isinstance(found, dict) else None


def _sound(found: dict[str, Any]) -> Tuned | None:
    """An answer as it was stored; None when a value is no such thing: nothing that somebody wrote
    there shall start a thousand processes or control a terminal."""
    workers, prefetch = found.get("workers"), found.get("prefetch")
    rate, at = found.get("rate"), found.get("at")
    counts = type(workers) is int and 0 <= workers <= MOST_WORKERS
    counts = counts and type(prefetch) is int and 1 <= prefetch <= MOST_PREFETCH
    words = isinstance(at, str) and len(at) <= 40 and at.isprintable()
    if not counts or not words or not isinstance(rate, int | float):
        return None
    return Tuned(**{field.name: found[field.name] for field in fields(Tuned)})


def store(name: str, tuned: Tuned) -> None:
    """Keep an answer beside the others; those who store at once take turns. Raises StorageError."""
    storage.make_folder(place().parent)
    lock = held.Lock(place().with_suffix(".lock"))
    lock.acquire(wait=True)
    try:
        try:
            before = read_json(place())
        except CheckpointError:
            before = {}
        document = {**before, name: asdict(tuned)}
        storage.replace(place(), json.dumps(document, indent=1).encode())
    finally:
        lock.release()
