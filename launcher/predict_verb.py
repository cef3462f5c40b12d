"""`launcher predict`: what a run's model says of image files."""

import argparse
import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from launcher import pictures, reopen, screen, settings, streams
from launcher.errors import DataError, SettingsError, listed
from launcher.network import Network, opened
from launcher.sources.folder import EXTENSIONS

USAGE = """\
Usage: launcher predict RUN FILE|FOLDER|-... [--top K] [--json] [step=N|best|last] [key=value]...

The classes of image files and their probabilities, by the checkpoint with the best score. A FOLDER
stands for the images in it and below it, `-` for a list of paths on standard input, one a line.

An image is brought to the model's shape as the run's test images are. Files of a run on a folder or
table of images are read exactly as there. For a run on a data set such as cifar10 a file is taken
as a person sees it (turned as its EXIF says, transparency over white), its middle is cut out if it
has another format, and then it is resized; a smaller one is enlarged or padded. The data set itself
is needed only where the recipe computes something from it.

A file that cannot be read is named, the rest goes on, and the exit code is 4 at the end.

Switches:
  --top K               so many classes of each image, the most probable first (3)
  --json                one JSON object a line, for each file

Example: launcher predict cifar_resnet--quick photos/cat.jpg --top 2
"""
BATCH: Final = 64
"""Images in one forward pass."""


def run(found: argparse.Namespace) -> None:
    """What `asked` found after `predict`. Raises DataError at the end when a file could not be
    read or there was none, and what `network` raises."""
    words = [word for word in found.rest if _is_setting(word)]
    images = [word for word in found.rest if word not in words]
    if not images:
        raise SettingsError("launcher predict takes image files: launcher predict RUN x.png")
    wanted, over = reopen.arguments(words)
    empty: list[str] = []
    with opened(reopen.read(found.folder, over), wanted) as network:
        if network.remark:
            streams.aside(network.remark)
        good, broken = _predict(network, files(images, empty), found)
    if broken:
        others = " The others are above." if good else ""
        empty.append(f"{len(broken)} of the files could not be read: {listed(broken)}.{others}")
    if empty:
        raise DataError(*empty)


def _predict(
    network: Network, waiting: Iterator[str], found: argparse.Namespace
) -> tuple[int, list[str]]:
    """Show what the model says of each file; returns how many it were, and the paths of those that
    cannot be read."""
    picture = pictures.reading(network.data.test.source)
    good, broken = 0, list[str]()
    while paths := list(islice(waiting, BATCH)):
        read = [pictures.read(picture, path) for path in paths]
        images = [image for image in read if isinstance(image, Tensor)]
        answers = iter(predictions(network, torch.stack(images), found.top) if images else ())
        good += len(images)
        for path, image in zip(paths, read, strict=True):
            if isinstance(image, Tensor):
                show(path, next(answers), as_json=found.json)
            else:
                broken.append(path)
                show(path, image, as_json=found.json)
    return good, broken


def predictions(network: Network, image: Tensor, top: int) -> list[Any]:
    """For each image its classes, the most probable first: class, label, probability. Without
    classes, what the model gives, as numbers."""
    output = network.outputs(image)
    classes = network.data.classes
    if not classes:
        return [_finite(values) for values in output.flatten(1).tolist()]
    probability = output.softmax(1)
    best = probability.topk(min(top, len(classes)))
    return [
        [
            {"class": classes[label], "label": label, "probability": share}
            for label, share in zip(labels, _finite(shares), strict=True)
        ]
        for labels, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def show(path: str, said: Any, *, as_json: bool) -> None:
    """One line for one file; `said` is a text for one that cannot be read."""
    key = "error" if isinstance(said, str) else "predictions"
    if key == "predictions" and said and not isinstance(said[0], dict):
        key = "output"
    if as_json:
        return screen.text(json.dumps({"file": path, key: said}))
    if key == "error":
        return screen.text(f"{path}: cannot be read: {said}")
    shown = [
        f"{one['class']} {screen.shown('accuracy', one['probability'])}"
        if isinstance(one, dict)
        else f"{one}"
        for one in said
    ]
    screen.text(f"{path}: {', '.join(shown)}")


def files(words: Iterable[str], empty: list[str]) -> Iterator[str]:
    """Paths of files: a folder's images in order, `-` the lines of standard input, others as they
    are. Where a word that stands for files has none, that goes to `empty`, as a sentence."""
    for word in words:
        if word == "-":
            said, found = "standard input names no image.", _lines()
        elif os.path.isdir(word):
            said, found = f"there is no image in the folder {word} or below it.", _images(word)
        else:
            yield word
            continue
        first = next(found, None)
        if first is None:
            empty.append(said)
        else:
            yield first
            yield from found


def _lines() -> Iterator[str]:
    return (line.rstrip("\r\n") for line in sys.stdin if line.strip())


def _images(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(place, name)


def _is_setting(word: str) -> bool:
    """Whether a word is a setting and no file: files may have `=` in their names, too."""
    names = {"step", *(field.name for field in dataclasses.fields(settings.RunSettings))}
    match = re.match(r"([a-z_]+)=", word)
    return match is not None and match[1] in names and not os.path.exists(word)


def _finite(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
