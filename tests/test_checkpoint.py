"""A checkpoint is whole or not there, and holds all that training changed."""

import contextlib
import errno
import hashlib
import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from launcher import checkpoint, storage
from launcher.checkpoint import (
    Checkpoint,
    folder_of,
    newest,
    prune,
    read,
    restore,
    save,
    steps,
    tidy,
)
from launcher.errors import CheckpointError, StorageError
from launcher.slots import group_changes, group_values, parted, put_groups

RUN = Path("run")
PARTS = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "COMMIT")


class Word(str, Enum):  # noqa: UP042
    """Equal to its value, and written otherwise."""

    MOMENTUM = "m"


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(x))
        return output


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4))


def images() -> nn.Module:
    """Filters in channels_last memory format, and buffers, one of them a whole number."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.Flatten()
    ).to(memory_format=torch.channels_last)


Make = Callable[[nn.Module], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "momentum": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9),
    "fused momentum": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9, fused=True),
    "no state": lambda m: SGD(m.parameters(), lr=0.1),
    "adam": lambda m: Adam(m.parameters(), lr=0.1),
    "fused adam": lambda m: Adam(m.parameters(), lr=0.1, fused=True),
    "adamw, amsgrad": lambda m: AdamW(m.parameters(), lr=0.1, amsgrad=True),
}


def trained(make: Callable[[], nn.Module], optimizer_of: Make, seed: int = 0, count: int = 3
            ) -> tuple[nn.Module, Optimizer]:  # fmt: skip
    torch.manual_seed(seed)
    model = make()
    optimizer = optimizer_of(model)
    for number in range(count):
        step(model, optimizer, number)
    return model, optimizer


def step(model: nn.Module, optimizer: Optimizer, number: int) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def tensors(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """Everything that training changed, in an order of its own."""
    found = list(model.state_dict().values())
    for parameter in model.parameters():
        found += [slot for _, slot in sorted(optimizer.state.get(parameter, {}).items())
                  if slot is not None]  # fmt: skip
    return [tensor.detach().clone() for tensor in found]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def two_checkpoints() -> tuple[nn.Module, Optimizer]:
    model, optimizer = trained(plain, OPTIMIZERS["momentum"])
    save(RUN, 10, model, optimizer, {"at": 10})
    step(model, optimizer, 10)
    save(RUN, 20, model, optimizer, {"at": 20})
    return model, optimizer


# ── round trip ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", [plain, images, Tied])
@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_a_restored_run_goes_on_as_if_it_had_not_stopped(
    make: Callable[[], nn.Module], kind: str
) -> None:
    model, optimizer = trained(make, OPTIMIZERS[kind])
    save(RUN, 3, model, optimizer, {"best": None})
    other, other_optimizer = trained(make, OPTIMIZERS[kind], seed=1, count=0)
    restore(read(RUN, 3), other, other_optimizer)
    assert same(tensors(model, optimizer), tensors(other, other_optimizer))
    for number in (7, 8):
        step(model, optimizer, number)
        step(other, other_optimizer, number)
    assert same(tensors(model, optimizer), tensors(other, other_optimizer))


def test_a_run_without_its_optimizer_state_goes_on_otherwise() -> None:
    """The negative control of the test above."""
    model, optimizer = trained(plain, OPTIMIZERS["momentum"])
    save(RUN, 3, model, optimizer, {})
    other, other_optimizer = trained(plain, OPTIMIZERS["momentum"], seed=1, count=0)
    found = read(RUN, 3)
    restore(replace(found, optimizer={}), other, other_optimizer)
    step(model, optimizer, 7)
    step(other, other_optimizer, 7)
    assert not same(tensors(model, optimizer), tensors(other, other_optimizer))


def test_filters_and_their_momentum_keep_their_memory_format() -> None:
    model, optimizer = trained(images, OPTIMIZERS["momentum"])
    save(RUN, 3, model, optimizer, {})
    other, other_optimizer = trained(images, OPTIMIZERS["momentum"], seed=1, count=0)
    restore(read(RUN, 3), other, other_optimizer)
    filters = other.get_parameter("1.weight")
    assert filters.is_contiguous(memory_format=torch.channels_last)
    momentum = other_optimizer.state[filters]["momentum_buffer"]
    assert momentum.stride() == filters.stride()


def test_tied_parameters_stay_tied() -> None:
    model, optimizer = trained(Tied, OPTIMIZERS["adam"])
    save(RUN, 3, model, optimizer, {})
    other, other_optimizer = trained(Tied, OPTIMIZERS["adam"], seed=1, count=0)
    assert isinstance(other, Tied)
    restore(read(RUN, 3), other, other_optimizer)
    assert other.first.weight is other.second.weight


def test_an_optimizer_without_state_has_an_empty_state() -> None:
    model, optimizer = trained(plain, OPTIMIZERS["no state"])
    save(RUN, 3, model, optimizer, {})
    assert read(RUN, 3).optimizer == {}


def test_the_step_and_the_state_come_back() -> None:
    model, optimizer = trained(plain, OPTIMIZERS["no state"])
    save(RUN, 3, model, optimizer, {"loss_sum": 0.1, "best": {"step": 2}, "step": 99})
    found = read(RUN, 3)
    assert (found.step, found.state) == (3, {"loss_sum": 0.1, "best": {"step": 2}, "step": 3})


@pytest.mark.parametrize("kind", ["fused momentum", "adam"])
def test_two_saves_of_equal_state_are_equal_to_the_byte(kind: str) -> None:
    model, optimizer = trained(images, OPTIMIZERS[kind])
    other, other_optimizer = trained(images, OPTIMIZERS[kind])
    save(RUN, 3, model, optimizer, {"b": 1, "a": 2})
    save(Path("other"), 3, other, other_optimizer, {"a": 2, "b": 1})
    for name in PARTS:
        assert (folder_of(RUN, 3) / name).read_bytes() == (
            folder_of(Path("other"), 3) / name
        ).read_bytes(), name


def test_a_saved_checkpoint_is_private_and_holds_five_files() -> None:
    model, optimizer = trained(plain, OPTIMIZERS["momentum"])
    save(RUN, 3, model, optimizer, {})
    folder = folder_of(RUN, 3)
    assert sorted(os.listdir(folder)) == sorted(PARTS)
    assert os.listdir(RUN) == [folder.name]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_an_optimizer_that_keeps_other_things_than_tensors_is_refused_by_name() -> None:
    model, optimizer = trained(plain, OPTIMIZERS["momentum"])
    optimizer.state[model.get_parameter("0.weight")]["calls"] = {3}
    with pytest.raises(CheckpointError, match=r"SGD keeps calls of 0\.weight as set"):
        save(RUN, 3, model, optimizer, {})
    assert steps(RUN) == []


def test_numbers_among_the_slots_come_back() -> None:
    model, optimizer = trained(plain, OPTIMIZERS["momentum"])
    optimizer.state[model.get_parameter("0.weight")]["calls"] = 3
    save(RUN, 3, model, optimizer, {})
    other, other_optimizer = trained(plain, OPTIMIZERS["momentum"])
    restore(read(RUN, 3), other, other_optimizer)
    assert other_optimizer.state[other.get_parameter("0.weight")]["calls"] == 3
    assert "slots" not in read(RUN, 3).state


def test_numbers_that_json_does_not_know_come_back() -> None:
    model, optimizer = trained(plain, OPTIMIZERS["momentum"])
    first = group_values(optimizer)
    optimizer.state[model.get_parameter("0.weight")]["least"] = math.inf
    optimizer.param_groups[0] |= {"most": -math.inf, "pair": (math.nan, "inf", 2)}
    save(RUN, 3, model, optimizer, {"groups": group_changes(optimizer, first)})
    found = read(RUN, 3)
    other, other_optimizer = trained(plain, OPTIMIZERS["momentum"])
    restore(found, other, other_optimizer)
    put_groups(other_optimizer, found.state["groups"])
    assert other_optimizer.state[other.get_parameter("0.weight")]["least"] == math.inf
    group = other_optimizer.param_groups[0]
    assert group["most"] == -math.inf
    assert math.isnan(group["pair"][0])
    assert group["pair"][1:] == ("inf", 2)


def test_tuples_and_lists_of_a_parameter_group_come_back_as_they_were() -> None:
    model, optimizer = trained(plain, OPTIMIZERS["adam"])
    first = group_values(optimizer)
    optimizer.param_groups[0] |= {"betas": [0.9, 0.999], "past": (1, 2), "list": [3], "none": ()}
    save(RUN, 3, model, optimizer, {"groups": group_changes(optimizer, first)})
    _, other = trained(plain, OPTIMIZERS["adam"])
    assert other.param_groups[0]["betas"] == (0.9, 0.999)
    put_groups(other, read(RUN, 3).state["groups"])
    group = other.param_groups[0]
    assert (group["betas"], group["past"]) == ([0.9, 0.999], (1, 2))
    assert (group["list"], group["none"]) == ([3], ())


def test_a_list_for_a_tuple_as_checkpoints_once_had_it_is_still_read() -> None:
    _, optimizer = trained(plain, OPTIMIZERS["no state"])
    put_groups(optimizer, [{"past": [1, {"float": "inf"}]}])
    assert optimizer.param_groups[0]["past"] == [1, math.inf]


class Slashes(nn.Module):
    """A parameter whose name begins as that of another one."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("w", "w/x"):
            self.register_parameter(name, nn.Parameter(torch.ones(2)))


