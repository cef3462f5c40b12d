"""A recipe: pure functions over typed hyperparameters, and how its file is loaded.

A recipe is code and is run; nothing else that the launcher reads is.
"""

import dataclasses
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher import imported
from launcher.data import Batch, Data
from launcher.errors import LauncherError, RecipeError, did_you_mean, listed
from launcher.losses import cross_entropy
from launcher.metrics import classification
from launcher.monitor import Better
from launcher.settings import Hparams

H = TypeVar("H", bound=Hparams)


def constant(hparams: Hparams, progress: float) -> float:
    """The schedule of a recipe that names none: the learning rate as it is."""
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[H]):
    """What is learned, from what, and how. The launcher owns the loop; a recipe fills it."""

    hparams: type[H]
    data: Callable[[H], Data]
    """Called first: the model may ask it for `classes` and `shape`."""
    model: Callable[[H, Data], nn.Module]
    optimizer: Callable[[H, nn.Module], Optimizer]
    schedule: Callable[[H, float], float] = constant
    """Progress in (0, 1) → factor on every group's learning rate."""
    loss: Callable[[nn.Module, Batch], Tensor] = cross_entropy
    """The mean over the micro-batch."""
    metrics: Callable[[nn.Module, Batch], dict[str, Tensor]] = classification
    """One number per sample, by name."""
    better: Mapping[str, Better] = field(default_factory=dict)
    """Of metrics by other names than `loss` and `accuracy`: "smaller" or "larger"."""

    def __post_init__(self) -> None:
        problems = [*_wrong_hparams(self.hparams)]
        for name, arguments in _ARGUMENTS.items():
            problems += _wrong_signature(name, getattr(self, name), arguments)
        problems += _wrong_directions(self.better)
        if problems:
            raise RecipeError(*problems)


_FRAMES = re.compile(
    r"\s*(Exception raised from [^\n]* \(most recent call first\):|\nframe #\d+: )"
)
_DATACLASS = ("non-frozen dataclass", "follows default argument")
"""What Python says of a class of hyperparameters that is not decorated as it must be."""
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "data": ("hparams",),
    "model": ("hparams", "data"),
    "optimizer": ("hparams", "model"),
    "schedule": ("hparams", "progress"),
    "loss": ("model", "batch"),
    "metrics": ("model", "batch"),
}

_CALLING_TORCH = {
    "loss": 'lambda model, batch: F.cross_entropy(model(batch["image"]), batch["label"])',
    "optimizer": "lambda hparams, model: torch.optim.SGD(model.parameters(), lr=hparams.lr)",
}


def _wrong_hparams(cls: object) -> list[str]:
    if not (isinstance(cls, type) and issubclass(cls, Hparams)):
        return [f"Recipe.hparams must be a subclass of Hparams, not {cls!r}."]
    if "__dataclass_fields__" not in vars(cls):
        return [f"{cls.__name__} must be decorated with @dataclass(frozen=True, kw_only=True)."]
    return []


def _wrong_signature(name: str, function: object, arguments: tuple[str, ...]) -> list[str]:
    wanted = f"Recipe.{name} must be a function {name}({', '.join(arguments)})"
    if not callable(function):
        return [f"{wanted}, not {function!r}."]
    if what := _of_torch(function):
        example = _CALLING_TORCH.get(name, f"lambda {', '.join(arguments)}: ...")
        return [f"{wanted}, and {what} takes other arguments: give {example}."]
    try:
        signature = inspect.signature(function)
        signature.bind(*arguments)
    except TypeError:
        return [f"{wanted}; yours is {name}{signature}."]
    except ValueError:  # a builtin without a signature: its call will tell
        return []
    return []


def _of_torch(function: object) -> str:
    """What a layer, or a function or class of torch's own, is called; empty for any other. torch
    has none that takes what a recipe's functions are given, though it may take as many."""
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, nn.Module):
        return f"a {type(function).__name__}"
    module = getattr(function, "__module__", None) or ""
    if module.partition(".")[0] in ("torch", "torchvision"):
        return f"{module}.{getattr(function, '__name__', function)}"
    return ""


def _wrong_directions(better: object) -> list[str]:
    if isinstance(better, Mapping) and {*better.values()} <= {"smaller", "larger"}:
        return []
    return [f'Recipe.better must be like {{"error": "smaller"}} or "larger", not {better!r}.']


@dataclass(frozen=True)
class Loaded:
    """A recipe with the file it came from."""

    recipe: Recipe[Any]
    path: Path
    source: bytes
    modules: Mapping[str, bytes] = field(default_factory=dict)
    """What it imports of its own folder, by the paths below it."""

    @property
    def sha256(self) -> str:
        """Of the file and of the modules."""
        return imported.identity(self.source, self.modules)


