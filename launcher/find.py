"""Which run is meant: by its name, by its folder, or by the recipe that it would be of."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher import layers, naming, overview, settings, storage
from launcher.errors import SettingsError, StorageError, did_you_mean, listed
from launcher.layers import Given
from launcher.overview import ROOT


def run_folder(word: str, configs: Sequence[Path] = (), given: Iterable[Given] = ()) -> Path:
    """The folder of a run: `cifar_resnet--quick` under checkpoints/, the path of its folder, or a
    recipe file, for the run that the same command would train. Raises SettingsError."""
    if not word:
        raise SettingsError("an empty word is no run: launcher runs lists them.")
    path = Path(word)
    if path.suffix == ".py" and not path.is_dir():
        return _of_recipe(path, configs, given)
    if configs:
        raise SettingsError(f"--config belongs to a recipe file, and {word} is a run.")
    for folder in (ROOT / word, path):
        try:
            if overview.is_run(storage.names(folder)):
                return folder
        except StorageError:
            if os.access(folder, os.F_OK):  # else a name that is too long
                raise
    names = run_names()
    near = did_you_mean(path.name, names)
    there = f" In {ROOT} there are: {listed(names)}." if names else " launcher runs lists them."
    raise SettingsError(f"there is no run {word!r}, in {ROOT} or by that path.{near or there}")


def run_names(root: Path = ROOT) -> list[str]:
    """The names of the runs that lie under a folder."""
    return [
        name
        for name in storage.names(root)
        if not name.startswith(".") and overview.is_run(storage.names(root / name))
    ]


def _of_recipe(recipe: Path, configs: Sequence[Path], given: Iterable[Given]) -> Path:
    values = [entry for config in configs for entry in layers.from_file(config)] + [*given]
    for_run, hparams = settings.split(values)
    named = next((str(item.text) for item in reversed(for_run) if item.key == "name"), None)
    name = named or naming.derive(recipe, configs, hparams)
    if overview.is_run(storage.names(ROOT / name)):
        return ROOT / name
    near = did_you_mean(name, run_names())
    raise SettingsError(
        f"{recipe} has no run {ROOT / name}: give the settings that its name is made of, or the "
        f"name of a run.{near or ' launcher runs lists them.'}"
    )