@pytest.mark.parametrize(
    ("name", "slot"), [("w", "a/b"), ("w", "/"), ("w", ""), ("w/x", "m"), ("w/x", "x/m")]
)
def test_slashes_in_the_names_of_parameters_and_slots_come_back(name: str, slot: str) -> None:
    model, other = Slashes(), Slashes()
    optimizer, other_optimizer = SGD(model.parameters()), SGD(other.parameters())
    optimizer.state[model.get_parameter(name)] |= {slot: torch.ones(2), f"{slot}2": None}
    save(RUN, 3, model, optimizer, {})
    restore(read(RUN, 3), other, other_optimizer)
    found = other_optimizer.state.pop(other.get_parameter(name))
    assert found.keys() == {slot, f"{slot}2"}
    assert (found[slot].tolist(), found[f"{slot}2"]) == ([1, 1], None)
    assert not other_optimizer.state


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        (0, "state of w under 0, which would come back under '0' of w:"),
        (Word.MOMENTUM, "which would come back under 'Word.MOMENTUM' of w:"),
        ("x/m", "state of w under 'x/m', which would come back under 'm' of w/x:"),
    ],
)
def test_a_slot_that_would_come_back_under_another_key_is_refused(slot: Any, words: str) -> None:
    model = Slashes()
    optimizer = SGD(model.parameters())
    optimizer.state[model.get_parameter("w")][slot] = torch.ones(2)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        save(RUN, 3, model, optimizer, {})
    assert steps(RUN) == []


