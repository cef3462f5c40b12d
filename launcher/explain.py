"""Whose fault it was: from whatever ended a run to a refusal and its exit code."""

import traceback
from pathlib import Path

from launcher.build import Parts
from launcher.errors import (
    BUG,
    INTERRUPTED,
    DistributedError,
    LauncherError,
    OutOfMemoryError,
)
from launcher.layers import scalar
from launcher.recipe import Loaded, blame, out_of_memory
from launcher.settings import Hparams

_HERE = Path(__file__).resolve().parent
# What a recipe is made of: an error in these is about what the recipe gave them.
_PARTS_OF_RECIPES = ("augment.py", "data.py", "losses.py", "metrics.py", "optim.py", "schedules.py")


def explained(
    loaded: Loaded, hparams: Hparams, parts: Parts | None, error: BaseException
) -> BaseException:
    """A refusal for what the device, another process or the recipe's code raised; anything else as
    it is: a refusal already, an interrupt, or a bug of ours. `parts` is None before it is built."""
    if isinstance(error, LauncherError) or not isinstance(error, Exception | SystemExit):
        return error
    if out_of_memory(error):
        size = parts.plan.micro_batch_size if parts else hparams.micro_batch_size
        shape = f" (inputs of shape {(size, *parts.data.shape)})" if parts else ""
        return OutOfMemoryError(
            f"out of memory with micro_batch_size={scalar(size)}{shape} and batch_size="
            f"{hparams.batch_size}: {f'{error}' or type(error).__name__} Give a smaller "
            f"micro_batch_size=; the gradient stays that of the whole batch."
        )
    text = str(error)
    if isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text):
        return DistributedError(
            f"another process is gone or does not answer: {text.splitlines()[0]} Look at what the "
            f"other processes said. The same command continues from the last checkpoint."
        )
    if isinstance(error, SystemExit) or _is_about_the_recipe(loaded, error):
        return blame(loaded.path, error, "the recipe")
    return error


def exit_code(error: BaseException) -> int:
    """The exit code for what ended a run."""
    if isinstance(error, LauncherError):
        return error.code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else BUG


def _is_about_the_recipe(loaded: Loaded, error: BaseException) -> bool:
    """Whether the recipe's code was running, or a library on its behalf: torch is, when our loop
    called a loss, an optimizer's step or a backward pass."""
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    if any(str(frame) == str(loaded.path) for frame in frames):
        return True
    if not {_HERE / "train.py", _HERE / "build.py"} & set(frames):
        return False
    last = frames[-1]
    if not last.is_relative_to(_HERE):
        return True
    return last.name in _PARTS_OF_RECIPES or last.parent != _HERE
