"""A run opened again by its folder: its own recipe, hyperparameters and weights, to look at them.

What ran is what is opened: the copy of the recipe in the folder, and the hyperparameters of
run.json. Checkpoints are checked by their hashes, as on a resume. Nothing is written and no lock is
taken, so that a run can be opened while it trains.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from launcher import checkpoint, describe, imported, layers, overview, resume, settings
from launcher.account import read_run
from launcher.build import Parts, build
from launcher.checkpoint import Checkpoint
from launcher.documents import read_json
from launcher.errors import CheckpointError, DataError, LauncherError, SettingsError, listed
from launcher.layers import Given
from launcher.recipe import Loaded, load
from launcher.settings import Hparams, RunSettings
from launcher.state import State
from launcher.strategy import World

WANTED: Final = re.compile(r"best|last|[0-9]{1,12}")
_NOT_KEPT: Final = ("name", "mirror", "strategy")
"""Run settings that are of the machine, or whose value is not on the disk."""
_PATIENCE: Final = 3
"""Times that checkpoints are looked for: a run that trains removes older ones meanwhile."""


@dataclass(frozen=True)
class Run:
    """A run's folder, read."""

    folder: Path
    document: dict[str, Any]
    """run.json."""
    loaded: Loaded
    hparams: Hparams
    settings: RunSettings

    @property
    def precision(self) -> str:
        """That of the last attempt: no, fp16 or bf16."""
        return str((self.document.get("attempts") or [{}])[-1].get("precision", "no"))


def read(folder: Path, given: Iterable[Given] = ()) -> Run:
    """A run by its folder; `given` are run settings of now, over those that it had.

    Raises CheckpointError when the folder is damaged or nothing was begun there, SettingsError for
    settings that do not exist, RecipeError for a recipe that does not run any more.
    """
    document = read_json(folder / "run.json")
    if not document:
        raise CheckpointError(f"{folder} has no run.json: nothing was begun there, or it is gone.")
    path = folder / "recipe.py"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no recipe.py, the copy of what ran. Put it back.")
    try:
        known = document["identity"]["recipe"]
        hparams = {key: entry["value"] for key, entry in document["hyperparameters"].items()}
        stored = {key: entry["value"] for key, entry in document["run_settings"].items()}
        last = (document.get("attempts") or [{}])[-1]
        taken = {key: last.get(key) for key in ("threads", "layout")}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/run.json is not as a run leaves it: {error!r}.") from error
    loaded = load(path)
    if loaded.sha256 != known:
        modules = read_run(folder).get("modules", {})
        for other in imported.changed(folder, modules):
            raise CheckpointError(
                f"{folder / other}, which the recipe imports, is not the one that ran: it was "
                f"changed. Put the one back whose SHA-256 begins with {modules[other][:12]}."
            )
        which = "that ran" if modules else f"whose SHA-256 begins with {str(known)[:12]}"
        raise CheckpointError(
            f"{path} is not the recipe that ran: it was changed. Put the one back {which}."
        )
    try:
        found = settings.from_json(loaded.recipe.hparams, json.dumps(hparams))
    except ValueError as error:
        raise CheckpointError(
            f"the hyperparameters in {folder}/run.json do not fit its recipe.py: {error}"
        ) from error
    return Run(folder, document, loaded, found, _settings(stored, taken, list(given)))


def _settings(stored: dict[str, Any], taken: dict[str, Any], given: list[Given]) -> RunSettings:
    """The run's own settings, with those of now over them.

    What `auto` came to is kept, as many threads as the machine has: sums depend on it in the last
    bit.
    """
    names = [field.name for field in fields(RunSettings)]
    own = [Given(key, value, None, "run.json") for key, value in stored.items()
           if key in names and key not in _NOT_KEPT]  # fmt: skip
    if taken["threads"]:
        taken["threads"] = min(taken["threads"], len(os.sched_getaffinity(0)))
    own += [Given(key, value, None, "run.json") for key, value in taken.items()
            if value and stored.get(key) == "auto"]  # fmt: skip
    found, _ = settings.resolve_run([*own, *given])
    return found


