"""Weights to begin with: of a file in torchvision's format, or of a finished run.

    pretrained.load(network, "https://download.pytorch.org/models/resnet34-b627a593.pth", head="fc")
    pretrained.load(network, "weights.safetensors", head="fc")
    pretrained.load(network, "checkpoints/cifar_resnet", head="fc")
    pretrained.load(network, "checkpoints/first_stage")

This is for a recipe's `model`, and has nothing to do with checkpoints of the run itself: a run that
continues has its own weights, and does not need these any more. Their hash is noted with the run's
data, so that it does not continue with others in silence.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from launcher import checkpoint, download, sources, storage
from launcher.catalog import Remote
from launcher.documents import read_json
from launcher.errors import DataError, SettingsError, listed
from launcher.kept import own_memory

_PUBLISHED: Final = re.compile(r"[^/]+-([0-9a-f]{8,64})\.(pth|pt|safetensors)")
"""A file's name that ends with the beginning of its sha256, as torch.hub has them."""
_UNNEEDED: Final = "num_batches_tracked"
"""A buffer that files of older torchvisions lack; it has no effect on the network's outputs."""

# A recipe's `model` takes hyperparameters and data only; the launcher sets these before it calls.
needed: ContextVar[bool] = ContextVar("needed", default=True)
"""False when the weights of a checkpoint follow: what is not there is then passed over."""
used: ContextVar[str] = ContextVar("used", default="")
"""The hash of what was loaded last."""


def load(model: nn.Module, weights: str, head: str = "") -> None:
    """Put weights into a model, all but those of its `head`, the module that is made anew; without
    a head all of them, as for the second stage of a training whose first one trained the head.

    `weights` is a finished run's folder (its best checkpoint), a file of a dictionary of tensors
    (`.safetensors`, or what torch.save writes, of which nothing but tensors is read), or such a
    file's URL, if its name ends with its sha256 (`resnet34-b627a593.pth`): that is downloaded to
    `weights/` in `data_dir` once. Names are the model's, and shapes too.

    Raises DataError for weights that are not there, are no tensors or do not fit, SettingsError for
    a URL without a hash, CheckpointError for a damaged run.
    """
    found = _there(weights)
    if found is None:
        return
    digest, tensors = found
    own_memory(model)
    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(f"{head}.")
    }
    saved = {name: value for name, value in tensors.items() if not name.startswith(f"{head}.")}
    if differences := list(_differences(own, saved)):
        raise DataError(f"weights={weights} does not fit the model: {listed(differences)}.")
    with torch.no_grad():
        for name, tensor in own.items():
            if name in saved:
                tensor.copy_(saved[name])
    used.set(digest)


def freeze(model: nn.Module, head: str) -> None:
    """Make everything but the `head` a fixed feature extractor: no gradients, and evaluation mode
    also in training, so that batch norm's running averages stay what they are."""
    for name, module in model.named_children():
        if name != head:
            module.eval().requires_grad_(False)


def _there(weights: str) -> tuple[str, Mapping[str, Any]] | None:
    """Hash and content, or None for what is neither there nor needed."""
    if "://" in weights:
        path, begins = _remote(weights)
    else:
        path, begins = Path(weights).expanduser(), ""
    if not path.exists():
        if not needed.get():
            return None
        raise DataError(
            f"weights={weights} is not there. Give the path of a file in torchvision's format, the "
            f"folder of a finished run, checkpoints/NAME, or none to begin with random weights."
        )
    if path.is_dir():
        return _of_a_run(path)
    data = storage.read(path)
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(begins):
        raise DataError(
            f"{path} has the sha256 {digest}, and its name says {begins}. "
            f"{download.set_aside(path)}"
        )
    return digest, _tensors(path, data)


def _remote(url: str) -> tuple[Path, str]:
    """Where a published file lies, fetched if need be, and how its sha256 begins."""
    name = Path(urlsplit(url).path).name
    match = _PUBLISHED.fullmatch(name)
    if match is None:
        raise SettingsError(
            f"weights={url}: the file's name does not end with its sha256 (like "
            f"resnet34-b627a593.pth), so that it cannot be checked. Download it and give its path."
        )
    path = sources.data_dir.get() / "weights" / name
    if needed.get():
        remote = Remote(
            url, (url,), md5="", path=f"weights/{name}", sha256=match[1], setting="weights",
            instead="give weights=none, or weights=checkpoints/NAME of a finished run",
        )  # fmt: skip
        download.fetch(remote, path)
    return path, match[1]


def _of_a_run(folder: Path) -> tuple[str, Mapping[str, Any]]:
    status = read_json(folder / "status.json")
    if status.get("state") != "finished":
        what = f"has not finished (it is {status['state']})" if status else "is no run"
        raise DataError(f"weights={folder} {what}. Give the folder of a finished run, or a file.")
    there = checkpoint.steps(folder)
    best = (status["result"].get("best") or {}).get("step")
    step = best if best in there else status["step"]
    found = checkpoint.read(folder, step)
    return found.files["COMMIT"].decode(), found.weights


def _tensors(path: Path, data: bytes) -> Mapping[str, Any]:
    """A file's content, unless it is more than tensors by their names. Raises DataError."""
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load(data)
        else:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except SafetensorError as error:
        raise DataError(f"{path} is no file of tensors: {error}.") from error
    except Exception as error:  # what unpickling raises depends on where a file is odd
        code = re.search(r"GLOBAL (\S+)", str(error))
        what = f"names {code[1]}, which is code" if code else "is damaged or of another format"
        raise DataError(
            f"{path} is no file of tensors alone: it {what}. Nothing of it was run. Give a file in "
            f"torchvision's format, a dictionary of tensors."
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        kind = type(found).__name__
        raise DataError(f"{path} holds {kind}, and not a dictionary of tensors by their names.")
    return found


def _differences(own: Mapping[str, Tensor], saved: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(own.keys() | saved.keys()):
        if name not in own:
            yield f"{name} is not in the model"
        elif name not in saved:
            if not name.endswith(_UNNEEDED):
                yield f"{name} is not in the weights"
        elif what := _odd(saved[name], own[name]):
            yield f"{name} is {what}"


def _odd(value: Any, own: Tensor) -> str:
    """Why a value cannot take the place of one of the model's; empty when it can."""
    if not isinstance(value, Tensor):
        return f"no tensor but {type(value).__name__}"
    if value.is_meta or value.layout != torch.strided or value.is_quantized or value.is_nested:
        kind = "of the device meta" if value.is_meta else f"{value.layout} of {value.dtype}"
        return f"a tensor without plain numbers ({kind})"
    if value.shape != own.shape:
        return f"{tuple(value.shape)} in the weights and {tuple(own.shape)} in the model"
    if value.is_complex() or value.is_floating_point() != own.is_floating_point():
        return f"{value.dtype} in the weights and {own.dtype} in the model"
    if value.is_floating_point() and not value.float().isfinite().all():
        return "not finite"
    return ""
