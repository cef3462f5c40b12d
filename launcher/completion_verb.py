"""`launcher completion`: the shell asks `launcher completion words ...` for what may come next.

One answer for all shells, made from the verbs, the settings and the files that are there, so that
nothing has to be kept in step with a script that somebody once installed.
"""

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from launcher import find, outline, screen, settings
from launcher.catalog import NAMES
from launcher.errors import LauncherError, SettingsError, did_you_mean
from launcher.overview import STATES

USAGE = """\
Usage: launcher completion bash|zsh|fish

Prints a script that makes the Tab key complete verbs, switches, recipes, runs and settings.

  bash   eval "$(launcher completion bash)"          in ~/.bashrc
  zsh    eval "$(launcher completion zsh)"           in ~/.zshrc, after compinit
  fish   launcher completion fish | source           in ~/.config/fish/config.fish

Example: launcher completion bash
"""

# COMP_WORDBREAKS makes words of what stands before and after `=`, so bash completes what is behind.
SCRIPTS = {
    "bash": """\
_launcher() {
    local line words
    read -r -a words <<< "${COMP_LINE:0:COMP_POINT}"
    [[ "${COMP_LINE:0:COMP_POINT}" == *[[:space:]] ]] && words+=("")
    COMPREPLY=()
    while IFS= read -r line; do
        [[ "$2" != "${words[-1]}" ]] && line="${line#"${words[-1]%"$2"}"}"
        COMPREPLY+=("$line")
    done < <(launcher completion words "${words[@]:1}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[=/] ]] && compopt -o nospace
}
complete -o default -F _launcher launcher
""",
    "zsh": """\
_launcher() {
    local -a found
    found=("${(@f)$(launcher completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n "$found" ]] && compadd -Q -S '' -- "${found[@]}" || _files
}
compdef _launcher launcher
""",
    "fish": """\
function __launcher_words
    set -l given (commandline -opc) (commandline -ct)
    launcher completion words $given[2..] 2>/dev/null
end
complete -c launcher -a '(__launcher_words)'
""",
}
_TRAIN = ("--config", "--dry-run", "--profile", "--resume", "--fresh", "--allow-change", "--help")
SWITCHES = {
    "train": _TRAIN,
    "show": ("--config", "--json", "--help"),
    "data": ("--check", "--json", "--help"),
    "runs": ("--sort", "--state", "--json", "--help"),
    "compare": ("--json", "--help"),
    "report": ("--output", "--help"),
    "doctor": ("--json", "--help"),
    "export": ("--to", "--onnx", "--help"),
    "predict": ("--top", "--json", "--help"),
    "evaluate": ("--config", "--allow-change", "--json", "--help"),
    "completion": ("--help",),
}
"""Of each verb."""
_VALUES = {
    "--sort": ("age", "name", "state", "step", "best"),
    "--state": STATES,
    "--resume": ("auto", "must", "never"),
}
_OF_RUNS = ("compare", "evaluate", "export", "predict", "report")
"""Verbs whose words are runs."""
_STEP = ("step=best", "step=last", "data_dir=", "threads=")


def run(given: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """The arguments after `completion`. Raises SettingsError for a shell that is not known."""
    if given and given[0] == "words":  # a shell asks, and whatever it typed must not be an option
        for word in candidates(list(given[1:])):
            screen.text(word)
        return
    if not given or "-h" in given or "--help" in given:
        screen.text(USAGE)
        if not given:
            raise SettingsError("no shell is given: launcher completion bash, zsh or fish.")
        return
    if given[0] not in SCRIPTS or given[1:]:
        raise SettingsError(
            f"launcher completion knows {', '.join(SCRIPTS)}, not {' '.join(given)!r}."
            f"{did_you_mean(given[0], SCRIPTS)}"
        )
    screen.text(SCRIPTS[given[0]])


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words after `launcher` may become, in order."""
    *before, typed = words or [""]
    verb = before[0] if before and before[0] in SWITCHES else "train"
    previous = before[-1] if before else ""
    return [word for word in _possible(verb, before, previous, typed) if word.startswith(typed)]


def _possible(verb: str, before: list[str], previous: str, typed: str) -> Iterable[str]:
    if previous == "--config":
        return _files(typed, ".yaml")
    if previous in _VALUES:
        return _VALUES[previous]
    if typed.startswith("-"):
        return SWITCHES[verb]
    if not before:
        return [*SWITCHES, *_files(typed, ".py")]
    if verb == "completion":
        return SCRIPTS
    if verb == "data":
        return [*(() if "fetch" in before else ("fetch",)), *NAMES, "all", "data_dir=", "mirror="]
    if verb == "runs":
        return _files(typed, "/")
    recipe = next((Path(word) for word in before if word.endswith(".py")), None)
    if verb == "predict" and len(before) > 1:
        return [*_STEP, *_files(typed, "")]
    if verb in _OF_RUNS and (verb in ("compare", "report") or len(before) == 1):
        return [*find.run_names(), *_files(typed, ".py")]
    if verb == "doctor":
        return ["data_dir="]
    if verb in ("evaluate", "export") and recipe is None:
        return _STEP
    return _files(typed, ".py") if recipe is None else _settings(recipe)


def _settings(recipe: Path) -> list[str]:
    """`key=` for every hyperparameter and run setting, and `dataset=` with every name."""
    known = [f"{field.name}=" for field in dataclasses.fields(settings.RunSettings)]
    with suppress(LauncherError, OSError, SyntaxError, ValueError):
        own = outline.fields(recipe.read_text("utf-8"), {"Hparams"})
        common = outline.fields(Path(settings.__file__).read_text("utf-8"), {"Hparams"})
        names = dict.fromkeys(field.name for field in (*own, *common))
        known = [*(f"{name}=" for name in names), *known]
        if "dataset" in names:
            known += [f"dataset={name}" for name in NAMES]
    return known


def _files(typed: str, end: str) -> list[str]:
    """Folders, with a slash, and files with a name that ends so, in the folder typed so far."""
    folder, _, _ = typed.rpartition("/")
    place = f"{folder}/" if folder or typed.startswith("/") else ""
    with suppress(OSError, ValueError):
        there = sorted(Path(place or ".").iterdir())
        shown = [path for path in there if not path.name.startswith((".", "__"))]
        return [f"{place}{path.name}{'/' if path.is_dir() else ''}" for path in shown
                if path.is_dir() or path.name.endswith(end)]  # fmt: skip
    return []
