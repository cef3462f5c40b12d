"""Whose fault it was: from whatever ended a run to a refusal and its exit code."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch

from launcher.build import Parts
from launcher.errors import (
    BUG,
    INTERRUPTED,
    DistributedError,
    LauncherError,
    OutOfMemoryError,
    Preempted,
    RecipeError,
    listed,
)
from launcher.layers import scalar
from launcher.loader import worker_error
from launcher.peers import Peers
from launcher.recipe import blame, out_of_memory, without_frames
from launcher.settings import Hparams
from launcher.strategy import RefusedElsewhere, World
from launcher.watch import Watch

_PATIENCE = 2.0
"""Seconds to wait for a word of the process that is gone."""
_HERE = Path(__file__).resolve().parent
# What a recipe is made of: an error in these is about what the recipe gave them.
_PARTS_OF_RECIPES = ("augment.py", "data.py", "losses.py", "metrics.py", "optim.py", "schedules.py")


def explained(
    path: Path, hparams: Hparams, parts: Parts | None, error: BaseException
) -> BaseException:
    """A refusal for what the device, another process or the recipe's code raised; anything else as
    it is: a refusal already, an interrupt, or a bug of ours. `parts` is None before it is built."""
    if isinstance(error, LauncherError) or not isinstance(error, Exception | SystemExit):
        return error
    if out_of_memory(error):
        size = parts.plan.micro_batch_size if parts else hparams.micro_batch_size
        shape = f" (inputs of shape {(size, *parts.data.shape)})" if parts else ""
        advice = "Give a smaller micro_batch_size=; the gradient stays that of the whole batch."
        if hparams.micro_batch_size == "auto" and parts and parts.plan.micro_batch_size > 1:
            advice = "The same command continues from the last checkpoint with half of that."
        said = without_frames(f"{error}") or type(error).__name__
        return OutOfMemoryError(
            f"out of memory with micro_batch_size={scalar(size)}{shape} and batch_size="
            f"{hparams.batch_size}: {said} {advice}"
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in f"{error}":  # anywhere: a signal
        return worker_error(error, 0.0)
    if isinstance(error, RuntimeError) and "find_unused_parameters" in f"{error}":
        return RecipeError(
            f"a pass of the model in {path} left out some of its parameters, which several "
            f"processes (DDP) must know of: give find_unused_parameters=true, or use all of them "
            f"in every pass."
        )
    if isinstance(error, RuntimeError) and "view size is not compatible" in f"{error}":
        blamed = blame(path, error, "the recipe")
        refusal = RecipeError(
            f"{blamed} What lies channels last has no such view: use reshape or flatten, or give "
            f"layout=contiguous."
        )
        refusal.frames = blamed.frames
        return refusal
    if _is_about_the_others(error):
        said = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        return DistributedError(
            f"another process is gone or does not answer: {said} Look at what the other processes "
            f"said. The same command continues from the last checkpoint."
        )
    if isinstance(error, SystemExit) or _is_about_the_recipe(path, error):
        return blame(path, error, "the recipe")
    if parts is not None and isinstance(error, KeyError | RuntimeError):
        try:  # who looked for a tensor by a name or a shape that it had
            parts.kept.check_forms(left_out=True)
        except RecipeError as changed:
            return changed
    return error


def cause(world: World, reason: BaseException) -> BaseException:
    """What to say of the end of this process: of one that lost the others, why they ended.

    A process that ends for a reason of its own leaves that for the others first. Of all processes
    the main one speaks.
    """
    peers = world.watch.peers
    if peers is None or isinstance(reason, Preempted | RefusedElsewhere | KeyboardInterrupt):
        return reason
    try:
        if not isinstance(reason, DistributedError):
            frames = getattr(reason, "frames", "")
            if not isinstance(reason, LauncherError):
                frames = "".join(traceback.format_exception(reason))
            peers.fail(reason, exit_code(reason), frames)
        elif not peers.wait_for_failure(_PATIENCE):
            return _without_a_word(world.watch, peers, reason)
        failure = peers.failure()
        if failure is None or (failure.process == world.process and world.is_main):
            return reason
        return failure.error() if world.is_main else RefusedElsewhere(failure.code)
    except (RuntimeError, OSError):  # the store is gone with the launcher, or with its machine
        return _cut_off(peers, reason)


def _cut_off(peers: Peers, reason: BaseException) -> BaseException:
    host = peers.elsewhere()
    if host is None or not isinstance(reason, DistributedError):
        return reason
    return DistributedError(f"{host}, the machine of process 0, is gone or out of reach: {reason}")


def _without_a_word(watch: Watch, peers: Peers, reason: DistributedError) -> DistributedError:
    gone = peers.gone()
    if gone:
        who = listed(f"process {number} ({where})" for number, where in gone.items())
        far = any(peers.hosts.get(number) != peers.hosts.get(peers.process) for number in gone)
        why = (
            "gives no sign of life: killed, or its machine is gone or out of reach?"
            if far
            else "ended without a word: killed, or by the system for want of memory?"
        )
        reason = DistributedError(
            f"{who} {why} The same command continues from the last checkpoint."
        )
        reason.process = min(gone)
    elif who := watch.waited_for():
        reason = DistributedError(
            f"{who} did not answer within timeout={watch.timeout:g} seconds. The same command "
            f"continues from the last checkpoint."
        )
    return reason


@contextmanager
def no_silent_exit() -> Iterator[None]:
    """A recipe that leaves by `os._exit(0)` would look like a run that finished."""

    def refuse(code: int) -> NoReturn:
        if os.getpid() != process:  # a child's own business
            leave(code)
        raise RecipeError(
            f"something in the recipe called os._exit({code}) in the middle of a run."
        )

    process, leave = os.getpid(), os._exit
    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = leave


def exit_code(error: BaseException) -> int:
    """The exit code for what ended a run."""
    if isinstance(error, LauncherError):
        return error.code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else BUG


def _is_about_the_others(error: BaseException) -> bool:
    """Whether an exchange with other processes failed: in gloo or NCCL, or in the store through
    which they met, whose errors name neither."""
    if not isinstance(error, RuntimeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    inside = bool(frames) and "/torch/distributed/" in frames[-1].filename
    named = any(word in f"{error}" for word in ("gloo", "Gloo", "NCCL"))
    return inside or named or isinstance(error, torch.distributed.DistError)


def _is_about_the_recipe(path: Path, error: BaseException) -> bool:
    """Whether the recipe's code was running, or a library on its behalf: torch is, when our loop
    called a loss, an optimizer's step or a backward pass."""
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    if any(str(frame) == str(path) for frame in frames):
        return True
    if not {_HERE / "train.py", _HERE / "build.py"} & set(frames):
        return False
    last = frames[-1]
    if not last.is_relative_to(_HERE):
        return True
    return last.name in _PARTS_OF_RECIPES or last.parent != _HERE