def arguments(words: Iterable[str]) -> tuple[str, list[Given]]:
    """`step=N|best|last` and run settings, from `key=value` words. Raises SettingsError."""
    given = [layers.from_argument(word) for word in words]
    wanted = [str(item.text) for item in given if item.key == "step"] or ["best"]
    if not WANTED.fullmatch(wanted[-1]):
        raise SettingsError(f"step={wanted[-1]}: give best, last or the step of a checkpoint.")
    return wanted[-1], [item for item in given if item.key != "step"]


def take(folder: Path, wanted: str) -> Checkpoint:
    """The checkpoint of the best evaluation, the last one, or that of a step, with every byte
    checked. A damaged one is passed over for the one before, but not when it was asked for by its
    step. Raises CheckpointError."""
    for attempt in range(_PATIENCE):
        there = overview.checkpoints(folder)
        try:
            return _taken(folder, wanted, there)
        except CheckpointError:  # perhaps removed since it was listed
            if overview.checkpoints(folder) == there or attempt == _PATIENCE - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _taken(folder: Path, wanted: str, there: list[int]) -> Checkpoint:
    if not there:
        if read_json(folder / "status.json").get("state") != "finished":
            raise CheckpointError(f"{folder} has no checkpoint yet.")
        raise CheckpointError(
            f"{folder} has no checkpoint any more, though its run is finished: put its step-* "
            f"folders back, or train it anew under another name=."
        )
    if wanted.isdecimal():
        if int(wanted) not in there:
            raise CheckpointError(
                f"step={wanted}: {folder} has no checkpoint of that step. It has: {listed(there)}."
            )
        return checkpoint.read(folder, int(wanted))
    last, _ = checkpoint.newest(folder)
    assert last is not None, "some are there, and a damaged one raises"
    best = (last.state.get("best") or {}).get("step")
    if wanted == "last" or best in (None, last.step):
        return last
    if best not in there:
        raise CheckpointError(
            f"{folder} has no checkpoint of its best step, {best}: give step=last, or one of "
            f"{listed(there)}."
        )
    return checkpoint.read(folder, best)


def for_world(run: Run, cpu: bool) -> tuple[Hparams, str]:
    """The hyperparameters to meet with: in the precision that the run had, without what only
    training needs; and a sentence, if that precision cannot be had here."""
    precision, said = run.precision, ""
    if precision == "fp16" and cpu:
        precision = "no"
        said = "the run had precision fp16, which needs a GPU: it is evaluated in float32 here"
    changed: dict[str, Any] = {"precision": precision, "sync_batchnorm": False}
    return replace(run.hparams, **changed), said


def parts(run: Run, world: World, wanted: str, allow_change: Iterable[str] = ()) -> tuple[
    Parts, State
]:  # fmt: skip
    """Everything that the run is made of, with the weights of a checkpoint. A collective.

    Raises CheckpointError, DataError for test data that is not the run's unless `allow_change`
    names "data", and what `build` raises.
    """
    size = world.processes * world.devices  # nothing is trained: any number of processes will do
    sizes = replace(run.hparams, batch_size=size, micro_batch_size=None)
    found = build(run.loaded, run.hparams, run.settings, world, sizes=sizes, continued=True)
    try:
        if "data" not in allow_change:
            refuse_other_data(run, found)
        chosen: list[Checkpoint] = []

        def choose() -> int:
            chosen.append(take(run.folder, wanted))
            return chosen[0].step

        step = world.on_main(choose)
        state = resume.restored(found, chosen[0] if chosen else None, step)
        world.prepare(found.model, found.optimizer, sync_batchnorm=False)  # for its autocast
    except LauncherError:
        found.loaders.close()
        raise
    return found, state


def is_other_data(run: Run, found: Parts) -> bool:
    """Whether the test samples are others than those that the run was tested on."""
    return run.document.get("data", {}).get("test") not in (None, describe.data(found)["test"])


def refuse_other_data(run: Run, found: Parts) -> None:
    """Raises DataError when the test samples are not those that the run was tested on."""
    if is_other_data(run, found):
        raise DataError(
            f"the test data is not what {run.folder} was tested on: its content differs. Give "
            f"data_dir= with the same data, or --allow-change data to evaluate on this."
        )
