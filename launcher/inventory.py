"""Which data sets are here: where they lie, how large they are, and whether they are whole."""

import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path

from launcher import provide
from launcher.catalog import BUILT_IN, NAMES, SETS, DataSet
from launcher.settings import RunSettings


@dataclass(frozen=True)
class Line:
    """A data set, as `launcher data` lists it."""

    name: str
    path: str
    """Where it lies, or would lie."""
    size: int
    """Bytes on disk, of what belongs to it."""
    state: str
    damaged: tuple[str, ...] = ()
    """What is wrong with which file, one sentence each."""


def lines(root: Path, *, check: bool) -> list[Line]:
    """Every data set that has a name; with `check`, the md5 of every file is taken."""
    return [
        _built_in(name) if name in BUILT_IN else line(SETS[name], root, check) for name in NAMES
    ]


def line(dataset: DataSet, root: Path, check: bool) -> Line:
    """One data set of files."""
    archive = provide.archived(dataset, root)
    packed = archive if archive and archive.is_file() else None
    found = [(provide.find(dataset, piece, root), piece) for piece in dataset.pieces]
    files = [(path, piece) for path, piece in found if path] + ([(packed, None)] if packed else [])
    wrong = {
        path: said
        for path, piece in files
        if (said := provide.damage(dataset, path, piece, thorough=check))
    }
    whole = all(path for path, _ in found) or packed is not None
    if wrong:
        state = f"damaged: {', '.join(path.name for path in wrong)}"
    elif not whole:
        state = f"not here: {fetching(dataset.name, root)}"
    else:
        state = "here, checked" if check else "here"
    first = next((path.parent for path, _ in found if path), root / dataset.folder)
    size = sum(path.stat().st_size for path, _ in files)
    damaged = tuple(f"{path} is damaged: it {said}." for path, said in wrong.items())
    return Line(dataset.name, str(first), size, state, damaged)


def fetching(names: str, root: Path) -> str:
    """The command that fetches data sets to where they are looked for."""
    given = "" if root == Path(RunSettings().data_dir) else f" data_dir={shlex.quote(f'{root}')}"
    return f"launcher data fetch {names}{given}"


def _built_in(name: str) -> Line:
    if name != "digits":
        return Line(name, "", 0, "built in")
    spec = importlib.util.find_spec("sklearn")  # which does not import it
    path = (
        Path(spec.origin).parent / "datasets/data/digits.csv.gz" if spec and spec.origin else None
    )
    if path is None or not path.is_file():
        return Line(name, str(path or ""), 0, "not here: pip install scikit-learn")
    return Line(name, str(path), path.stat().st_size, "built in")
