"""The command line: what is asked for, checked before anything slow is imported."""

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from launcher import asked, early, help, launch, layers, naming, outline, settings
from launcher.errors import (
    BUG,
    INTERRUPTED,
    LauncherError,
    Preempted,
    SettingsError,
    did_you_mean,
)
from launcher.request import Request, Resume
from launcher.screen import refuse, text
from launcher.streams import aside, flush, open_what_is_closed

OWN: Mapping[str, str] = {  # verbs that read their own arguments, each in a file of its own
    "data": "data_verb",
    "doctor": "doctor_verb",
    "export": "export_verb",
    "evaluate": "evaluate_verb",
    "predict": "predict_verb",
    "runs": "runs_verb",
    "compare": "compare_verb",
    "report": "report_verb",
    "completion": "completion_verb",
}
ANYWHERE = ("doctor", "completion")
"""Verbs that need no current folder: one says if it is missing, one completes words."""
VERBS = ("train", "show", *OWN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code (see `launcher.errors`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _dispatch(given))


def guarded(work: Callable[[], int]) -> int:
    """The exit code of some work, or of what ended it, which is said in one box."""
    open_what_is_closed()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("launcher").setLevel(logging.INFO)
    try:
        return work()
    except LauncherError as error:
        early.give_way()  # a signal while this waits to speak makes it no stop in good order
        _refuse(error)
        return error.code
    except Exception:
        aside(traceback.format_exc().rstrip("\n"))
        aside("this is a bug of the launcher: please report it with the lines above")
        return BUG
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            aside("interrupted outside of training: nothing was lost")
        return INTERRUPTED
    finally:
        flush()


def _dispatch(given: list[str]) -> int:
    named = bool(given) and given[0] in VERBS
    verb = given.pop(0) if named else "train"
    if verb != "train":
        early.give_way()
    if given == ["--version"]:
        text(f"launcher {version('accelerate-launcher')}")
        return 0
    if verb in OWN:
        _run_own(verb, given)
        return 0
    if not given:
        text(help.BRIEF)
        raise SettingsError(f"no recipe is given: launcher {verb} RECIPE.py [key=value]...")
    if "-h" in given or "--help" in given:
        recipe = next((word for word in given if word.endswith(".py")), None)
        help.show(verb if named or recipe else "", Path(recipe) if recipe else None)
        return 0
    request, as_json = parse(given)
    if request.profile:  # before torch: its profiler's library says on a CPU that there is no GPU
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if verb == "show":
        from launcher.show import show  # torch comes with these, and only now

        show(request, as_json=as_json)
    else:
        from launcher.run import execute

        execute(request)
    return 0


def _run_own(verb: str, given: list[str]) -> None:
    """A verb whose file is imported only now, and with it what it needs."""
    if verb not in ANYWHERE and not {"-h", "--help"} & {*given}:
        _refuse_a_deleted_folder()
    parser = _Parser(prog=f"launcher {verb}", add_help=False, allow_abbrev=False)
    name = f"launcher.{OWN[verb]}"
    if verb not in asked.VERBS:
        import_module(name).run(given, parser)
    elif "-h" in given or "--help" in given:
        text(import_module(name).USAGE)
    else:
        found = asked.parse(verb, given, parser)  # what is wrong, before torch takes its seconds
        import_module(name).run(found)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        given = message.rpartition(": ")[2].split(" ")[0].partition("=")[0]
        near = self._near(given) if given.startswith("--") else ""
        raise SettingsError(f"{message}.{near or f' `{self.prog} --help` lists the switches.'}")

    def _near(self, given: str) -> str:
        """The switch of this verb that was meant. The dashes, which all have, make none alike."""
        bare = [switch[2:] for switch in ("--help", *self._option_string_actions)]
        return did_you_mean(given[2:], bare).replace("'", "'--", 1)


def parse(given: Sequence[str]) -> tuple[Request, bool]:
    """Arguments after the verb. Raises SettingsError with everything that is wrong by now."""
    _refuse_a_deleted_folder()
    parser = _Parser(prog="launcher", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--config", action="append", type=asked.path, default=[])
    parser.add_argument("--resume", type=_resume, default="auto")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--allow-change", action="append", default=[])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--profile", type=_count)
    parser.add_argument("--json", action="store_true")
    found = parser.parse_intermixed_args(given)
    if found.fresh and found.resume != "auto":
        raise SettingsError(
            f"--fresh begins anew and --resume {found.resume} continues: give one of them."
        )
    if found.profile and found.dry_run:
        raise SettingsError("--profile looks at steps, and --dry-run has one: give one of them.")
    if not found.words:
        raise SettingsError("no recipe is given: launcher RECIPE.py [key=value]...")
    started = launch.read()
    recipe = _recipe_path(found.words[0])
    values = [entry for config in found.config for entry in layers.from_file(config)]
    values += [layers.from_argument(word) for word in found.words[1:]]
    for_run, rest = settings.split(values)
    run_settings, origins = settings.resolve_run(for_run, outline.types(recipe), rest)
    name = run_settings.name or naming.derive(recipe, found.config, rest)
    return Request(
        path=recipe,
        name=name,
        folder=_resolved(Path("checkpoints") / name),
        settings=run_settings,
        settings_from=origins,
        given=rest,
        launch=started,
        resume=found.resume,
        fresh=found.fresh,
        allow_change=found.allow_change,
        dry_run=found.dry_run,
        profile=found.profile,
    ), found.json


def _resume(word: str) -> Resume:
    if word.isascii() and word.isdecimal() and 0 < len(word) <= 12:
        return int(word)
    for known in ("auto", "must", "never"):
        if word == known:
            return known
    shown = word if len(word) < 80 else f"{word[:80]}..."
    raise SettingsError(
        f"--resume {shown}: give auto, must, never or the step of a checkpoint."
        f"{did_you_mean(word, ('auto', 'must', 'never'))}"
    )


def _count(word: str) -> int:
    if word.isascii() and word.isdecimal() and int(word[:9]) > 0 and len(word) < 9:
        return int(word)
    raise SettingsError(f"--profile {word[:80]}: give the number of steps to look at, from 1.")


def _refuse_a_deleted_folder() -> None:
    """Raises SettingsError: there nothing is found, and nothing can be written."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise SettingsError(
            "the current folder was deleted: go to one that is there, and give the command again."
        ) from error


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise SettingsError(f"{folder} leads nowhere: {error}.") from error


def _recipe_path(word: str) -> Path:
    path = Path(word)
    if len(path.name.encode(errors="surrogateescape")) > 255 or path.is_dir():
        raise SettingsError(f"{word} is no recipe file: it is a folder, or its name is too long.")
    if path.suffix != ".py":
        raise SettingsError(
            f"{word!r} is neither a verb nor a recipe file: the verbs are {', '.join(VERBS)}, and "
            f"a recipe ends in .py.{did_you_mean(word, VERBS)}"
        )
    if not path.is_file():
        near = [str(p) for p in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        there = f" In {path.parent} there are: {', '.join(near)}." if near else ""
        raise SettingsError(f"there is no recipe file {word}.{did_you_mean(word, near) or there}")
    if not os.access(path, os.R_OK):
        raise SettingsError(f"the recipe file {word} cannot be read: check its permissions.")
    return path


def _refuse(error: LauncherError) -> None:
    """Say it once, whatever the number of processes.

    Most refusals are the same in all of them. The others give the first one time to speak; if it
    fails in the same way the launcher ends them while they wait.
    """
    rank = os.environ.get("RANK", "0")
    process = int(rank) if rank.isdecimal() else 0
    if type(error).__name__ == "RefusedElsewhere":
        return
    if process:
        time.sleep(3)
        if isinstance(error, Preempted):  # as all have agreed to, and the main one says so
            return
    if error.frames:
        aside(error.frames.rstrip("\n"))
    speaker = error.process or process
    refuse(error, f"process {speaker}: " if speaker else "")
