"""Whether a run continues, and from where.

What an earlier attempt left in the run folder is read, and refused if this command would not go on
with the same thing; then the newest whole checkpoint, or the one that was asked for, is taken.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from launcher import checkpoint, describe, imported, settings
from launcher.account import read_run, read_status
from launcher.checkpoint import Checkpoint
from launcher.errors import (
    CheckpointError,
    OutOfMemoryError,
    SettingsError,
    did_you_mean,
    listed,
)
from launcher.layers import scalar
from launcher.record import Record
from launcher.request import Request
from launcher.screen import Screen
from launcher.settings import Hparams
from launcher.slots import put_groups
from launcher.state import State
from launcher.trained import Trained

FINISHED: Final = -1
MOST_FAILURES: Final = 3
"""Attempts in a row that may fail without a new checkpoint, before the run is not tried again."""


def identify(request: Request, sha256: str, hparams: Hparams) -> dict[str, Any]:
    """What is learned: what must be equal when the run continues, but for what --allow-change
    names. Raises SettingsError when that names nothing."""
    identity = {"recipe": sha256, **settings.recorded(hparams)}
    for key in request.allow_change:
        if key not in [*identity, "data"]:
            near = did_you_mean(key, [*identity, "data"])
            raise SettingsError(f"--allow-change {key}: there is no such hyperparameter.{near}")
    return identity


def earlier(request: Request, identity: Mapping[str, Any]) -> int:
    """What an earlier attempt left in the run folder: the micro-batch size that it took, FINISHED
    when nothing is left to do, else 0.

    Raises CheckpointError when this command may not continue it: it learned something else, or
    failed again and again, or should not be there.
    """
    before = read_run(request.folder)
    if not before or request.fresh:
        there = [] if request.fresh else checkpoint.steps(request.folder)
        if there and request.resume == "auto":
            raise CheckpointError(
                f"{request.label} holds checkpoints and no run.json, which says what they have "
                f"learned. Put it back, give --resume must to go on as this command says, another "
                f"name=, or --fresh to move what is there into an archive folder and start again."
            )
        if not there and (request.resume == "must" or isinstance(request.resume, int)):
            raise CheckpointError(
                f"--resume {request.resume}: {request.label} holds no run to continue. Leave "
                f"--resume out to begin one, or check name= and the settings that the name is made "
                f"of."
            )
        return 0
    if request.resume == "never":
        raise CheckpointError(
            f"--resume never: {request.label} holds a run. Give another name=, or --fresh to move "
            f"it into an archive folder and start again."
        )
    changed = refuse_changes(request, before, identity)
    status = read_status(request.folder)
    if _is_finished(request, status) and not changed and not isinstance(request.resume, int):
        return FINISHED
    if request.resume == "auto" and status.get("failures", 0) >= MOST_FAILURES:
        raise CheckpointError(
            f"the run in {request.label} failed {status['failures']} times after step "
            f"{status.get('last_committed_step') or 0}, the last time with: "
            f"{status.get('reason')} Another attempt would most likely end there too. Mend the "
            f"cause, and give --resume must to try again."
        )
    size = int(before.get("micro_batch_size") or 0)
    if identity.get("micro_batch_size") == "auto" and status.get("code") == OutOfMemoryError.code:
        return max(1, size // 2)  # what was tried before the first step was not enough
    return size


def _is_finished(request: Request, status: Mapping[str, Any]) -> bool:
    """Whether nothing is left to do: what a finished run has learned must be there too."""
    last = status.get("last_committed_step")
    return status.get("state") == "finished" and last in checkpoint.steps(request.folder)


def refuse_changes(request: Request, run: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys in which a run, by its run.json, differs, and that --allow-change names.

    Raises CheckpointError when the run would learn something else than in its earlier attempts.
    """
    before = run.get("identity", {})
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if refused := [key for key in changed if key not in request.allow_change]:
        differences = [
            _another_recipe(request, run)
            if key == "recipe"
            else f"{key} was {scalar(before.get(key))} and is now {scalar(now.get(key))}"
            for key in refused
        ]
        allow = " ".join(f"--allow-change {key}" for key in changed)
        raise CheckpointError(
            f"the run in {request.label} learns something else: {'; '.join(differences)}. Give "
            f"another name= for a new run, --fresh to start this one again, or {allow} to go on "
            f"with the change."
        )
    return changed


