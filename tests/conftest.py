"""What every test gets: a folder of its own, no launcher in the environment, a new Accelerate.

And two helpers for tests of whole runs: `write_recipe` and `command`.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, and that is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# A shell starts what runs beside it with Ctrl-C ignored, and what a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HANGS = 300.0
"""Seconds after which what is waited for hangs; no test says more about time. A machine that has
other work is several times slower, and how fast something is is measured elsewhere."""

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # tests run from a folder of their own
    sys.path.insert(0, str(ROOT))
if str(ROOT / "scripts") not in sys.path:
    sys.path.append(str(ROOT / "scripts"))

_LAUNCHERS = ("ACCELERATE_", "MASTER_", "LOCAL_", "TORCHELASTIC_", "GROUP_", "ROLE_", "WANDB_")
_RANKS = ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")

TINY = '''\
"""A recipe that trains in a fraction of a second."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from launcher import Data, Hparams, Recipe, Split, augment, losses, metrics, models, sources


@dataclass(frozen=True, kw_only=True)
class TinyHparams(Hparams):
    epochs: int = 2
    batch_size: int = 16
    lr: float = 0.05
    momentum: float = 0.9
    width: int = 8
    dropout: float = 0.0


def data(hparams):
    def transform(batch, rng):
        return batch | {"image": augment.shift(batch["image"], rng, 1)}

    return Data(
        train=Split(sources.synthetic("train", 64, (1, 4, 4), 4), transform),
        test=Split(sources.synthetic("test", 40, (1, 4, 4), 4)),
        prepare=augment.normalize((0.5,), (0.5,)),
    )


def model(hparams, data):
    return models.MLP(16, len(data.classes), (hparams.width,), dropout=hparams.dropout)


def optimizer(hparams, model):
    return torch.optim.SGD(
        model.parameters(), lr=hparams.lr, momentum=hparams.momentum, fused=True
    )


def schedule(hparams, progress):
    return 1 - progress


loss = losses.cross_entropy
metrics = metrics.classification
better = {}
'''

END = """
recipe = Recipe(
    hparams=TinyHparams, data=data, model=model, optimizer=optimizer, schedule=schedule, loss=loss,
    metrics=metrics, better=better,
)
"""


def write_recipe(extra: str = "", name: str = "tiny.py") -> Path:
    """A recipe file: 64 samples, 4 steps an epoch, 2 epochs. `extra` may define functions anew."""
    path = Path(name)
    path.write_text(f"{TINY}\n\n{extra}\n{END}")
    return path


def command(*arguments: object) -> int:
    """`python -m launcher ARGUMENTS` in this process; its exit code."""
    from launcher.cli import main

    _forget_processes()
    return main([str(argument) for argument in arguments])


def noted(name: str = "r") -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    text = Path("checkpoints", name, "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def eventually(what: Callable[[], object]) -> None:
    """Wait until something is so; files that come and go while it looks are another look's."""
    until = time.monotonic() + HANGS
    while True:
        with suppress(OSError):
            if what():
                return
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def members() -> list[int]:
    """The processes that work in this test's folder; torchrun gives each a session of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            here = os.readlink(path / "cwd") == str(Path.cwd())
        except OSError:
            continue
        if here and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


@pytest.fixture(autouse=True)
def gpus_only_where_they_are_meant(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tests say of a processor, they say on machines with a GPU too."""
    if request.node.get_closest_marker("gpu") is not None or "torch" not in sys.modules:
        return
    torch = sys.modules["torch"]
    if not torch.accelerator.is_available():
        return
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of the processes that a test begins
    for owner in (torch.cuda, torch.accelerator):
        monkeypatch.setattr(owner, "is_available", lambda: False)
        monkeypatch.setattr(owner, "device_count", lambda: 0)


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A temporary folder as the current one, and nothing of other tests or of the user."""
    before = dict(os.environ)
    for variable in before:
        if variable.startswith(_LAUNCHERS) or variable in _RANKS:
            monkeypatch.delenv(variable)
    home = tmp_path.with_name(f"{tmp_path.name}-hf-home")
    home.mkdir()
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))  # where the tuner's answers are
    monkeypatch.setenv("WANDB_MODE", "disabled")  # tests of it say otherwise
    monkeypatch.chdir(tmp_path)
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():  # a run that was told to stop ignores them
            signal.signal(number, handler)
        _forget_processes()
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)
        for module in [name for name in sys.modules if name.startswith("launcher_recipe_")]:
            del sys.modules[module]
        for variable in os.environ.keys() - before.keys():  # what Accelerate has set
            del os.environ[variable]


def _forget_processes() -> None:
    """Accelerate keeps what it found in singletons, for as long as the interpreter lives."""
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState, PartialState

        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        PartialState._reset_state()
