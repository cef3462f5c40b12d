"""What `evaluate`, `predict` and `export` are asked for, refused where it can be without torch."""

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from launcher import layers, settings, storage
from launcher.errors import SettingsError
from launcher.find import run_folder

VERBS: Final = ("evaluate", "predict", "export")
_ONNX: Final = ("onnxruntime", "onnxscript")
_CHECKOUT: Final = Path(__file__).resolve().parent.parent


def parse(verb: str, given: Sequence[str], parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The switches of one of `VERBS`; beside them `folder`, the run's, and `rest`, the words about
    it. Raises SettingsError."""
    parser.add_argument("words", nargs="*")
    if verb == "evaluate":
        parser.add_argument("--config", action="append", type=path, default=[])
        parser.add_argument("--allow-change", action="append", default=[])
    if verb == "predict":
        parser.add_argument("--top", type=int, default=3)
    if verb == "export":
        parser.add_argument("--to", type=path)
        parser.add_argument("--onnx", action="store_true")
    else:
        parser.add_argument("--json", action="store_true")
    found = parser.parse_intermixed_args(given)
    if verb == "predict" and found.top < 1:
        raise SettingsError(f"--top {found.top}: give 1 or more.")
    if verb == "predict" and len(found.words) < 2:
        raise SettingsError(
            "launcher predict takes a run and image files: launcher predict RUN x.png"
        )
    if verb == "predict" and "" in found.words[1:]:
        raise SettingsError("an empty word is no image file: launcher predict RUN x.png")
    if not found.words:
        raise SettingsError(f"no run is given: launcher {verb} RUN; launcher runs lists them.")
    if wrong := [word for word in getattr(found, "allow_change", ()) if word != "data"]:
        raise SettingsError(f"--allow-change {wrong[0]}: only data can be another here.")
    if verb == "evaluate":
        found.folder, found.rest = _folder_of(found.words, found.config)
    else:
        found.folder, found.rest = run_folder(found.words[0]), found.words[1:]
    if verb == "export":
        _refuse_export(found)
    return found


def path(word: str) -> Path:
    """A path that was given: an empty word, as of a variable that is not set, would pass for the
    current folder. Raises what argparse has answered."""
    if not word:
        raise argparse.ArgumentTypeError("an empty word is no path")
    return Path(word)


def _folder_of(words: Sequence[str], configs: Sequence[Path]) -> tuple[Path, list[str]]:
    """The run's folder, and the words about it: of a recipe, hyperparameters name the run."""
    first, *rest = words
    if not first.endswith(".py"):
        return run_folder(first, configs), rest
    given = [layers.from_argument(word) for word in rest if not word.startswith("step=")]
    for_run, _ = settings.split(given)
    keys = {"step", *(item.key for item in for_run)} - {"name"}
    return run_folder(first, configs, given), [w for w in rest if w.partition("=")[0] in keys]


def _refuse_export(found: argparse.Namespace) -> None:
    found.to = found.to or Path("exported") / found.folder.resolve().name
    there = os.path.lexists(found.to) and not found.to.is_dir()
    if there or storage.names(found.to):
        raise SettingsError(f"{found.to} is there already: give another --to, or move it away.")
    if found.onnx and (missing := [name for name in _ONNX if find_spec(name) is None]):
        raise SettingsError(f"--onnx needs {' and '.join(missing)}: {installing('onnx')}.")


def installing(extra: str) -> str:
    """The line that installs an extra of this project, which is on no package index."""
    if (_CHECKOUT / "pyproject.toml").is_file():
        return f"pip install -e '{_CHECKOUT}[{extra}]'"
    return f"in a checkout of this project, pip install '.[{extra}]'"