def load(path: Path) -> Loaded:
    """Run a recipe file and take its `recipe`. Raises RecipeError with file and line.

    The module's name is made from the path, and it is registered before it runs, as dataclasses
    need. Its folder is then the first on `sys.path`, as of a script that python runs.
    """
    source = path.read_bytes()
    digest = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
    name = f"launcher_recipe_{path.stem}_{digest[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with blamed(path, "the recipe"), imported.seen(path) as modules:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))  # noqa: S102
    return Loaded(_recipe_of(module, path, source), path, source, modules)


def _recipe_of(module: ModuleType, path: Path, source: bytes) -> Recipe[Any]:
    found = getattr(module, "recipe", None)
    if isinstance(found, Recipe):
        return found
    if found is None and b"own_loop" in source:
        raise RecipeError(
            f"{path} is a loop of its own: it defines no `recipe = Recipe(...)`, which this "
            f"command needs. Start it with python; launcher runs, compare and report show its runs."
        )
    if found is None:
        near = did_you_mean("recipe", [name for name in vars(module) if not name.startswith("_")])
        raise RecipeError(f"{path} defines no `recipe = Recipe(...)`.{near}")
    raise RecipeError(f"{path}: `recipe` must be a Recipe, not {type(found).__name__}.")


def call(loaded: Loaded, name: str, kind: type[Any], *arguments: Any) -> Any:
    """Call one of the recipe's functions. Raises RecipeError when it raises, or when what it
    returns is no `kind`."""
    with blamed(loaded.path, f"recipe.{name}"):
        result = getattr(loaded.recipe, name)(*arguments)
    if isinstance(result, kind) and not (kind is float and isinstance(result, bool)):
        return result
    if kind is float and isinstance(result, int) and not isinstance(result, bool):
        return float(result)
    raise RecipeError(
        f"recipe.{name} in {loaded.path} must return {kind.__name__}, "
        f"but returned {type(result).__name__}."
    )


@contextmanager
def blamed(path: Path, what: str) -> Iterator[None]:
    """Turn what a recipe's code raises into a RecipeError that says where; ours pass through."""
    try:
        yield
    except LauncherError:
        raise
    except SyntaxError as error:
        line = f"{error.lineno}:{error.offset}: " if error.lineno else ""
        raise RecipeError(f"{error.filename or path}:{line or ' '}{error.msg}.") from None
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise
        raise blame(path, error, what) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host was full, which torch says of the host in a RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def without_frames(words: str) -> str:
    """What an exception of torch says, without the stack of its C++, which helps no recipe."""
    said = _FRAMES.split(words, maxsplit=1)[0].rstrip()
    return f'{said}"' if said != words and said.count('"') % 2 else said  # a quotation it ended


def _is_a_call(filename: str) -> bool:
    """Whether a line of a traceback is of torch calling a layer, which says nothing of it."""
    return filename.endswith(("/torch/nn/modules/module.py", "/torch/nn/modules/container.py"))


def blame(path: Path, error: Exception | SystemExit, what: str) -> LauncherError:
    """A refusal of ours as it is; else a RecipeError with the recipe's line that was running."""
    if isinstance(error, LauncherError):
        return error
    if isinstance(error, SystemExit):
        return RecipeError(f"{what} in {path} ended the program with exit({error.code}).")
    text = f"{type(error).__name__}: {without_frames(f'{error}')}".rstrip(".")
    if isinstance(error, TypeError) and "Recipe.__init__()" in text:
        fields = [field.name for field in dataclasses.fields(Recipe)]
        unknown = text.rpartition("'")[0].rpartition("'")[2] if "unexpected" in text else ""
        text += f".{did_you_mean(unknown, fields)} A Recipe has {listed(fields)}"
    frames = traceback.extract_tb(error.__traceback__)
    frames = traceback.StackSummary.from_list([f for f in frames if not _is_a_call(f.filename)])
    own = [number for number, frame in enumerate(frames) if frame.filename == str(path)]
    place = f"{path}:{frames[own[-1]].lineno}" if own else str(path)
    if isinstance(error, TypeError) and any(words in text for words in _DATACLASS):
        return RecipeError(
            f"{place}: {text.partition(': ')[2]}: write @dataclass(frozen=True, kw_only=True) "
            f"above a class of hyperparameters."
        )
    called = "" if own else " (or what it calls)"  # a layer of the wrong size, say
    refusal = RecipeError(f"{place}: {what}{called} raised {text}.")
    if not own or own[-1] != len(frames) - 1:  # else the sentence says it all
        refusal.frames = "".join(traceback.format_list(frames[own[0] if own else 0 :]))
    return refusal
