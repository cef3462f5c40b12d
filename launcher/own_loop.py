"""A loop of your own, in a script, on the floors that `train` stands on.

    def train(loop: own_loop.OwnLoop[MyHparams]) -> None:
        ...
        for step, batch in loop.steps(data, models={...}, optimizers={...}):
            ...                       # forward, backward and the optimizers' steps
            loop.note({"train/loss": loss})

    if __name__ == "__main__":
        sys.exit(own_loop.run(train, MyHparams))

The script is a command like `launcher RECIPE`: the same settings, run folder and exit codes, and
the same command continues. What a step does is the script's; which samples it has, the random
numbers of torch in it, metrics, checkpoints and signals are done here, in one process. See
docs/own_loop.md.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from launcher import cli, describe, early, help, resume, settings
from launcher.errors import OutOfMemoryError, SettingsError
from launcher.explain import exit_code, explained, no_silent_exit
from launcher.own_steps import H
from launcher.own_steps import OwnLoop as OwnLoop
from launcher.recipe import out_of_memory
from launcher.request import Request
from launcher.settings import Hparams

SERVED: Final = {"name", "data_dir", "mirror", "threads", "log_every", "checkpoint_every",
                 "checkpoint_minutes", "keep", "max_minutes", "timeout"}  # fmt: skip
"""Run settings that have an effect here; another one would be believed to have one."""
OBEYED: Final = {"seed", "epochs", "batch_size"}
"""Hyperparameters of every recipe that decide something here: the others are for `train`."""


def run(
    train: Callable[["OwnLoop[H]"], None], hparams: type[H], arguments: Sequence[str] | None = None
) -> int:
    """Run a script's `train` with the command's settings; returns the exit code.

    `hparams` is a frozen dataclass derived from `Hparams`, as in a recipe. What is wrong is said in
    one box, as by `launcher`.
    """
    script = Path(train.__code__.co_filename)
    given = list(sys.argv[1:] if arguments is None else arguments)
    early.take()
    try:
        return cli.guarded(lambda: _execute(train, hparams, script, given))
    finally:
        early.give_way()


@no_silent_exit()
def _execute(
    train: Callable[["OwnLoop[H]"], None], cls: type[H], script: Path, given: Sequence[str]
) -> int:
    if "--help" in given or "-h" in given:
        help.loop(_shown(script), OBEYED, SERVED)
        return 0
    request, _ = cli.parse([str(script), *given])
    hparams, origins = settings.resolve_hparams(cls, request.given)
    _refuse_what_has_no_effect(request, hparams)
    # Several GPUs would be taken for DataParallel, of which a script knows nothing.
    request = dataclasses.replace(
        request, settings=dataclasses.replace(request.settings, strategy="ddp")
    )
    with ExitStack() as held:
        loop = OwnLoop(request, hparams, origins, script.read_bytes(), held)
        if resume.earlier(request, loop.identity) == resume.FINISHED:
            describe.closing(loop.screen, request)
            return 0
        try:
            with loop:
                train(loop)
        except BaseException as error:
            loop.screen.stop()
            reason = _reason(script, hparams, error)
            loop.world.watch.on_end(reason, exit_code(reason))
            if reason is error:
                raise
            raise reason from error
    return 0


def _shown(script: Path) -> Path:
    """The script's path as a user would type it."""
    here = Path.cwd()
    return script.relative_to(here) if script.is_relative_to(here) else script


def _refuse_what_has_no_effect(request: Request, hparams: Hparams) -> None:
    """Raises SettingsError for settings that nothing here obeys, and for several processes."""
    problems = []
    if request.launch.processes > 1:
        problems.append(
            f"{request.path.name} has a loop of its own, which is one process; "
            f"{request.launch.processes} were started. Start it with python."
        )
    if request.profile:
        problems.append("--profile has no effect on a loop of its own: leave it out.")
    if request.dry_run:
        problems.append("--dry-run is not supported by a loop of its own: leave it out.")
    problems += [
        f"{key} (from {request.settings_from[key]}) has no effect on a loop of its own: leave it "
        f"out."
        for key in request.settings_from.of
        if key not in SERVED
    ]
    first = {field.name: field.default for field in dataclasses.fields(Hparams)}
    problems += [
        f"{key} has no effect on a loop of its own, which computes what its script says: leave it "
        f"out, or give the script a hyperparameter of another name."
        for key, default in first.items()
        if key not in OBEYED and getattr(hparams, key) != default
    ]
    if problems:
        raise SettingsError(*problems)


def _reason(script: Path, hparams: Hparams, error: BaseException) -> BaseException:
    if out_of_memory(error):
        return OutOfMemoryError(
            f"out of memory with batch_size={hparams.batch_size}: "
            f"{f'{error}' or type(error).__name__} Give a smaller batch_size=."
        )
    return explained(script, hparams, None, error)
