"""Train image classifiers on one GPU or many from a one-page recipe.

The names below are what a recipe imports. They are loaded when they are first used, so that
`launcher --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher import (
        augment,
        draws,
        losses,
        metrics,
        mixing,
        models,
        optim,
        own_loop,
        pretrained,
        schedules,
        sources,
    )
    from launcher.data import Batch, Data, Source, Split
    from launcher.recipe import Recipe
    from launcher.rng import SampleRng
    from launcher.settings import Hparams

__all__ = [
    "Batch",
    "Data",
    "Hparams",
    "Recipe",
    "SampleRng",
    "Source",
    "Split",
    "augment",
    "draws",
    "losses",
    "metrics",
    "mixing",
    "models",
    "optim",
    "own_loop",
    "pretrained",
    "schedules",
    "sources",
]

_HOMES = {
    "Batch": "data",
    "Data": "data",
    "Hparams": "settings",
    "Recipe": "recipe",
    "SampleRng": "rng",
    "Source": "data",
    "Split": "data",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'launcher' has no attribute {name!r}")
    if name in _HOMES:
        return getattr(import_module(f"launcher.{_HOMES[name]}"), name)
    return import_module(f"launcher.{name}")


def __dir__() -> list[str]:
    return __all__
