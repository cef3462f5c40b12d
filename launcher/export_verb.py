"""`launcher export`: a run's weights with all that is needed to use them elsewhere."""

import argparse
import json
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch

from launcher import (
    export_readme,
    exported,
    imported,
    pictures,
    record,
    reopen,
    screen,
    storage,
    tensorfile,
)
from launcher.errors import LauncherError, RecipeError
from launcher.network import Network, opened
from launcher.onnx_graph import write_onnx

USAGE = """\
Usage: launcher export RUN [--to FOLDER] [--onnx] [step=N|best|last] [key=value]...

A folder with the weights of the run's best checkpoint and all that belongs to them:

  model.safetensors     the weights
  recipe.py             the code of the model and of its preparation, as it ran, with the modules
                        of its folder that it imports
  export.json           hyperparameters, classes, shape, preprocessing, scores
  labels.json           the names of the classes, in the order of the model's outputs
  README.md             with the lines that load it, which were tried before the folder was written
  model.onnx            with --onnx: preparation and model in one graph, compared with torch

Switches:
  --to FOLDER           a folder that is not there yet (exported/NAME)
  --onnx                needs, in a checkout of this project: pip install -e '.[onnx]'

Example: launcher export cifar_resnet--quick --to exported/digits
"""
_SOME: Final = (0, 1, 2, 64, 127, 128, 254, 255)
"""Pixel values at which a preparation is looked at."""
TOLERANCE: Final = 1e-4


def run(found: argparse.Namespace) -> None:
    """What `asked` found after `export`. Raises what `network` raises, RecipeError for a model that
    cannot be loaded without its data set, StorageError."""
    wanted, over = reopen.arguments(found.rest)
    opened_run = reopen.read(found.folder, over)
    with opened(opened_run, wanted) as network:
        _write(network, found.to, onnx=found.onnx)


def _write(network: Network, folder: Path, *, onnx: bool) -> None:
    """The whole folder, under another name until it was tried."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    storage.make_folder(temporary)
    try:
        about = _about(network)
        weights = {name: value.cpu() for name, value in network.model.state_dict().items()}
        _, about["weights_sha256"] = storage.create(
            temporary / "model.safetensors", tensorfile.parts(weights)
        )
        storage.create(temporary / "recipe.py", [network.run.loaded.source])
        imported.keep(temporary, network.run.loaded.modules)
        storage.create(temporary / "export.json", [_json(about)])
        storage.create(temporary / "labels.json", [_json(about["classes"])])
        said = [_try(network, temporary)]
        if onnx:
            said.append(write_onnx(temporary, exported.load(temporary)))
        readme = export_readme.text(network.run.folder.name, folder, about, onnx=onnx)
        storage.create(temporary / "README.md", [readme.encode()])
        storage.sync_folder(temporary)
        if folder.is_dir():  # empty, or it would have been refused
            storage.remove(folder)
        storage.rename(temporary, folder)
    except BaseException:
        storage.remove(temporary)
        raise
    for sentence in (
        f"{folder}: the weights of step {network.step} of {network.run.folder}",
        *said,
    ):
        screen.text(sentence)


def _about(network: Network) -> dict[str, Any]:
    """The content of export.json."""
    document, shape = network.run.document, tuple(network.data.shape)
    hparams = {key: entry["value"] for key, entry in document["hyperparameters"].items()}
    return {
        "format": exported.FORMAT,
        "run": document.get("name"),
        "step": network.step,
        "scores": network.scores,
        "recipe_sha256": network.run.loaded.sha256,
        "model": type(network.model).__name__,
        "hyperparameters": hparams,
        "classes": list(network.data.classes),
        "shape": list(shape),
        "preprocessing": preprocessing(network),
        "precision_of_the_run": network.run.precision,
        "versions": record.versions(),
    }


def preprocessing(network: Network) -> dict[str, Any]:
    """What happens to an input before the model, as data.

    `prepare` is {"kind": "affine", "scale", "shift"} (one number for each channel: value * scale +
    shift) when that is what the preparation does to bytes, else {"kind": "recipe"}: then its code
    in recipe.py is the only account of it.
    """
    shape = tuple(network.data.shape)
    found: dict[str, Any] = {"shape": list(shape)}
    if len(shape) == 3:
        found["layout"] = "N x C x H x W, channels are red, green, blue"
        found["resize"] = pictures.resizing(network.data.test.source)
    prepare: dict[str, Any] = {"kind": "recipe"}
    if len(shape) == 3:
        with suppress(LauncherError):  # it takes something else than bytes
            prepare = _affine(network, shape) or prepare
    return found | {"dtype": "uint8" if prepare["kind"] == "affine" else None, "prepare": prepare}


def _affine(network: Network, shape: tuple[int, ...]) -> dict[str, Any] | None:
    values = torch.tensor(_SOME, dtype=torch.uint8)
    flat = values.view(-1, 1, 1, 1).expand(-1, *shape).contiguous()
    mixed = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    result = network.prepared(flat).cpu()
    if result.shape != flat.shape or not result.is_floating_point():
        return None
    shift = result[0, :, 0, 0]
    scale = (result[-1, :, 0, 0] - shift) / 255
    for image in (flat, mixed):
        expected = image * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        if not torch.allclose(network.prepared(image).cpu(), expected, atol=TOLERANCE):
            return None
    return {"kind": "affine", "scale": scale.tolist(), "shift": shift.tolist()}


def _try(network: Network, folder: Path) -> str:
    """Load the folder as its README says, and compare. Raises RecipeError when it cannot be."""
    try:
        loaded = exported.load(folder)
    except LauncherError as error:
        raise RecipeError(
            f"{network.run.folder} cannot be exported: without its data set the recipe makes no "
            f"model ({error}) Let model and data ask the data for nothing but classes and shape, "
            f"and keep what else they need in hyperparameters."
        ) from error
    own, weights = network.model.state_dict(), loaded.model.state_dict()
    if any(not torch.equal(own[name].cpu(), weights[name]) for name in own):
        raise RecipeError(f"{network.run.folder} cannot be exported: its weights load as others.")
    return "loaded again by the lines in its README.md: the same weights"


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"
