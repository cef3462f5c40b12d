"""What the system's faults are made with: a tiny recipe, runs of it, and mounts."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 120

RECIPE = """\
import os, time
from dataclasses import dataclass
import torch
from launcher import Data, Hparams, Recipe, Split, augment, losses, models, sources

@dataclass(frozen=True, kw_only=True)
class Tiny(Hparams):
    epochs: int = 5
    batch_size: int = 16
    width: int = 8

def data(hparams):
    splits = (Split(sources.synthetic(s, 64, (1, 4, 4), 4)) for s in ("train", "test"))
    return Data(train=next(splits), test=next(splits), prepare=augment.normalize((0.5,), (0.5,)))

def model(hparams, data):
    return models.MLP(16, 4, (hparams.width,))

def optimizer(hparams, model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

def loss(model, batch):
    if model.training:
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
    return losses.cross_entropy(model, batch)

recipe = Recipe(hparams=Tiny, data=data, model=model, optimizer=optimizer, loss=loss)
"""
STEPS = 20


class Skipped(Exception):  # noqa: N818
    """This machine cannot do it; the sentence says why."""


class Violation(Exception):  # noqa: N818
    """A promise was broken; the sentence says which."""


def holds(promise: object, broken: str) -> None:
    if not promise:
        raise Violation(broken)


def needs(*programs: str, root: bool = False) -> None:
    """Raises Skipped when a program, or root, is not there."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        raise Skipped(f"no {', '.join(missing)} here")
    if root and os.getuid():
        raise Skipped("needs root")


def line(*given: str, by: Sequence[str] = ()) -> list[str]:
    """The command line: `by` stands before the interpreter."""
    return [*by, sys.executable, "-m", "launcher", "r.py", "name=r", "threads=1", *given]


def start(
    folder: Path, command: Sequence[str], environ: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """The command in the folder, which gets the recipe if it has none."""
    if not (folder / "r.py").exists():
        (folder / "r.py").write_text(RECIPE)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
    } | dict(environ or {})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    return subprocess.Popen(command, cwd=folder, env=env, text=True, **streams)


def run(
    folder: Path, *given: str, by: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and output of a whole run."""
    return end(start(folder, line(*given, by=by), environ))


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise Violation(f"it did not end within {SECONDS} s") from error
    return process.returncode, output or ""


def status(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoints" / "r" / "status.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def wait(folder: Path, what: Callable[[dict[str, Any]], object], process: Any) -> None:
    """Until the status is so. Raises Violation when the process ends before."""
    deadline = time.monotonic() + SECONDS
    while not what(status(folder)):
        holds(process.poll() is None, f"it ended early with {process.returncode}")
        holds(time.monotonic() < deadline, "it did not come so far")
        time.sleep(0.01)


def weights(folder: Path) -> bytes:
    """COMMIT of the last checkpoint: the hash of the hashes of all that training changed."""
    last = max((folder / "checkpoints" / "r").glob("step-*"), default=None)
    return b"" if last is None else (last / "COMMIT").read_bytes()


def expected(folder: Path, *given: str) -> bytes:
    """COMMIT of a run in a folder of its own that nothing happened to."""
    calm = folder.with_name(f"{folder.name}-calm")
    calm.mkdir()
    try:
        code, output = run(calm, *given)
        holds(code == 0, f"a run without any fault ended with {code}: {output[-300:]}")
        return weights(calm)
    finally:
        shutil.rmtree(calm)


def goes_on(folder: Path, commit: bytes, *given: str) -> None:
    """The same command without the fault ends with the same bits."""
    code, output = run(folder, *given)
    holds(code == 0, f"the same command afterwards ended with {code}: {output[-300:]}")
    holds(weights(folder) == commit, "the weights differ from those of a run without the fault")


@contextmanager
def mounted(at: Path, options: str) -> Iterator[None]:
    """A tmpfs."""
    needs("mount", root=True)
    at.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)],
                          capture_output=True, text=True, check=False)  # fmt: skip
    if made.returncode:
        raise Skipped(f"mount: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=False)