def test_an_old_key_of_no_parameter_is_named_by_its_last_slash() -> None:
    assert parted("w/x/m", {"w"}) == ("w", "x/m")
    assert parted("v/x/m", {"w"}) == ("v/x", "m")
    assert parted("m", {"w"}) == ("", "m")


def test_views_of_one_tensor_can_be_saved() -> None:
    """Parameters that are overlapping parts of one buffer, as flattened models have them."""
    model = nn.Module()
    whole = torch.arange(6.0)
    model.register_buffer("whole", whole)
    model.register_buffer("part", whole[2:])
    weight = nn.Parameter(torch.ones(1))
    model.register_parameter("weight", weight)
    save(RUN, 1, model, SGD([weight], lr=0.1), {})
    assert read(RUN, 1).model["part"].tolist() == [2, 3, 4, 5]


# ── a save that does not come to its end ────────────────────────────────────────────────────────


class Killed(BaseException):
    pass


class Counting(storage.Disk):
    """A disk whose n-th call fails: once, or, after a kill, every call from then on."""

    def __init__(self, fail_at: int, error: BaseException) -> None:
        self.calls = 0
        self.fail_at = fail_at
        self.error = error
        self.opened: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in vars(storage.Disk):
            return found
        self.calls += 1
        dead = isinstance(self.error, Killed) and self.calls > self.fail_at
        if self.calls == self.fail_at or dead:
            raise self.error
        return found

    def open(self, path: Path, flags: int) -> int:
        self.opened.append(super().open(path, flags))
        return self.opened[-1]

    def close(self, descriptor: int) -> None:
        self.opened.remove(descriptor)
        super().close(descriptor)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, BaseException], Counting]]:
    """Puts a disk in place that fails at a call."""
    disks: list[Counting] = []

    def put(fail_at: int, error: BaseException) -> Counting:
        disks.append(Counting(fail_at, error))
        monkeypatch.setattr(storage, "disk", disks[-1])
        return disks[-1]

    yield put
    for disk in disks:
        for descriptor in disk.opened:
            os.close(descriptor)


