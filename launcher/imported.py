"""The modules of a recipe's own folder that it imports: a part of what ran, as the recipe is.

They are those that lie in the recipe's folder, or in packages there, under the names by which they
are imported while the recipe is loaded. What is installed is not, and neither is what a function
imports later.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, all_suffixes
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

from launcher import storage
from launcher.errors import RecipeError

_COPY: Final = "recipe.py"


class _Source(SourceFileLoader):
    """Runs the bytes that were read: no bytecode of an earlier file is taken, and none is left."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._content, self.path)


class _Finder:
    """Finds what `PathFinder` does, in its place, and notes what lies in one folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.found: dict[str, tuple[str, bytes]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.origin and (place := _place(self.folder, name, spec.origin)):
            content = Path(spec.origin).read_bytes()
            self.found[name] = place, content
            if isinstance(spec.loader, SourceFileLoader):
                spec.loader = _Source(name, spec.origin, content)
        return spec


_last = _Finder("")
"""Of the recipe that was loaded last."""


@contextmanager
def seen(recipe: Path) -> Iterator[dict[str, bytes]]:
    """Put a recipe's folder first on the path, as `python FILE` does, in the place of that of the
    recipe before. The dictionary holds in the end what was imported from it meanwhile, by the
    paths below it: another recipe's module of the same name is imported anew. Raises RecipeError.
    """
    global _last  # as sys.path and sys.modules are the process's
    tops = {name.partition(".")[0] for name in _last.found}  # with packages that are mere folders
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]
    with suppress(ValueError):
        sys.path.remove(_last.folder)
    folder = str(recipe.resolve().parent)
    _last = finder = _Finder(folder)
    sys.path.insert(0, folder)
    sys.path_importer_cache.pop(folder, None)  # as it was listed then
    sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)
    modules: dict[str, bytes] = {}
    try:
        yield modules
    finally:
        sys.meta_path.remove(finder)
    modules.update(found for name, found in finder.found.items() if name in sys.modules)
    _refuse_copy(recipe, modules)


def by_script(script: Path) -> dict[str, bytes]:
    """The same for a script that runs and has imported what it needs."""
    folder = str(script.resolve().parent)
    files = [
        (place, Path(file))
        for name, module in [*sys.modules.items()]
        if (file := getattr(module, "__file__", None)) and (place := _place(folder, name, file))
    ]
    modules = {place: file.read_bytes() for place, file in files}
    _refuse_copy(script, modules)
    return modules


def _refuse_copy(recipe: Path, modules: dict[str, bytes]) -> None:
    if modules.pop(_COPY, None) is not None and recipe.name != _COPY:
        raise RecipeError(
            f"{recipe} imports {_COPY} of its folder, and the run folder has the copy of "
            f"{recipe.name} by that name: give the module another name."
        )


def _place(folder: str, name: str, file: str) -> str:
    """A module's path below a folder; empty where its name does not lead there."""
    inner = name.replace(".", "/")
    ending = file.removeprefix(f"{folder}/{inner}")
    if ending == file or ending.removeprefix("/__init__") not in all_suffixes():
        return ""
    return "" if name.partition(".")[0] in ("launcher", "__main__") else inner + ending


def identity(source: bytes, modules: Mapping[str, bytes]) -> str:
    """The hash of a recipe with the modules of its folder; of one without, of its file."""
    own = hashlib.sha256(source).hexdigest()
    if not modules:
        return own
    lines = [own, *(f"{digest} {place}" for place, digest in sorted(hashes(modules).items()))]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def hashes(modules: Mapping[str, bytes]) -> dict[str, str]:
    """The hash of each."""
    return {place: hashlib.sha256(content).hexdigest() for place, content in modules.items()}


def changed(folder: Path, before: Mapping[str, str]) -> list[str]:
    """Which of the files that had these hashes are there with another content."""
    there = {place: folder / place for place in before if (folder / place).is_file()}
    now = hashes({place: path.read_bytes() for place, path in there.items()})
    return [place for place in now if now[place] != before[place]]


def keep(folder: Path, modules: Mapping[str, bytes]) -> None:
    """Write them below a folder, where a copy of their recipe lies. Raises StorageError."""
    for place, content in modules.items():
        storage.make_folder((folder / place).parent)
        storage.replace(folder / place, content)
