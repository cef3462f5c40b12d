"""A snapshot is what was there when it was taken, whatever training does afterwards."""

import json

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from launcher.errors import CheckpointError
from launcher.snapshot import Host, Snapshot, json_bytes

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
FLOATS += [torch.float8_e5m2, torch.complex64]


class Model(nn.Module):
    """Filters in channels_last, a tied weight, a single number, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("spread", torch.ones(1).expand(5))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step for every parameter."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def values(snapshot: Snapshot) -> dict[str, Tensor]:
    return {f"{part}/{name}": tensor.clone()
            for part, tensors in (("m", snapshot.model), ("o", snapshot.optimizer))
            for name, tensor in tensors.items()}  # fmt: skip


def one(parameter: Tensor | None = None, **buffers: Tensor) -> Snapshot:
    """Of a model with one parameter, trained if it can be, and some buffers."""
    model = nn.Module()
    if parameter is not None:
        can = parameter.is_floating_point() or parameter.is_complex()
        model.weight = nn.Parameter(parameter, requires_grad=can)
    for name, buffer in buffers.items():
        model.register_buffer(name, buffer)
    return Host().take(1, model, SGD([torch.zeros(1)]), {})


# ── copies ──────────────────────────────────────────────────────────────────────────────────────


def test_what_training_does_afterwards_does_not_change_a_snapshot() -> None:
    model = Model()
    optimizer = Adam(model.parameters())
    trained(model, optimizer)
    taken = Host().take(3, model, optimizer, {"loss_count": 2})
    before = values(taken)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_contiguous() or tensor.ndim == 4:
                tensor += 1
    trained(model, optimizer)
    after = values(taken)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(taken.model["scale"], model.scale.detach())
    state = optimizer.state[model.scale]
    assert not torch.equal(taken.optimizer["scale/exp_avg"], state["exp_avg"])
    assert not torch.equal(taken.optimizer["scale/step"], state["step"])


def test_a_snapshot_holds_all_that_a_checkpoint_does() -> None:
    model = Model()
    optimizer = Adam(model.parameters())
    trained(model, optimizer)
    taken = Host().take(3, model, optimizer, {"step": 0, "loss_count": 2})
    own = model.state_dict()
    assert taken.model.keys() == own.keys()
    for name, tensor in own.items():
        assert torch.equal(taken.model[name], tensor), name
        assert taken.model[name].dtype == tensor.dtype
        assert not taken.model[name].requires_grad
    assert {"second.weight", "norm.running_mean", "spread"} <= taken.model.keys()
    assert json.loads(taken.state) == {"step": 3, "loss_count": 2, "slots": {}}
    assert (taken.step, taken.kind) == (3, "Adam")
    slots = {name.rpartition("/")[2] for name in taken.optimizer}
    assert slots == {"step", "exp_avg", "exp_avg_sq"}


def test_the_names_of_parameters_are_those_without_buffers() -> None:
    taken = Host().take(1, Model(), SGD([torch.zeros(1)]), {})
    assert "filters.weight" in taken.parameters
    assert "scale" in taken.parameters
    assert not {"norm.running_mean", "spread", "norm.num_batches_tracked"} & taken.parameters


def test_what_is_not_trained_may_be_infinite() -> None:
    model = Model()
    with torch.no_grad():
        model.get_parameter("scale").fill_(-torch.inf)
    assert not Host().take(1, model, SGD([torch.zeros(1)]), {}).is_finite()
    model.get_parameter("scale").requires_grad_(False)
    assert Host().take(1, model, SGD([torch.zeros(1)]), {}).is_finite()


def test_a_number_among_the_slots_goes_into_the_state() -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = SGD(model.parameters())
    optimizer.state[model.weight] = {"count": 7, "nothing": None}
    slots = json.loads(Host().take(1, model, optimizer, {}).state)["slots"]
    assert slots == {"weight/count": 7, "weight/nothing": None}
    optimizer.state[model.weight] = {"history": []}
    with pytest.raises(CheckpointError, match="keeps history of weight as list"):
        Host().take(1, model, optimizer, {})


def test_a_state_that_is_no_json_is_not_written_as_something_else() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes({"loss": float("nan")})


# ── memory ──────────────────────────────────────────────────────────────────────────────────────


def addresses(snapshot: Snapshot) -> dict[str, int]:
    tensors = [*snapshot.model.items(), *snapshot.optimizer.items()]
    return {name: tensor.data_ptr() for name, tensor in tensors}


def test_memory_is_taken_once_and_holds_the_later_values() -> None:
    model, host = Model(), Host()
    optimizer = Adam(model.parameters())
    trained(model, optimizer)
    first = addresses(host.take(1, model, optimizer, {}))
    trained(model, optimizer)
    second = host.take(2, model, optimizer, {})
    assert addresses(second) == first
    assert torch.equal(second.model["scale"], model.scale.detach())


def test_slots_that_come_later_and_shapes_that_change_are_taken_too() -> None:
    model, host = nn.Linear(2, 3), Host()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert not host.take(1, model, optimizer, {}).optimizer
    trained(model, optimizer)
    assert len(host.take(2, model, optimizer, {}).optimizer) == 2
    model.bias = nn.Parameter(torch.full((5,), 2.0))
    assert host.take(3, model, optimizer, {}).model["bias"].tolist() == [2.0] * 5
    model.half()
    assert host.take(4, model, optimizer, {}).model["bias"].dtype is torch.float16


def test_two_names_that_are_equal_in_model_and_optimizer_have_memory_of_their_own() -> None:
    model = nn.Module()
    model.register_parameter("a", nn.Parameter(torch.tensor([1.0, 2.0])))
    model.register_buffer("b", torch.tensor([3.0, 4.0]))
    optimizer = SGD(model.parameters())
    optimizer.state[next(model.parameters())]["b"] = torch.tensor([5.0, 6.0])
    taken = Host().take(1, model, optimizer, {})
    assert taken.model["b"].tolist() == [3.0, 4.0]
    assert taken.optimizer["a/b"].tolist() == [5.0, 6.0]


def test_the_size_is_that_of_all_tensors_and_the_state() -> None:
    model = nn.Linear(3, 2).half()  # 6 + 2 numbers
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    trained(model, optimizer)
    taken = Host().take(1, model, optimizer, {})
    assert taken.nbytes == 2 * (8 + 8) + len(taken.state)


# ── what is not finite ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_parameter_that_is_not_finite_is_seen_in_every_dtype(
    dtype: torch.dtype, value: float
) -> None:
    if dtype is torch.float8_e4m3fn:
        value = float("nan")  # it has no infinity
    weight = torch.ones(2, 3)
    assert one(weight.to(dtype)).is_finite()
    weight[1, 2] = value
    assert not one(weight.to(dtype)).is_finite()


def test_an_imaginary_part_counts() -> None:
    assert not one(torch.tensor([complex(1, float("nan"))])).is_finite()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool], ids=str)
def test_whole_numbers_are_finite(dtype: torch.dtype) -> None:
    assert one(torch.ones(3, dtype=dtype)).is_finite()


def test_the_largest_number_is_finite() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert one(torch.full((2,), torch.finfo(dtype).max, dtype=dtype)).is_finite()


def test_a_buffer_may_be_anything() -> None:
    """A mask of -inf is no accident."""
    assert one(torch.ones(1), mask=torch.tensor([float("-inf"), float("nan")])).is_finite()


def test_the_state_of_an_optimizer_may_be_anything() -> None:
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters())
    optimizer.state[model.weight]["least"] = torch.tensor(float("inf"))
    assert Host().take(1, model, optimizer, {}).is_finite()


def test_nothing_and_an_empty_parameter_are_finite() -> None:
    assert one().is_finite()
    assert one(torch.empty(0)).is_finite()
