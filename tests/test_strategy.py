"""Processes, device, precision: what a run may have here, and what is refused."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from launcher.connect import _devices, connect
from launcher.errors import CheckpointError, DistributedError, SettingsError
from launcher.launch import Launch
from launcher.settings import Hparams, RunSettings
from launcher.strategy import World

HPARAMS = Hparams(epochs=1, batch_size=4)
no_gpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="is about machines without")


def met(
    launch: Launch = Launch(cpu=True),  # noqa: B008
    settings: RunSettings = RunSettings(),  # noqa: B008
    **changes: Any,
) -> World:
    return connect(launch, replace(HPARAMS, **changes), settings)


# ── what is met ─────────────────────────────────────────────────────────────────────────────────


def test_one_process_meets_itself() -> None:
    world = met()
    assert (world.process, world.processes, world.devices) == (0, 1, 1)
    assert (world.kind, world.precision, world.device.type) == ("one process", "no", "cpu")
    assert world.is_main
    assert world.total is None
    world.close()


def test_fewer_processes_than_were_started_are_refused() -> None:
    with pytest.raises(DistributedError, match="2 processes were started, but 1 met"):
        met(Launch(cpu=True, processes=2))


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2)])
def test_threads_are_those_asked_for(asked: int, given: int) -> None:
    assert met(settings=RunSettings(threads=asked)).threads == given
    assert torch.get_num_threads() == given


def test_the_cores_are_shared_by_the_processes_of_a_machine() -> None:
    """`accelerate launch` gives each process one thread, in silence."""
    torch.set_num_threads(1)
    alone = met().threads
    with pytest.raises(DistributedError):
        met(Launch(cpu=True, processes=2, local_processes=10_000))
    assert alone >= 1
    assert torch.get_num_threads() == 1


# ── what is refused ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("launched", ["no", "fp16"])
def test_half_precision_with_a_loss_scale_needs_a_gpu(launched: str) -> None:
    precision = None if launched == "fp16" else "fp16"
    with pytest.raises(SettingsError, match="precision=fp16 needs a GPU"):
        met(Launch(cpu=True, precision=launched), precision=precision)


@no_gpu
def test_several_gpus_in_one_process_need_gpus() -> None:
    with pytest.raises(SettingsError, match=r"strategy=dp needs .* this one sees 0"):
        met(settings=RunSettings(strategy="dp"))


@pytest.mark.parametrize(
    ("batch_size", "strategy", "gpus", "devices"),
    [
        (512, "auto", 8, 8),
        (512, "ddp", 8, 1),
        (512, "dp", 8, 8),
        (512, "auto", 1, 1),
        (512, "auto", 0, 1),
        (4, "auto", 8, 1),  # cannot be split: one GPU, and no refusal that nobody asked for
        (4, "dp", 8, 8),  # asked for: the plan will refuse, with the sizes that fit
    ],
)
def test_one_process_takes_all_gpus_that_the_batch_can_be_split_over(
    batch_size: int, strategy: Any, gpus: int, devices: int
) -> None:
    hparams = Hparams(epochs=1, batch_size=batch_size)
    assert _devices(Launch(), hparams, RunSettings(strategy=strategy), gpus) == devices


def test_several_gpus_in_one_process_are_not_several_processes() -> None:
    with pytest.raises(SettingsError, match=r"strategy=dp is one process .* 2 processes were"):
        met(Launch(cpu=True, processes=2), RunSettings(strategy="dp"))


def test_batch_norm_over_processes_needs_gpus() -> None:
    with pytest.raises(SettingsError, match="sync_batchnorm=true needs GPUs"):
        met(Launch(cpu=True, processes=2), sync_batchnorm=True)


def test_batch_norm_over_one_process_is_batch_norm() -> None:
    world = met(sync_batchnorm=True)
    model = nn.Sequential(nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, _ = world.prepare(model, optimizer, sync_batchnorm=True)
    assert isinstance(prepared.get_submodule("0"), nn.BatchNorm1d)


# ── precision ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("launched", "asked", "taken"),
    [("no", None, "no"), ("bf16", None, "bf16"), ("bf16", "no", "no"), ("no", "bf16", "bf16"),
     ("fp16", "no", "no"), ("no", "auto", "no"), ("bf16", "auto", "no")],
)  # fmt: skip
def test_the_hyperparameter_decides_before_the_launch(
    launched: str, asked: str | None, taken: str
) -> None:
    assert met(Launch(cpu=True, precision=launched), precision=asked).precision == taken


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_outputs_are_float32_in_any_precision(precision: str) -> None:
    world = met(precision=precision)
    model = nn.Linear(4, 3)
    inside: list[torch.dtype] = []
    model.register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, stepper = world.prepare(model, optimizer, sync_batchnorm=False)
    with world.autocast():
        output = prepared(torch.randn(2, 4))
        loss = output.square().mean()
    world.backward(loss, 1.0)
    assert stepper is optimizer
    assert output.dtype == loss.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    exact = nn.functional.linear(torch.ones(2, 4), model.weight, model.bias)
    rounded = prepared(torch.ones(2, 4))
    assert torch.equal(exact, rounded) is (precision == "no")


def test_preparing_keeps_the_parameters_and_their_names() -> None:
    world = met(precision="bf16")
    model = nn.Sequential(nn.Linear(4, 3))
    before = [(name, id(parameter)) for name, parameter in model.named_parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    world.prepare(model, optimizer, sync_batchnorm=False)
    assert [(name, id(parameter)) for name, parameter in model.named_parameters()] == before
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


# ── seeds ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def other_generators() -> Iterator[None]:
    """Refuses a test in which Python's or numpy's generators moved."""
    before = random.getstate(), repr(np.random.get_state())
    yield
    assert (random.getstate(), repr(np.random.get_state())) == before


@pytest.mark.usefixtures("other_generators")
def test_a_seed_decides_what_dropout_leaves_out() -> None:
    world, dropout = met(), nn.Dropout()
    masks = []
    for seed in (1, 2, 1):
        world.seed([seed])
        masks.append(dropout(torch.ones(200)))
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])


def test_large_seeds_are_seeds_too() -> None:
    world = met()
    world.seed([2**63 - 1])
    first = torch.rand(3)
    world.seed([2**63 - 1])
    assert torch.equal(torch.rand(3), first)


# ── only the main process ───────────────────────────────────────────────────────────────────────


def test_what_the_main_process_finds_or_refuses_comes_back() -> None:
    world = met()
    assert world.on_main(lambda: 7) == 7

    def refuse() -> int:
        raise CheckpointError("no")

    with pytest.raises(CheckpointError, match="no"):
        world.on_main(refuse)


def test_there_is_nothing_to_wait_for_with_one_process() -> None:
    world, model = met(), nn.Linear(2, 2)
    with world.no_sync(model), world.inference():
        assert not world.skipped()


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"x" * 100_000])
def test_one_process_shares_bytes_with_itself(data: bytes) -> None:
    assert met().share(data) == data
