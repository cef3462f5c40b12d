"""Checkpoints: what training changed, in one folder that is whole or not there.

    step-000000000980/  model.safetensors  optimizer.safetensors  state.json  manifest.json  COMMIT

and ema.safetensors, where the run averages its weights.

A save writes a hidden folder beside the final one, hashes and syncs every file, then the manifest
of the hashes, then COMMIT with the manifest's own hash, then the folder, and only then renames it
and syncs the parent. So a name `step-...` means a complete checkpoint after a kill or a power cut,
and the hashes find what the disk has changed since. Old checkpoints go last, by way of another
rename. No pickle: tensors as safetensors, the rest as JSON; reading one runs no code.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher import kept, storage, tensorfile
from launcher.errors import CheckpointError, StorageError, listed
from launcher.slots import numbers, parted, put_slots
from launcher.snapshot import Host, Snapshot, json_bytes
from launcher.together import Together, kind_of

FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
AVERAGE = "ema.safetensors"
_STEP = re.compile(r"step-([0-9]{12})")
_MOST_MANIFEST = 1 << 16  # a hundred times what ours has: a longer one is parsed by nobody


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was checked."""

    step: int
    model: dict[str, Tensor]
    kind: str
    """The optimizer's class."""
    optimizer: dict[str, Any]
    """Its state, tensors, numbers and None, as `parameter.name/slot`."""
    state: dict[str, Any]
    files: Mapping[str, bytes]
    """What it was read from: enough to read it again, in another process."""
    average: dict[str, Tensor]
    """Of the weights; empty where the run keeps none."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """What evaluation uses, and so should whatever is made of this checkpoint: the average,
        where there is one."""
        return self.average or self.model


def folder_of(run: Path, step: int) -> Path:
    return run / f"step-{step:012d}"


def steps(run: Path) -> list[int]:
    """The steps of the checkpoints in a run folder, ascending, by name alone."""
    found = [_STEP.fullmatch(name) for name in storage.names(run)]
    return sorted(int(match[1]) for match in found if match and (run / match[0]).is_dir())


def save(
    run: Path, step: int, model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any],
    average: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Write the checkpoint of one step; when this returns it is durable. Raises StorageError."""
    write(run, Host().take(step, model, optimizer, state, average))


def write(run: Path, snapshot: Snapshot) -> None:
    """Write a snapshot as a checkpoint; when this returns it is durable. Raises StorageError."""
    step = snapshot.step
    contents: dict[str, Iterable[storage.Buffer]] = {
        "model.safetensors": tensorfile.parts(snapshot.model),
        "optimizer.safetensors": tensorfile.parts(snapshot.optimizer),
        "state.json": [snapshot.state],
    }
    if snapshot.average:
        contents[AVERAGE] = tensorfile.parts(snapshot.average)
    temporary = run / f".tmp-{step:012d}-{secrets.token_hex(8)}"
    try:
        storage.make_folder(temporary)
        files = {name: storage.create(temporary / name, data) for name, data in contents.items()}
        manifest = json_bytes({
            "format": FORMAT,
            "step": step,
            "optimizer": snapshot.kind,
            "files": {name: {"bytes": size, "sha256": h} for name, (size, h) in files.items()},
        })  # fmt: skip
        _, digest = storage.create(temporary / "manifest.json", [manifest])
        storage.create(temporary / "COMMIT", [digest.encode()])
        storage.sync_folder(temporary)
        final = folder_of(run, step)
        if final.exists():  # the run was continued before this step
            set_aside(run, step)
        storage.rename(temporary, final)
    except (StorageError, CheckpointError):
        storage.remove(temporary)
        raise


def prune(run: Path, keep: int, pinned: Iterable[int] = ()) -> None:
    """Remove all but the newest `keep` checkpoints and the pinned ones."""
    all_steps = steps(run)
    for step in set(all_steps[:-keep]) - set(pinned):
        trash = run / f".trash-{step:012d}-{secrets.token_hex(4)}"
        storage.rename(folder_of(run, step), trash)
        storage.remove(trash)


def set_aside(run: Path, step: int) -> None:
    """Give a damaged checkpoint a name that nobody continues from, and keep it as evidence."""
    folder = folder_of(run, step)
    storage.rename(folder, run / f".bad-{folder.name}-{secrets.token_hex(4)}")


def tidy(run: Path) -> None:
    """Remove unfinished and half-deleted folders. Only for the owner of the run's lock."""
    for name in storage.names(run):
        unfinished = name.startswith(".") and name.endswith(".tmp")
        if unfinished or name.startswith((".tmp-", ".trash-")):
            storage.remove(run / name)


def newest(run: Path) -> tuple[Checkpoint | None, dict[int, str]]:
    """The newest checkpoint that is whole, and for each newer step a sentence on why it is not.

    Raises CheckpointError when there are checkpoints and none is whole.
    """
    skipped: dict[int, str] = {}
    for step in reversed(steps(run)):
        try:
            return read(run, step), skipped
        except CheckpointError as error:
            skipped[step] = str(error)
    if skipped:
        raise CheckpointError(
            *skipped.values(),
            f"No checkpoint in {run} is whole: nothing was changed. Restore one from a copy, or "
            f"give --fresh to start again beside them.",
        )
    return None, skipped


