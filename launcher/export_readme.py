"""The README.md of an export: what it is, and lines that load it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.screen import overall

_LOAD = """\
```python
import torch
from launcher.exported import load          # pip install PATH, a checkout of the launcher

network = load({folder!r})
image = {image}
output = network(image)                     # {outputs}{classes}
```
"""
_CLASSES = """
probability, label = output.softmax(1).max(1)
names = [network.classes[number] for number in label.tolist()]"""
_ONNX = """\
The same without torch, in `model.onnx`, for any number of {takes}, preparation included:

```python
import numpy
import onnxruntime

session = onnxruntime.InferenceSession({path!r})
image = numpy.zeros((1, {shape}), numpy.{dtype})
(output,) = session.run(None, {{"image": image}})
```
"""


def text(name: str, folder: Path, about: Mapping[str, Any], *, onnx: bool) -> str:
    """The whole file; the lines in it are run by a test."""
    shape = ", ".join(map(str, about["shape"]))
    dtype = "uint8" if about["preprocessing"]["dtype"] == "uint8" else "float32"
    image = f"torch.zeros((1, {shape}), dtype=torch.{dtype})  # yours"
    parts = [
        f"# {name}, step {about['step']}\n",
        f"{about['model']}, exported by `launcher export`. `recipe.py` is the code, and runs when "
        f"it is loaded; `export.json` has hyperparameters, classes and preprocessing.\n",
        _scores(about),
        _LOAD.format(
            folder=str(folder),
            image=image,
            classes=_CLASSES if about["classes"] else "",
            outputs="one row for each image",
        ),
        _input(about["preprocessing"]),
    ]
    if about["precision_of_the_run"] != "no":
        parts.append(
            f"The run was evaluated in {about['precision_of_the_run']}; this computes in float32, "
            f"so that outputs differ from the run's by rounding.\n"
        )
    if onnx:
        parts.append(_ONNX.format(path=str(folder / "model.onnx"), shape=shape, dtype=dtype,
                                  takes=f"{dtype} images"))  # fmt: skip
    return "\n".join(parts)


def _scores(about: Mapping[str, Any]) -> str:
    scores = overall(about["scores"])
    shown = ", ".join(f"{key} {value}" for key, value in scores.items())
    return f"Scores of these weights: {shown}.\n" if shown else "The run noted no scores for it.\n"


def _input(preprocessing: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, preprocessing["shape"]))
    prepare = preprocessing["prepare"]
    if prepare["kind"] == "recipe":
        return (
            f"Inputs are {shape} as the test split has them; what happens to them before the model "
            f"is `data(...).prepare` in `recipe.py`, and `network` does it.\n"
        )
    return (
        f"Inputs are images of bytes, {shape} (channels first). Before the model, which `network` "
        f"does, each value becomes `value * scale + shift` with scale "
        f"`{json.dumps(prepare['scale'])}` and shift `{json.dumps(prepare['shift'])}`, one number "
        f"for each channel.\n"
    )
