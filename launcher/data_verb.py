"""`launcher data`: which data sets are here, and `launcher data fetch`: those that are not."""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher import download, inventory, layers, screen, settings
from launcher.catalog import BUILT_IN, NAMES, SETS
from launcher.errors import DataError, SettingsError, did_you_mean
from launcher.progress import Bars
from launcher.provide import provide

USAGE = """\
Usage: launcher data [--check] [--json] [data_dir=PATH]
       launcher data fetch NAME... [data_dir=PATH] [mirror=URL]

  data          every data set: where it lies, its size on disk, whether it is here
  data fetch    download what is not here; NAME is mnist, fashion_mnist, cifar10 or all

A download that was cut is continued. A file with another checksum than its authors published is
kept as NAME.bad and never read. Several processes that fetch at once do it once.

Switches:
  --check               take the checksum of every file; ends with code 4 when one is damaged
  --json                for programs

Settings:
  data_dir=data         where data sets lie, in torchvision's layout
  mirror=URL            tried first, laid out as data_dir: URL/MNIST/raw/train-images-idx3-ubyte.gz,
                        URL/FashionMNIST/raw/..., URL/cifar-10-python.tar.gz; http, https or file

Example: launcher data fetch mnist data_dir=data
"""
_SETTINGS = ("data_dir", "mirror")


def run(given: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """The arguments after `data`. Raises SettingsError, and DataError for what is damaged or
    cannot be had."""
    if "-h" in given or "--help" in given:
        return screen.text(USAGE)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    found = parser.parse_intermixed_args(given)
    words = [word for word in found.words if "=" not in word]
    root, mirror = _settings([word for word in found.words if "=" in word])
    if words and words[0] == "fetch":
        if found.check or found.json:
            raise SettingsError("--check and --json are for `launcher data`: fetch always checks.")
        fetch(_names(words[1:]), root, mirror)
    elif words:
        near = did_you_mean(words[0], ("fetch",)) or " Use `launcher data fetch NAME`."
        raise SettingsError(f"launcher data has no verb {words[0]!r}.{near}")
    else:
        listing(root, check=found.check, as_json=found.json)


def listing(root: Path, *, check: bool, as_json: bool) -> None:
    """Print every data set. Raises DataError when asked to check and one is damaged."""
    lines = inventory.lines(root, check=check)
    if as_json:
        listed = [dataclasses.asdict(line) for line in lines]
        screen.text(json.dumps({"data_dir": str(root), "data_sets": listed}, indent=1))
    else:
        rows = [(line.name, line.path, _size(line.size), line.state) for line in lines]
        screen.table(f"Data sets (data_dir={root})", ("name", "path", "size", "state"), rows)
    damaged = [(line.name, said) for line in lines for said in line.damaged]
    if check and damaged:
        names = " ".join(dict.fromkeys(name for name, _ in damaged))
        advice = f"{inventory.fetching(names, root)} sets it aside and fetches it anew."
        raise DataError(*(said for _, said in damaged), advice)


def fetch(names: Sequence[str], root: Path, mirror: str | None) -> None:
    """Make data sets whole, and say where they are."""
    download.mirror.set(mirror)
    for name in names:
        if name in BUILT_IN:
            screen.text(f"{name}: built in, nothing to fetch")
            continue
        with Bars() if sys.stderr.isatty() else contextlib.nullcontext() as bars:
            provide(SETS[name], root, bars)
        line = inventory.line(SETS[name], root, check=False)
        screen.text(f"{name}: here, checked, {_size(line.size)} in {line.path}")


def _names(words: Sequence[str]) -> list[str]:
    known = (*NAMES, "all")
    wrong = [word for word in words if word not in known]
    if wrong:
        raise SettingsError(
            *(
                f"{word!r} is no data set: there are {', '.join(NAMES)}, and all."
                f"{did_you_mean(word, known)}"
                for word in wrong
            )
        )
    if not words:
        raise SettingsError("no data set is given: launcher data fetch NAME..., or all.")
    wanted = [name for word in words for name in (SETS if word == "all" else (word,))]
    return list(dict.fromkeys(wanted))


def _settings(words: Sequence[str]) -> tuple[Path, str | None]:
    given = [layers.from_argument(word) for word in words]
    foreign = [
        f"{item.key} is no setting of launcher data: it has {', '.join(_SETTINGS)}."
        f"{did_you_mean(item.key, _SETTINGS)}"
        for item in given
        if item.key not in _SETTINGS
    ]
    if foreign:
        raise SettingsError(*foreign)
    found, _ = settings.resolve_run(given)
    if not found.data_dir:
        raise SettingsError("data_dir= is empty: give the folder where data sets lie.")
    root = Path(found.data_dir)
    there = next(place for place in (root, *root.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise SettingsError(f"data_dir={root}: {there} is no folder. Give another one.")
    return root, found.mirror


def _size(count: int) -> str:
    if count < 100_000:
        return f"{count / 1e3:,.1f} kB" if count else "-"
    return f"{count / 1e6:,.1f} MB"