def read(run: Path, step: int) -> Checkpoint:
    """Read and check one checkpoint. Raises CheckpointError with what is wrong with it."""
    folder = folder_of(run, step)
    try:
        files = {
            "manifest.json": storage.read(folder / "manifest.json", most=_MOST_MANIFEST),
            "COMMIT": storage.read(folder / "COMMIT", most=64),
        }
        manifest = _checked_manifest(files, folder.name, step)
        for name, entry in manifest.files.items():
            files[name] = storage.read(folder / name, most=entry.bytes)
    except StorageError as error:
        raise CheckpointError(f"{folder.name}: {error}") from error
    return parse(files, step)


def named(files: Mapping[str, bytes], step: int) -> list[str]:
    """The files that a manifest names, from it and COMMIT. Raises CheckpointError."""
    return sorted(_checked_manifest(files, folder_of(Path(), step).name, step).files)


def parse(files: Mapping[str, bytes], step: int) -> Checkpoint:
    """A checkpoint from the content of its files; what is hashed and what is parsed are the same
    bytes, so nothing can change in between. Raises CheckpointError."""
    folder = folder_of(Path(), step).name
    manifest = _checked_manifest(files, folder, step)
    try:
        for name, entry in manifest.files.items():
            if hashlib.sha256(files[name]).hexdigest() != entry.sha256:
                raise CheckpointError(f"{folder}: {name} was changed or cut short.")
        state = json.loads(files["state.json"])
        if not isinstance(state, dict) or not isinstance(state.get("slots"), dict):
            raise CheckpointError(f"{folder}: state.json is not the state of a run.")
        slots = numbers(state.pop("slots"))
        optimizer = dict(tensors_of(files["optimizer.safetensors"])) | slots
        model = tensors_of(files["model.safetensors"])
        average = tensors_of(files[AVERAGE]) if AVERAGE in files else {}
        return Checkpoint(step, model, manifest.optimizer, optimizer, state, files, average)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}: {type(error).__name__}: {error}.") from error


class _File(BaseModel, extra="forbid", strict=True):
    bytes: int
    sha256: str


class _Manifest(BaseModel, extra="forbid", strict=True):
    """What manifest.json must look like; pydantic's error is a ValueError."""

    format: int
    step: int
    optimizer: str
    files: dict[str, _File]


def _checked_manifest(files: Mapping[str, bytes], folder: str, step: int) -> _Manifest:
    text = files["manifest.json"]
    if hashlib.sha256(text).hexdigest().encode() != files["COMMIT"]:
        raise CheckpointError(f"{folder}: manifest.json is not the one that COMMIT names.")
    try:
        document = json.loads(text.decode(), object_pairs_hook=_each_once)
        version = document.get("format") if isinstance(document, dict) else None
        if isinstance(version, int) and version != FORMAT:
            raise CheckpointError(f"{folder}: has format {version}, this launcher reads {FORMAT}.")
        found = _Manifest.model_validate(document)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}: {type(error).__name__}: {error}.") from error
    if found.step != step or {*found.files} - {AVERAGE} != {*FILES}:
        raise CheckpointError(f"{folder}: manifest.json belongs to another checkpoint.")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one that names a key twice would mean different things to two readers."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer | Together) -> None:
    """Load weights and optimizer state in place, by parameter name.

    Raises CheckpointError with the first ten differences when names, shapes or dtypes are not those
    that the recipe built, RecipeError for a model that nothing can be loaded into. Nothing is
    changed then.
    """
    kept.refuse(model)
    own = model.state_dict()
    differences = list(_differences(own, checkpoint.model))
    if checkpoint.average:
        differences += [f"{AVERAGE}: {text}" for text in _differences(own, checkpoint.average)]
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    names = set(name_of.values())
    slots: dict[str, dict[str, Any]] = {}
    for key, tensor in checkpoint.optimizer.items():
        name, slot = parted(key, names)
        if name not in names:
            differences.append(f"optimizer state of {name}: the recipe has no such parameter")
        slots.setdefault(name, {})[slot] = tensor
    if checkpoint.kind != kind_of(optimizer):
        differences.append(
            f"the optimizer is {kind_of(optimizer)} in the recipe and {checkpoint.kind} in "
            f"the checkpoint"
        )
    if differences:
        raise CheckpointError(
            f"step-{checkpoint.step:012d} does not fit the model that the recipe builds: "
            f"{listed(differences, 3)}. Give another name= to train the new model."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(checkpoint.model[name])
    put_slots(slots, name_of, optimizer)


def _differences(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> Iterable[str]:
    for name in sorted(own.keys() | saved.keys()):
        if name not in saved:
            yield f"{name} is not in the checkpoint"
        elif name not in own:
            yield f"{name} is not in the model"
        elif (own[name].shape, own[name].dtype) != (saved[name].shape, saved[name].dtype):
            yield (
                f"{name} is {own[name].dtype} {tuple(own[name].shape)} in the model and "
                f"{saved[name].dtype} {tuple(saved[name].shape)} in the checkpoint"
            )
