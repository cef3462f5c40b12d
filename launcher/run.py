"""One attempt at a run: from a recipe and settings to the closing table."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher import checkpoint, describe, record, settings
from launcher.build import Parts, build
from launcher.checkpoint import Checkpoint
from launcher.data import First, Split
from launcher.errors import CheckpointError, SettingsError, did_you_mean
from launcher.evaluate import BLOCK
from launcher.explain import exit_code, explained
from launcher.layers import scalar
from launcher.recipe import Loaded, load
from launcher.record import Record
from launcher.request import Request
from launcher.screen import Screen, overall
from launcher.settings import Hparams, Origins
from launcher.state import State
from launcher.stop import Stop, die_with_parent
from launcher.strategy import connect
from launcher.train import train


def prepare(request: Request) -> tuple[Loaded, Hparams, Origins]:
    """The recipe and its hyperparameters. Raises RecipeError and SettingsError."""
    loaded = load(request.path)
    hparams, origins = settings.resolve_hparams(loaded.recipe.hparams, request.given)
    return loaded, hparams, origins


def execute(request: Request) -> None:
    """Train to the end of the plan, from where it is; of a finished run, show the result."""
    loaded, hparams, origins = prepare(request)
    screen = Screen(shown=request.launch.is_main)
    identity = {"recipe": loaded.sha256, **settings.as_json(hparams)}
    for key in request.allow_change:
        if key not in [*identity, "data"]:
            near = did_you_mean(key, [*identity, "data"])
            raise SettingsError(f"--allow-change {key}: there is no such hyperparameter.{near}")
    before = {} if request.dry_run else earlier(request, identity)
    if before.get("finished"):
        describe.closing(screen, request)
        return
    world = connect(request.launch, hparams, request.settings)
    parts: Parts | None = None
    try:
        parts = build(loaded, hparams, request.settings, world, before.get("micro_batch_size"))
        if request.dry_run:
            dry_run(request, parts, screen)
        else:
            attempt(request, parts, origins, identity, screen)
    except BaseException as error:
        reason = explained(loaded, hparams, parts, error)
        if reason is error:
            raise
        raise reason from error
    finally:
        world.close()


def earlier(request: Request, identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an earlier attempt left in the run folder, if this one may continue it, else {}.

    Raises CheckpointError when it learned something else, or when it should not be there.
    """
    before = record.read_json(request.folder / "run.json")
    if not before or request.fresh:
        if request.resume == "must":
            raise CheckpointError(
                f"--resume must: {request.label} holds no run to continue. Leave --resume out to "
                f"begin one, or check name= and the settings that the name is made of."
            )
        return {}
    if request.resume == "never":
        raise CheckpointError(
            f"--resume never: {request.label} holds a run. Give another name=, or --fresh to move "
            f"it into an archive folder and start again."
        )
    changed = refuse_changes(request, before.get("identity", {}), identity)
    status = record.read_json(request.folder / "status.json")
    finished = status.get("state") == "finished" and not changed
    return {**before, "finished": finished}


def refuse_changes(
    request: Request, before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[str]:
    """The keys that differ and that --allow-change names.

    Raises CheckpointError when the run would learn something else than in its earlier attempts.
    """
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if refused := [key for key in changed if key not in request.allow_change]:
        differences = [
            "the recipe file is another than it was"
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


def refuse_other_data(request: Request, parts: Parts) -> None:
    """Raises CheckpointError when the samples are not those of the run's earlier attempts."""
    before = record.read_json(request.folder / "run.json").get("data")
    if before in (None, describe.data(parts)) or request.fresh or "data" in request.allow_change:
        return
    raise CheckpointError(
        f"the data is not what the run in {request.label} was begun with: its content differs. "
        f"Put the old data back, give another name= or --fresh, or --allow-change data to go on."
    )


def attempt(
    request: Request, parts: Parts, origins: Origins, identity: Mapping[str, Any], screen: Screen
) -> None:
    """Take the run folder, restore what is there, train, and write the result."""
    account: Record | None = None
    found: Checkpoint | None = None
    if request.launch.command != "python":
        die_with_parent()

    def take() -> int:
        nonlocal account, found
        account = Record(request.folder)
        refuse_other_data(request, parts)
        found = _newest(request, account, screen)
        return 0 if found is None else found.step

    try:
        state = _restored(request.folder, parts, parts.world.on_main(take), found)
        seconds = 0.0
        if account is not None:
            run = describe.run(request, parts, origins, identity, state.step)
            seconds = account.begin(parts.loaded.source, run, state.records)
        describe.banner(screen, request, parts, state.step)
        screen.start(parts.plan.total_steps, state.step)
        with Stop(parts.world.processes, lambda: farewell(request)) as stop:
            state = train(parts, state, account, screen, stop, seconds)
        screen.stop()
        if account is not None:
            account.finished(state.step, {"scores": state.scores, "best": state.best})
            describe.closing(screen, request)
    except BaseException as error:
        screen.stop()
        if account is not None:
            reason = explained(parts.loaded, parts.hparams, parts, error)
            account.failed(reason, exit_code(reason))
        raise
    finally:
        if account is not None:
            account.close()


def farewell(request: Request) -> str:
    """The last words of a run that is ended at once."""
    committed = record.read_json(request.folder / "status.json").get("last_committed_step") or 0
    return f"interrupted: the last committed step is {committed}; the same command continues there"


def _newest(request: Request, account: Record, screen: Screen) -> Checkpoint | None:
    """With the folder locked: the checkpoint to continue from, None for a start."""
    if request.fresh and (archive := account.archive()):
        screen.line(f"the earlier run was moved to {request.label / archive.name}")
    checkpoint.tidy(account.folder)
    found, skipped = checkpoint.newest(account.folder)
    for step, sentence in skipped.items():
        checkpoint.set_aside(account.folder, step)
        screen.line(f"set aside: {sentence}")
    if found is not None and request.resume == "never":
        raise CheckpointError(f"--resume never: {account.folder} holds checkpoints.")
    if found is None and request.resume == "must":
        raise CheckpointError(f"--resume must: {account.folder} holds no checkpoint.")
    return found


def _restored(folder: Path, parts: Parts, step: int, found: Checkpoint | None) -> State:
    """The state at a step, with weights and optimizer loaded; a fresh one for step 0. The main
    process has `found` the checkpoint already, the others read it."""
    if step == 0:
        return State()
    found = found or checkpoint.read(folder, step)
    checkpoint.restore(found, parts.model, parts.optimizer)
    state = State(**found.state)
    for group, changes in zip(parts.optimizer.param_groups, state.groups, strict=False):
        group.update(changes)
    return state


def dry_run(request: Request, parts: Parts, screen: Screen) -> None:
    """One step and one block of evaluation; nothing is left on disk."""
    data, plan = parts.data, parts.plan
    one_step = replace(plan, samples=plan.batch_size, epochs=1)
    block = Split(First(data.test.source, BLOCK), data.test.transform)
    describe.banner(screen, request, parts, 0)
    short = replace(parts, plan=one_step, data=replace(data, test=block))
    with Stop(parts.world.processes, lambda: "interrupted") as stop:
        state = train(short, State(), None, screen, stop)
    scores = "  ".join(f"{key} {score}" for key, score in overall(state.scores).items())
    screen.line(f"dry run: one step and one evaluation of {len(block.source)} samples worked")
    screen.line(scores)
