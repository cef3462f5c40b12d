"""Parameter groups by role."""

import pytest
import torch
from torch import Tensor, nn

from launcher import pretrained
from launcher.errors import RecipeError
from launcher.models import resnet18
from launcher.optim import decay_groups, layer_groups


class Small(nn.Module):
    """One parameter of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.matrix = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(()))


def names(model: nn.Module, parameters: list[Tensor]) -> set[str]:
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    return {own[id(parameter)] for parameter in parameters}


def test_filters_and_matrices_decay_and_norms_and_biases_do_not() -> None:
    model = resnet18()
    decayed, rest = decay_groups(model, 5e-4)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (5e-4, 0.0)
    expected = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    assert names(model, decayed["params"]) == expected
    assert "fc.bias" in names(model, rest["params"])
    assert "layer1.0.bn1.weight" in names(model, rest["params"])


def test_every_parameter_is_in_one_group() -> None:
    model = resnet18()
    held = [id(parameter) for group in decay_groups(model, 0.1) for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}


def test_a_parameter_used_twice_is_in_one_group_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert [len(group["params"]) for group in decay_groups(model, 0.1)] == [1, 2]


def test_a_scalar_parameter_does_not_decay() -> None:
    model = Small()
    _, rest = decay_groups(model, 0.1)
    assert "scale" in names(model, rest["params"])


def test_frozen_parameters_are_in_no_group() -> None:
    model = Small()
    model.filters.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    held = [parameter for group in decay_groups(model, 0.1) for parameter in group["params"]]
    every = {name for name, _ in model.named_parameters()}
    assert names(model, held) == every - {"filters.weight", "filters.bias", "norm.bias"}


def test_an_empty_group_is_left_out() -> None:
    (only,) = decay_groups(nn.Linear(3, 3, bias=False), 0.1)
    assert only["weight_decay"] == 0.1
    (only,) = decay_groups(nn.BatchNorm2d(3), 0.1)
    assert only["weight_decay"] == 0.0
    assert decay_groups(nn.ReLU(), 0.1) == []


def test_an_optimizer_shrinks_only_what_decays() -> None:
    model = Small()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(decay_groups(model, 0.5), lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_parts_of_a_model_have_rates_of_their_own() -> None:
    model = resnet18()
    groups = layer_groups(model, 0.1, {"fc": 1, "layer4": 0.5, "": 0.1}, weight_decay=0.01)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        expected = {"fc": 0.1, "layer4": 0.05}.get(name.partition(".")[0], 0.01)
        assert rate[id(parameter)] == pytest.approx(expected), name
        assert decay[id(parameter)] == (0.01 if parameter.ndim > 1 else 0)


def test_frozen_parts_have_no_group() -> None:
    model = resnet18()
    pretrained.freeze(model, head="fc")
    groups = layer_groups(model, 0.1, {"fc": 1, "": 0.1})
    assert [group["lr"] for group in groups] == [0.1, 0.1]
    assert {id(p) for group in groups for p in group["params"]} == {*map(id, model.fc.parameters())}


def test_a_part_that_is_not_there_or_left_out_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no part 'layer5'\. Did you mean 'layer"):
        layer_groups(resnet18(), 0.1, {"layer5": 1, "": 1})
    with pytest.raises(RecipeError, match=r"no factor for conv1\.weight"):
        layer_groups(resnet18(), 0.1, {"fc": 1})