@pytest.mark.parametrize(
    "error", [Killed(), OSError(errno.EIO, "bad disk"), OSError(errno.ENOSPC, "no space")]
)
def test_whichever_call_of_a_save_fails_the_older_or_the_new_checkpoint_is_whole(
    failing: Callable[[int, BaseException], Counting],
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, optimizer = trained(plain, OPTIMIZERS["momentum"])
    save(RUN, 10, model, optimizer, {"at": 10})
    before = (RUN / "step-000000000010" / "manifest.json").read_bytes()
    step(model, optimizer, 10)
    outcomes = []
    for fail_at in range(1, 200):
        disk = failing(fail_at, error)
        try:
            save(RUN, 20, model, optimizer, {"at": 20})
        except (Killed, StorageError):
            outcomes.append("failed")
        else:
            outcomes.append("saved")
        monkeypatch.setattr(storage, "disk", storage.Disk())
        found, skipped = newest(RUN)
        assert found is not None
        assert (found.step, skipped) in ((10, {}), (20, {}))
        assert found.step == 20 or outcomes[-1] == "failed"
        assert found.state["at"] == found.step
        tidy(RUN)
        assert [n for n in os.listdir(RUN) if n.startswith(".")] == []
        assert (RUN / "step-000000000010" / "manifest.json").read_bytes() == before
        shutil.rmtree(folder_of(RUN, 20), ignore_errors=True)
        if disk.calls < fail_at:
            break
    assert outcomes[-1] == "saved"
    assert outcomes.count("failed") > 20, "the disk was not asked at all"


def test_whichever_call_of_a_prune_is_the_last_the_newest_are_whole(
    failing: Callable[[int, BaseException], Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained(plain, OPTIMIZERS["no state"])
    for fail_at in range(1, 100):
        for number in (1, 2, 3, 4):
            if not folder_of(RUN, number).exists():
                save(RUN, number, model, optimizer, {})
        disk = failing(fail_at, Killed())
        with contextlib.suppress(Killed):
            prune(RUN, keep=2)
        monkeypatch.setattr(storage, "disk", storage.Disk())
        for number in steps(RUN):
            read(RUN, number)  # what has the name of a checkpoint is one
        assert {3, 4} <= set(steps(RUN))
        tidy(RUN)
        assert [n for n in os.listdir(RUN) if n.startswith(".")] == []
        if disk.calls < fail_at:
            break
    assert steps(RUN) == [3, 4]
    assert fail_at > 10, "the disk was not asked at all"


def test_a_step_that_is_saved_again_keeps_the_bad_one_beside_it() -> None:
    model, optimizer = two_checkpoints()
    damaged = folder_of(RUN, 20) / "state.json"
    damaged.write_bytes(b"{}")
    save(RUN, 20, model, optimizer, {"at": 20})
    assert read(RUN, 20).state == {"at": 20, "step": 20}
    (bad,) = [name for name in os.listdir(RUN) if name.startswith(".bad-")]
    assert (RUN / bad / "state.json").read_bytes() == b"{}"


# ── damage ──────────────────────────────────────────────────────────────────────────────────────


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def last_byte_lost(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def missing(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").resolve())


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_the_older(path: Path) -> None:
    path.write_bytes((folder_of(RUN, 10) / path.name).read_bytes())


DAMAGES = [truncated, emptied, last_byte_lost, longer, flipped, zeroed, missing, linked, fifo,
           folder, of_the_older]  # fmt: skip


@pytest.mark.timeout(100)  # who opens a pipe with no writer hangs
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_file_is_refused_and_the_older_checkpoint_taken(
    name: str, damage: Callable[[Path], None]
) -> None:
    two_checkpoints()
    damage(folder_of(RUN, 20) / name)
    with pytest.raises(CheckpointError, match="step-000000000020"):
        read(RUN, 20)
    found, skipped = newest(RUN)
    assert found is not None
    assert (found.step, found.state["at"]) == (10, 10)
    (why,) = skipped.values()
    assert "step-000000000020" in why


def test_every_flipped_byte_is_noticed() -> None:
    two_checkpoints()
    for name in PARTS:
        path = folder_of(RUN, 20) / name
        good = path.read_bytes()
        for place in range(0, len(good), max(1, len(good) // 25)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
            with pytest.raises(CheckpointError):
                read(RUN, 20)
        path.write_bytes(good)
    assert read(RUN, 20).step == 20


def rewrite_manifest(change: Callable[[Any], object], number: int = 20) -> None:
    """A manifest that COMMIT does name."""
    path = folder_of(RUN, number) / "manifest.json"
    manifest = json.dumps(change(json.loads(path.read_bytes()))).encode()
    path.write_bytes(manifest)
    (folder_of(RUN, number) / "COMMIT").write_text(hashlib.sha256(manifest).hexdigest())


def test_a_format_of_another_launcher_is_named() -> None:
    two_checkpoints()
    rewrite_manifest(lambda document: document | {"format": 2})
    with pytest.raises(CheckpointError, match="has format 2, this launcher reads 1"):
        read(RUN, 20)
    found, _ = newest(RUN)
    assert found is not None
    assert found.step == 10


def test_a_checkpoint_under_another_name_is_refused() -> None:
    two_checkpoints()
    folder_of(RUN, 20).rename(folder_of(RUN, 30))
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        read(RUN, 30)


@pytest.mark.parametrize(
    "document",
    [
        [],
        7,
        None,
        {"format": 1},
        {"format": 1, "step": 20},
        {"format": 1, "step": 20, "files": None},
        {"format": 1, "step": 20, "files": sorted(checkpoint.FILES)},
        {"format": 1, "step": 20, "files": dict.fromkeys(checkpoint.FILES)},
        {"format": 1, "step": 20, "files": {name: {} for name in checkpoint.FILES}},
        {"format": 1, "step": 20, "files": {
            name: {"bytes": "1", "sha256": ""} for name in checkpoint.FILES}},
    ],
)  # fmt: skip
def test_a_manifest_of_any_other_shape_is_refused(document: object) -> None:
    """Even if COMMIT names it: no checkpoint ends the launcher with a traceback."""
    two_checkpoints()
    rewrite_manifest(lambda _: document)
    with pytest.raises(CheckpointError, match="step-000000000020"):
        read(RUN, 20)


def test_when_all_are_damaged_nothing_is_trained_from_the_start_in_silence() -> None:
    two_checkpoints()
    for number in (10, 20):
        flipped(folder_of(RUN, number) / "model.safetensors")
    with pytest.raises(CheckpointError) as refusal:
        newest(RUN)
    text = "\n".join(refusal.value.problems)
    assert "step-000000000010: model.safetensors was changed" in text
    assert "step-000000000020: model.safetensors was changed" in text
    assert "--fresh" in text


def test_where_nothing_is_nothing_is_found() -> None:
    assert newest(RUN) == (None, {})
    RUN.mkdir()
    assert newest(RUN) == (None, {})


def test_stray_names_are_no_checkpoints() -> None:
    two_checkpoints()
    arabic = "\u0660" * 10 + "\u0669\u0660"  # digits for int(), but not those that we write
    for name in ("notes.txt", "step-000000000030"):
        (RUN / name).write_text("not mine")
    for name in ("step-abc", "step-40", "step-000000000050 (copy)", "step-0000000000060", ".tmp-70",
                 ".bad-step-000000000080", f"step-{arabic}"):  # fmt: skip
        (RUN / name).mkdir()
    assert steps(RUN) == [10, 20]
    found, skipped = newest(RUN)
    assert found is not None
    assert (found.step, skipped) == (20, {})


def test_no_pickle_is_opened() -> None:
    """Torch's own loader would run it, whatever the name of the file."""
    evil = pickle.dumps(Trap())
    for name in PARTS:
        two_checkpoints()
        (folder_of(RUN, 20) / name).write_bytes(evil)
        if name in checkpoint.FILES:
            entry = {"bytes": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
            rewrite_manifest(lambda d, n=name, e=entry: d | {"files": d["files"] | {n: e}})  # type: ignore[misc]
        with pytest.raises(CheckpointError):
            read(RUN, 20)
        assert not Path("sprung").exists(), name
        shutil.rmtree(RUN)
    pickle.loads(evil)  # noqa: S301
    assert Path("sprung").exists(), "the trap is none"


class Trap:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("sprung",)


# ── a model that the checkpoint does not fit ────────────────────────────────────────────────────


def refused(model: nn.Module, optimizer: Optimizer, found: Checkpoint) -> str:
    """Restore's refusal; nothing may have changed."""
    before = tensors(model, optimizer)
    with pytest.raises(CheckpointError) as refusal:
        restore(found, model, optimizer)
    assert same(before, tensors(model, optimizer))
    return str(refusal.value)


def test_another_shape_is_refused_with_the_parameter_and_both_shapes() -> None:
    two_checkpoints()
    wider = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 7))
    message = refused(wider, OPTIMIZERS["momentum"](wider), read(RUN, 20))
    assert "2.weight is torch.float32 (7, 3) in the model" in message
    assert "torch.float32 (4, 3) in the checkpoint" in message
    assert "2.bias" in message
    assert "0.weight" not in message
    assert "step-000000000020" in message


def test_another_type_is_refused() -> None:
    two_checkpoints()
    other = plain().double()
    message = refused(other, OPTIMIZERS["momentum"](other), read(RUN, 20))
    assert "0.bias is torch.float64 (3,) in the model and torch.float32 (3,)" in message


def test_other_names_are_refused() -> None:
    two_checkpoints()
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4))
    message = refused(other, OPTIMIZERS["momentum"](other), read(RUN, 20))
    assert "1.weight is not in the checkpoint" in message
    assert "2.bias is not in the model" in message


def test_at_most_three_differences_are_listed() -> None:
    two_checkpoints()
    deep = nn.Sequential(*(nn.Linear(5, 5) for _ in range(20)))
    message = refused(deep, OPTIMIZERS["momentum"](deep), read(RUN, 20))
    assert len(re.findall(r"[0-9]+\.(?:weight|bias) is ", message)) == 3
    assert re.search("and [0-9]+ more", message)


def test_optimizer_state_of_an_unknown_parameter_is_refused() -> None:
    model, optimizer = two_checkpoints()
    found = read(RUN, 20)
    found.optimizer["9.weight/momentum_buffer"] = torch.zeros(1)
    assert "optimizer state of 9.weight" in refused(model, optimizer, found)


def test_the_state_of_another_optimizer_is_refused() -> None:
    """Adam would take the momentum for its own state and fail in the first step."""
    two_checkpoints()
    torch.manual_seed(0)
    other = plain()
    message = refused(other, OPTIMIZERS["adam"](other), read(RUN, 20))
    assert "Adam" in message


# ── what is kept ────────────────────────────────────────────────────────────────────────────────


def test_the_newest_and_the_pinned_are_kept() -> None:
    model, optimizer = trained(plain, OPTIMIZERS["no state"])
    for number in (1, 2, 3, 4, 5):
        save(RUN, number, model, optimizer, {})
    prune(RUN, keep=2, pinned=[2, 9])
    assert steps(RUN) == [2, 4, 5]
    prune(RUN, keep=3)
    assert steps(RUN) == [2, 4, 5]
    prune(RUN, keep=2)
    assert sorted(os.listdir(RUN)) == ["step-000000000004", "step-000000000005"]


def test_tidying_leaves_what_is_not_ours() -> None:
    two_checkpoints()
    for name in (".tmp-000000000030-aa", ".trash-000000000001-bb", ".bad-step-000000000002-cc"):
        (RUN / name).mkdir()
        (RUN / name / "x").write_text("x")
    (RUN / "notes.txt").write_text("mine")
    tidy(RUN)
    assert sorted(os.listdir(RUN)) == [".bad-step-000000000002-cc", "notes.txt",
                                       "step-000000000010", "step-000000000020"]  # fmt: skip