def _another_recipe(request: Request, run: Mapping[str, Any]) -> str:
    modules = imported.changed(request.path.resolve().parent, run.get("modules", {}))
    said = [f"{name}, which the recipe imports, is another than it was" for name in modules]
    return "; ".join(said) or "the recipe file is another than it was"


def refuse_other_data(request: Request, parts: Trained) -> None:
    """Raises CheckpointError when the samples, or the weights to begin with, are not those of the
    run's earlier attempts."""
    run = read_run(request.folder)
    before = run.get("data")
    if request.fresh or "data" in request.allow_change:
        return
    if parts.began_with and run.get("began_with", "") not in ("", parts.began_with):
        raise CheckpointError(
            f"the run in {request.label} was begun with other weights: the content of what "
            f"weights= names has changed. Put the old weights back, or take them away (the "
            f"run has its own by now), give another name= or --fresh, or --allow-change data to go "
            f"on."
        )
    if before in (None, describe.data(parts)):
        return
    raise CheckpointError(
        f"the data is not what the run in {request.label} was begun with: its content differs. "
        f"Put the old data back, give another name= or --fresh, or --allow-change data to go on."
    )


def newest(request: Request, account: Record, screen: Screen) -> Checkpoint | None:
    """With the folder locked: the checkpoint to continue from, None for a start."""
    if request.fresh and (archive := account.archive()):
        screen.line(f"the earlier run was moved to {request.label / archive.name}")
    checkpoint.tidy(account.folder)
    if isinstance(request.resume, int):
        return _at(request.resume, request, account, screen)
    found, skipped = checkpoint.newest(account.folder)
    for step, sentence in skipped.items():
        checkpoint.set_aside(account.folder, step)
        screen.line(f"set aside: {sentence}")
    refuse_what_should_not_be(request, there=found is not None)
    lost = read_status(account.folder).get("last_committed_step") or 0
    there = found.step if found is not None else 0
    if lost > max(there, *skipped, 0):
        what = f"checkpoint of step {lost} is" if there else f"checkpoints up to step {lost} are"
        how = "goes on from" if there else "begins again at"
        screen.line(f"warning: the {what} gone from {request.label}: the run {how} step {there}")
    return found


def refuse_what_should_not_be(request: Request, *, there: bool) -> None:
    """Raises CheckpointError where --resume says whether checkpoints are there, and is wrong."""
    if there and request.resume == "never":
        raise CheckpointError(f"--resume never: {request.folder} holds checkpoints.")
    if not there and request.resume == "must":
        raise CheckpointError(f"--resume must: {request.folder} holds no checkpoint.")


def refuse_absent(step: int, request: Request, there: Sequence[int]) -> None:
    """Raises CheckpointError when a step that is asked for is not among those there."""
    if step not in there:
        raise CheckpointError(
            f"--resume {step}: {request.label} has no checkpoint of that step. It has: "
            f"{listed(there) or 'none'}."
        )


def _at(step: int, request: Request, account: Record, screen: Screen) -> Checkpoint:
    """The checkpoint of one step; later ones belong to a past that is left."""
    refuse_absent(step, request, checkpoint.steps(account.folder))
    found = checkpoint.read(account.folder, step)
    if archive := account.go_back_to(step):
        screen.line(f"later checkpoints were moved to {request.label / archive.name}")
    return found


def restored(parts: Trained, found: Checkpoint | None, step: int) -> State:
    """The state at a step, with weights and optimizer loaded. The main process has `found` the
    checkpoint, and the others get its bytes: they need not see its disk."""

    def share(names: Iterable[str]) -> dict[str, bytes]:
        return {name: parts.world.share(found.files[name] if found else b"") for name in names}

    files = share(("manifest.json", "COMMIT"))
    files |= share(checkpoint.named(files, step))
    found = found or checkpoint.parse(files, step)
    checkpoint.restore(found, parts.model, parts.optimizer)
    if parts.average is not None:
        parts.average.restore(found.average)
    put_groups(parts.optimizer, found.state["groups"])
    return State(**found.state)
