"""What a run leaves beside its weights when it ends, however it ends: outcome.json, report.html.

Nothing here may cost the run: the weights are durable by then, and what cannot be written is said
in a line.
"""

from collections.abc import Callable
from types import TracebackType

from launcher import checkpoint, describe, held, judge, outcome, report
from launcher.build import Parts
from launcher.errors import CheckpointError
from launcher.request import Request
from launcher.screen import Screen
from launcher.state import State
from launcher.train import evaluate
from launcher.verdicts import Verdicts


def have_verdicts(request: Request, parts: Parts, verdicts: Verdicts, state: State) -> None:
    """Evaluate once more where the last evaluation was another attempt's, which was killed before
    it could write how that came out. A collective."""
    if verdicts.step != state.step and parts.world.on_main(lambda: not _there(request, state)):
        evaluate(parts, verdicts, state.step)


def _there(request: Request, state: State) -> bool:
    """Whether outcome.json is that of the state's evaluation, and of no other past of the run."""
    try:
        found = outcome.read(request.folder)
    except CheckpointError:
        return False
    return found is not None and (found["step"], found["scores"]) == (state.step, state.scores)


def write_outcome(request: Request, parts: Parts, verdicts: Verdicts, screen: Screen) -> None:
    """outcome.json of the last evaluation of this attempt, if it came to one."""

    def write() -> None:
        if verdicts.step:
            outcome.write(request.folder, judge.judged(parts, verdicts))

    _guarded(write, outcome.NAME, request, screen)


def write_report(request: Request, screen: Screen) -> None:
    """report.html, from what lies in the run folder by now."""
    _guarded(lambda: report.write(request.folder), report.NAME, request, screen)


def show_again(request: Request, screen: Screen, *, locked: bool = False) -> None:
    """The result of a finished run. What a kill after its last step left undone is done first
    (which is no business of ours while another process has the folder)."""

    def make_up() -> None:
        if report.is_current(request.folder):
            return
        lock = None if locked else held.Lock(request.folder / ".lock")
        try:
            if lock is None or lock.acquire():
                checkpoint.tidy(request.folder)
                report.write(request.folder)
        finally:
            if lock is not None:
                lock.release()

    _guarded(make_up, report.NAME, request, screen)
    describe.closing(screen, request)
    if request.profile:
        screen.line("--profile: the run is finished, so nothing was profiled; give name= for a run "
                    "beside it")  # fmt: skip


def of_a_failure(
    request: Request, parts: Parts, verdicts: Verdicts, screen: Screen
) -> Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], bool]:
    """What an ExitStack calls: a run that was stopped or failed leaves what there is. It does not
    hinder the error."""

    def leave(
        kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, KeyboardInterrupt):
            write_outcome(request, parts, verdicts, screen)
            write_report(request, screen)
        return False

    return leave


def _guarded(write: Callable[[], None], name: str, request: Request, screen: Screen) -> None:
    """Any error is a warning: a run that trained for days is not lost for a page about it."""
    try:
        write()
    except Exception as error:
        screen.line(
            f"warning: {request.label / name} was not written: {type(error).__name__}: {error}"
        )
