"""One attempt at a run: from a recipe and settings to the closing table."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from launcher import (
    checkpoint,
    describe,
    early,
    ending,
    places,
    rehearsal,
    resume,
    settings,
    storage,
)
from launcher.account import read_status
from launcher.agree import refuse_differences
from launcher.build import Parts, build
from launcher.checkpoint import Checkpoint
from launcher.connect import connect
from launcher.errors import LauncherError
from launcher.explain import cause, exit_code, explained, no_silent_exit
from launcher.fitting import fitted
from launcher.parent import die_with_parent
from launcher.recipe import Loaded, load
from launcher.record import Record
from launcher.request import Request
from launcher.saver import Saver
from launcher.screen import Screen
from launcher.settings import Hparams, Origins
from launcher.state import State
from launcher.stop import Stop
from launcher.strategy import World
from launcher.track import Tracker
from launcher.train import stopped_early, train
from launcher.verdicts import Verdicts

if TYPE_CHECKING:  # it is imported with --profile only
    from launcher.profiling import Profile


def prepare(request: Request) -> tuple[Loaded, Hparams, Origins]:
    """The recipe and its hyperparameters. Raises RecipeError and SettingsError."""
    loaded = load(request.path)
    hparams, origins = settings.resolve_hparams(loaded.recipe.hparams, request.given)
    return loaded, hparams, origins


@no_silent_exit()  # from the recipe's first line on: it could keep the name
def execute(request: Request) -> None:
    """Train to the end of the plan, from where it is; of a finished run, show the result."""
    loaded, hparams, origins = prepare(request)
    screen = Screen(shown=request.launch.is_main)
    identity = resume.identify(request, loaded.sha256, hparams)
    world = connect(request.launch, hparams, request.settings)
    parts: Parts | None = None
    with ExitStack() as held:
        tracker = held.enter_context(Tracker(screen.line))  # first: what it waits for comes last
        held.callback(world.close)
        try:
            before = world.on_main(lambda: look(request, identity, tracker))
            if before == resume.FINISHED:
                if world.is_main:
                    ending.show_again(request, screen)
                return
            continued = before and world.on_main(lambda: len(checkpoint.steps(request.folder)))
            parts = build(
                loaded, hparams, request.settings, world, before or None, continued=bool(continued)
            )
            held.callback(parts.loaders.close)
            refuse_differences(world, {**identity, **describe.same_everywhere(parts)})
            if hparams.micro_batch_size == "auto" and before == 0:  # else it is known
                parts = fitted(parts)
            if request.dry_run:
                rehearsal.dry_run(request, parts, identity, screen)
            else:
                attempt(request, parts, origins, identity, screen, tracker, held)
        except BaseException as error:
            early.give_way()  # who was stopped since has failed all the same
            screen.stop()
            reason = cause(world, explained(loaded.path, hparams, parts, error))
            with suppress(LauncherError):  # of a disk that is gone: the reason is what matters
                world.watch.on_end(reason, exit_code(reason))
            if reason is error:
                raise
            raise reason from error


def look(request: Request, identity: Mapping[str, Any], tracker: Tracker) -> int:
    """What can be refused before anything is built, and what `resume.earlier` says: to a dry run
    at its end only, when the recipe is known to work."""
    tracker.decide(request.settings)
    return 0 if request.dry_run else resume.earlier(request, identity)


def attempt(
    request: Request, parts: Parts, origins: Origins, identity: Mapping[str, Any], screen: Screen,
    tracker: Tracker, held: ExitStack,
) -> None:  # fmt: skip
    """Take the run folder, restore what is there, train, and write the result. What must be let go
    of, whatever happens, is left to `held`."""
    world = parts.world
    account: Record | None = None
    found: Checkpoint | None = None
    state = State()
    if request.launch.command != "python":
        die_with_parent()

    def take() -> int:
        nonlocal account, found
        account = Record(request.folder)
        held.callback(account.close)
        # Another command may have had the folder since: what it holds is only now sure to stay.
        if resume.earlier(request, identity) == resume.FINISHED:
            return resume.FINISHED
        resume.refuse_other_data(request, parts)
        found = resume.newest(request, account, screen)
        weights = sum(value.nbytes for value in parts.model.state_dict().values())
        least = sum(map(len, found.files.values())) if found else weights
        storage.probe(request.folder, least)
        return 0 if found is None else found.step

    def note(error: BaseException, code: int) -> None:
        if account is not None:
            account.failed(error, code, state.step)

    anew = request.fresh or request.resume == "never"
    where = places.look(world, request.folder, begins_anew=anew)
    step = world.on_main(take)
    if step == resume.FINISHED:
        if account is not None:
            ending.show_again(request, screen, locked=True)
        return
    world.watch.on_end = note
    if step:
        state = resume.restored(parts, found, step)
        found = None  # its bytes and tensors are as large as the model, and not needed again
    seconds = 0.0
    about: dict[str, Any] = {}
    if account is not None:
        about = describe.run(request, parts, origins, identity, state.step)
        source, modules = parts.loaded.source, parts.modules
        seconds = account.begin(source, about, state.records, state.step, modules)
        tracker.start(request, state.step, parts.plan.total_steps)
    beside = {**({"machines": where} if where else {}), **tracker.shown(request)}
    describe.banner(screen, request, parts, state.step, about, beside)
    screen.start(
        parts.plan.total_steps, state.step, parts.plan.steps_per_epoch,
        describe.memory(world.device),
    )  # fmt: skip
    # Signals are taken until the end: a launcher that lost a process sends one to all others.
    stop = Stop(world.processes, lambda: farewell(request), request.settings.timeout)
    held.enter_context(stop)
    tracker.hurried = lambda: stop.signalled
    verdicts = Verdicts(len(parts.data.classes))
    if account is not None:
        held.push(ending.of_a_failure(request, parts, verdicts, screen))
    profile = _profile(request, world, screen)
    if profile is not None:
        held.callback(profile.close)
    began = time.monotonic()
    with Saver(parts, account, screen) as saver:
        train(parts, state, saver, screen, stop, seconds, verdicts, profile)
    if profile is not None:
        profile.close()
    ending.have_verdicts(request, parts, verdicts, state)
    screen.stop()
    if account is not None:
        ending.write_outcome(request, parts, verdicts, screen)
        best = {"best": state.best, "monitor": parts.monitor.name}
        early = stopped_early(parts, state)
        took = seconds + time.monotonic() - began
        account.finished(state.step, {"scores": state.scores, **best}, took, early)
        tracker.finished = True
        ending.write_report(request, screen)
        describe.closing(screen, request)


def _profile(request: Request, world: World, screen: Screen) -> "Profile | None":
    """What looks at some steps, if that is asked for: each process writes a trace of its own."""
    if request.profile is None:
        return None
    from launcher.profiling import Profile

    name = f"profile-{world.process}.json" if world.process else "profile.json"
    return Profile(request.profile, request.folder / name, request.label / name, screen)


def farewell(request: Request) -> str:
    """The last words of a run that is ended at once."""
    committed = read_status(request.folder).get("last_committed_step") or 0
    return f"interrupted: the last committed step is {committed}; the same command continues there"
