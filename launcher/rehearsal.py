"""--dry-run: whether a recipe works, and what the command would do with the run folder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from launcher import checkpoint, describe, held, resume
from launcher.build import Parts
from launcher.data import First, Split
from launcher.errors import LockedError
from launcher.evaluate import BLOCK
from launcher.request import Request
from launcher.saver import Saver
from launcher.screen import Screen, overall
from launcher.state import State
from launcher.stop import Stop
from launcher.train import train
from launcher.trained import Trained


def dry_run(request: Request, parts: Parts, identity: Mapping[str, Any], screen: Screen) -> None:
    """One step and one block of evaluation; nothing is left on disk. Ends with what the command
    would do without --dry-run, and as that would, where it would be refused."""
    data, plan = parts.data, parts.plan
    one_step = replace(plan, samples=plan.batch_size, epochs=1)
    block = Split(First(data.test.source, BLOCK), data.test.transform)
    describe.banner(screen, request, parts, 0, None)
    short = replace(parts, plan=one_step, data=replace(data, test=block))
    with Stop(parts.world.processes, lambda: "interrupted") as stop:
        state = train(short, State(), Saver(short, None, screen), screen, stop)
    scores = "  ".join(f"{key} {score}" for key, score in overall(state.scores).items())
    screen.line(f"dry run: one step and one evaluation of {len(block.source)} samples worked")
    screen.line(scores)

    def foresee() -> int:
        screen.line(f"without --dry-run {_foreseen(request, identity, parts)}")
        return 0

    parts.world.on_main(foresee)


def _foreseen(request: Request, identity: Mapping[str, Any], parts: Trained) -> str:
    """What this command would do with the run folder, of which nothing is changed. Raises what it
    would be refused with; only a checkpoint's bytes are not looked at."""
    if held.owner(request.folder / ".lock") is not None:
        raise LockedError(
            f"the run folder {request.label} is in use. Wait for it, or give another name=."
        )
    if resume.earlier(request, identity) == resume.FINISHED:
        return "it shows the result of this run again, which is finished"
    resume.refuse_other_data(request, parts)
    if request.fresh:
        return "it begins at step 0, and what is in the folder is moved into an archive folder"
    there = checkpoint.steps(request.folder)
    if isinstance(request.resume, int):
        resume.refuse_absent(request.resume, request, there)
        return f"it goes back to step {request.resume}"
    resume.refuse_what_should_not_be(request, there=bool(there))
    return f"it continues at step {there[-1]}" if there else "it begins at step 0"
