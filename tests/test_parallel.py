"""DataParallel without GPUs: its devices are stood in for by parts of the CPU."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from launcher.parallel import DataParallel

Replica = Callable[..., Any]


class CpuDevices(nn.DataParallel[nn.Module]):
    """nn.DataParallel whose devices are all the CPU: scatter, replicate and gather as on GPUs.

    The replicas share the parameters, so that gradients arrive. Only the first device's buffers are
    the module's own.
    """

    def __init__(self, module: nn.Module, devices: int) -> None:
        super().__init__(module)
        self.device_ids = list(range(devices))
        self.output_device = 0
        self.src_device_obj = torch.device("cpu")

    def scatter(self, inputs: Any, kwargs: Any, device_ids: Any) -> Any:
        parts = [value.chunk(len(device_ids)) for value in inputs]
        return list(zip(*parts, strict=True)), [{} for _ in device_ids]

    def replicate(self, module: nn.Module, device_ids: Any) -> list[Any]:
        def replica(device: int) -> Replica:
            tensors: dict[str, Tensor] = dict(module.named_parameters())
            for name, buffer in module.named_buffers():
                tensors[name] = buffer.clone() if device else buffer
            return lambda *inputs: functional_call(module, tensors, inputs)

        return [replica(device) for device in device_ids]

    def parallel_apply(self, replicas: Any, inputs: Any, kwargs: Any) -> list[Any]:
        return [replica(*part) for replica, part in zip(replicas, inputs, strict=True)]

    def gather(self, outputs: Any, output_device: Any) -> Any:
        return tuple(torch.cat(part) for part in zip(*outputs, strict=True))


def on_devices(model: nn.Module, devices: int, dtype: torch.dtype | None = None) -> DataParallel:
    wrapped = DataParallel(model, devices, dtype)
    wrapped._parallel = CpuDevices(wrapped._replica, devices)  # type: ignore[assignment]
    return wrapped


def network(batch_norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(5)] if batch_norm else []
    return nn.Sequential(nn.Linear(4, 5), *norm, nn.ReLU(), nn.Linear(5, 3))


def inputs(samples: int = 12) -> Tensor:
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(1))


def floating(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if b.is_floating_point()}


def one_by_one(model: nn.Module, parts: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs of each part by a copy of the model, and the mean of the buffers they leave."""
    copies = [copy.deepcopy(model) for _ in parts]
    output = torch.cat([one(part) for one, part in zip(copies, parts, strict=True)])
    left = [floating(one) for one in copies]
    return output, {name: torch.stack([b[name] for b in left]).mean(0) for name in left[0]}


@pytest.mark.parametrize("devices", [2, 3])
def test_each_device_computes_its_micro_batch_as_the_model_alone_would(devices: int) -> None:
    model, x = network(), inputs()
    expected, _ = one_by_one(model, x.chunk(devices))
    whole = copy.deepcopy(model)(x)
    found = on_devices(model, devices)(x)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, whole), "batch norm saw the batch and not the micro-batches"


@pytest.mark.parametrize("devices", [2, 3])
def test_in_training_the_buffers_become_the_mean_over_the_devices(devices: int) -> None:
    model, x = network(), inputs()
    _, expected = one_by_one(model, x.chunk(devices))
    alone = copy.deepcopy(model)
    alone(x.chunk(devices)[0])
    on_devices(model, devices)(x)
    for name, values in floating(model).items():
        torch.testing.assert_close(values, expected[name])
        assert not torch.allclose(values, floating(alone)[name]), "those of the first device"
    assert model.get_buffer("1.num_batches_tracked").item() == 1


def test_nn_data_parallel_alone_keeps_the_buffers_of_the_first_device() -> None:
    """The negative control: what the mean replaces."""
    model, x = network(), inputs()
    alone = copy.deepcopy(model)
    alone(x.chunk(2)[0])
    wrapped = on_devices(model, 2)
    wrapped._parallel(x)
    for name, values in floating(model).items():
        torch.testing.assert_close(values, floating(alone)[name])


def test_in_evaluation_the_buffers_stay() -> None:
    model, x = network(), inputs()
    before = floating(model)
    wrapped = on_devices(model, 2).eval()
    output = wrapped(x)
    assert all(torch.equal(before[name], values) for name, values in floating(model).items())
    torch.testing.assert_close(output, model(x))


def test_training_and_evaluation_reach_the_model() -> None:
    model = network()
    wrapped = on_devices(model, 2)
    assert not wrapped.eval().training
    assert not model.training
    wrapped.train()
    assert model.training


def test_gradients_are_those_of_the_model_on_one_micro_batch_after_the_other() -> None:
    model, x = network(), inputs()
    plain = copy.deepcopy(model)
    for part in x.chunk(2):
        one: Any = plain(part).square().mean() / 2
        one.backward()
    loss: Any = on_devices(model, 2)(x).square().mean()
    loss.backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_bf16_is_computed_inside_the_replicas_and_the_output_is_float32() -> None:
    model, x = network(), inputs()
    inside: list[torch.dtype] = []
    model[-1].register_forward_hook(lambda _, __, output: inside.append(output.dtype))
    output = on_devices(model, 2, torch.bfloat16)(x)
    assert inside == [torch.bfloat16] * 2
    assert output.dtype == torch.float32
    assert torch.equal(output, output.bfloat16().float()), "it was not computed in bf16"
    assert {values.dtype for values in floating(model).values()} == {torch.float32}


def test_without_a_dtype_nothing_is_cast() -> None:
    model = network()
    inside: list[torch.dtype] = []
    model[-1].register_forward_hook(lambda _, __, output: inside.append(output.dtype))
    assert on_devices(model, 2)(inputs()).dtype == torch.float32
    assert inside == [torch.float32] * 2


def test_a_model_without_buffers_runs_on_several_devices() -> None:
    model, x = network(batch_norm=False), inputs()
    torch.testing.assert_close(on_devices(model, 3)(x), model(x))


def test_checkpoints_hold_the_names_of_the_model_and_not_of_the_wrapping() -> None:
    """The loop saves the model itself, whose tensors the wrapping shares."""
    model = network()
    wrapped = on_devices(model, 2)
    assert {id(p) for p in wrapped.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are devices here")
def test_without_devices_the_model_runs_as_one_module() -> None:
    model, x = network(), inputs()
    expected, left = one_by_one(model, [x])
    found = DataParallel(model, 2, None)(x)
    torch.testing.assert_close(found, expected)
    for name, values in floating(model).items():
        torch.testing.assert_close(values, left[name])
