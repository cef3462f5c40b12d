"""`launcher evaluate`: the exact test metrics of a run's weights, overall and by class."""

import argparse
import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

import torch

from launcher import judge, launch, outcome, reopen, screen
from launcher.build import Parts
from launcher.connect import connect
from launcher.errors import LauncherError
from launcher.explain import cause, explained, no_silent_exit
from launcher.parent import die_with_parent
from launcher.reopen import Run
from launcher.state import State

USAGE = """\
Usage: launcher evaluate RUN [step=N|best|last] [key=value]... [--json]
       launcher evaluate RECIPE.py [--config FILE]... [key=value]...
       accelerate launch -m launcher evaluate RUN ...      on several GPUs or processes
       torchrun --nproc_per_node 2 -m launcher evaluate RUN ...

The exact metrics on the whole test split, of the checkpoint with the best score: overall, for each
class, and as a confusion matrix. They are those that the run noted, to the last digit, on any
number of processes with as many threads. RUN is a name under checkpoints/ or a run's folder; a
recipe stands for the run that the same words would train. A run that trains is not disturbed.

  step=best             the checkpoint of the best score (the default)
  step=last             the newest one
  step=1000             that of one step
  data_dir=, threads=   and other run settings, over those that the run had

Switches:
  --allow-change data   evaluate although the test data is not what the run was tested on
  --json                for programs

Example: launcher evaluate cifar_resnet--quick step=last --json
"""
MOST_SHOWN: Final = 20
"""Classes whose confusion is printed for a person; --json has up to 100."""


@no_silent_exit()
def run(found: argparse.Namespace) -> None:
    """What `asked` found after `evaluate`. Raises what `reopen` raises, and RecipeError."""
    wanted, over = reopen.arguments(found.rest)
    started = launch.read()
    if started.command != "python":
        die_with_parent()
    opened = reopen.read(found.folder, over)
    cpu = started.cpu or not torch.accelerator.is_available()
    hparams, said = reopen.for_world(opened, cpu)
    world = connect(started, hparams, opened.settings)
    parts: Parts | None = None
    with ExitStack() as held:
        held.callback(world.close)
        try:
            parts, state = reopen.parts(opened, world, wanted, found.allow_change)
            held.callback(parts.loaders.close)
            result = judge.evaluated(parts, state.step)
            elsewhere = reopen.is_other_data(opened, parts)
        except BaseException as error:
            reason = cause(world, explained(opened.loaded.path, opened.hparams, parts, error))
            if reason is error:
                raise
            raise reason from error
        if not world.is_main:
            return
        noted = None if elsewhere else as_noted(opened, state, result["scores"])
        if found.json:
            screen.text(json.dumps(document(opened, result, noted), indent=1))
        else:
            tables(opened, result, noted)
            if elsewhere:
                screen.text("The test data is not what the run was tested on.")
            if said:
                screen.text(said)


def document(opened: Run, result: Mapping[str, Any], noted: bool | None) -> dict[str, Any]:
    """What `evaluate --json` prints."""
    hidden = ("format", "samples", "mistakes")
    return {
        "run": str(opened.folder),
        **{key: value for key, value in result.items() if key not in hidden},
        "as_noted": noted,
        "mistakes": [
            {key: value for key, value in one.items() if key != "picture"}
            for one in result["mistakes"]
        ],
    }


def tables(opened: Run, result: Mapping[str, Any], noted: bool | None) -> None:
    """What `evaluate` prints for a person."""
    scores, classes, confusion = result["scores"], result["classes"], result["confusion"]
    rows = screen.overall(scores)
    screen.table(f"{opened.folder} at step {result['step']}", ("metric", "value"), rows.items())
    lines = []
    for number, name in enumerate(classes):
        counts = confusion[number] if confusion else []
        samples = f"{sum(counts):,}" if confusion else ""
        key = f"test/accuracy/{name}"
        if key in scores:
            lines.append((name, screen.shown(key, scores[key]), samples))
    if lines:
        screen.table("Accuracy of each class", ("class", "accuracy", "samples"), lines)
    if confusion and len(classes) <= MOST_SHOWN:
        grid = ([name, *(count or "" for count in confusion[n])] for n, name in enumerate(classes))
        screen.table("Confusion: rows are the true classes", ("", *classes), grid)
    match noted:
        case True:
            screen.text("These are the scores that the run noted at this step.")
        case False:
            screen.text(
                "The run noted other scores at this step: rounding, if it had another kind of "
                "device, number of threads or torch; launcher compare and run.json say which."
            )


def as_noted(opened: Run, state: State, scores: Mapping[str, float | None]) -> bool | None:
    """Whether these are the scores that the run noted for this step, of which there may be fewer;
    None where it noted none."""
    try:
        last = outcome.read(opened.folder) or {}
    except LauncherError:  # it is about the same evaluation, and not needed for this one
        last = {}
    for noted in (last, state.best or {}):
        if noted.get("step") == state.step:
            return all(scores.get(name) == value for name, value in noted["scores"].items())
    return None
