"""Networks: names, shapes and outputs, against torchvision where it has the same network."""

from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from launcher.models import MLP, LeNet, ResNet, resnet18, resnet34
from launcher.models.mlp import Init
from launcher.models.resnet import BasicBlock, Stem


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_lenet_has_the_names_shapes_and_numbers_of_the_tutorial() -> None:
    model = LeNet()
    assert shapes(model) == {
        "conv1.weight": (6, 3, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (10, 84),
        "fc3.bias": (10,),
    }
    # 6*76 + 16*151 + 120*401 + 84*121 + 10*85
    assert size(model) == 62_006
    assert size(LeNet(channels=1)) == 61_706


def test_lenet_computes_what_the_tutorial_computes() -> None:
    """The tutorial pools after ReLU; ours before, which is the same."""
    torch.manual_seed(0)
    model, image = LeNet(), torch.randn(2, 3, 32, 32)
    x = torch.max_pool2d(model.conv1(image).relu(), 2)
    x = torch.max_pool2d(model.conv2(x).relu(), 2).flatten(1)
    expected = model.fc3(model.fc2(model.fc1(x).relu()).relu())
    assert torch.equal(model(image), expected)


@pytest.mark.parametrize(("classes", "channels"), [(10, 3), (7, 1)])
def test_lenet_gives_one_logit_per_class(classes: int, channels: int) -> None:
    output = LeNet(classes, channels)(torch.zeros(2, channels, 32, 32))
    assert output.shape == (2, classes)


def test_an_mlp_is_linear_layers_with_relu_between_them() -> None:
    model = MLP(784, 10)
    assert list(shapes(model).values()) == [(256, 784), (256,), (10, 256), (10,)]
    assert size(model) == 784 * 256 + 256 + 256 * 10 + 10
    image = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    first, first_bias, last, last_bias = model.parameters()
    expected = torch.relu(image.flatten(1) @ first.T + first_bias) @ last.T + last_bias
    torch.testing.assert_close(model(image), expected)


def test_an_mlp_has_the_widths_that_it_was_given() -> None:
    model = MLP(12, 3, (8, 5))
    assert [shape for shape in shapes(model).values() if len(shape) == 2] == [
        (8, 12),
        (5, 8),
        (3, 5),
    ]


def test_an_mlp_without_widths_is_softmax_regression() -> None:
    model = MLP(12, 3, ())
    assert list(shapes(model).values()) == [(3, 12), (3,)]
    x = torch.randn(4, 12)
    torch.testing.assert_close(model(2 * x) - model(x), model(x) - model(0 * x))


def weights(init: Init) -> tuple[Tensor, Tensor]:
    """The first weight matrix (300 x 600) and all biases."""
    torch.manual_seed(0)
    model = MLP(600, 10, (300,), init)
    biases: list[Tensor] = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    return next(model.parameters()).detach(), torch.cat(biases).detach()


@pytest.mark.parametrize("init", get_args(Init))
def test_an_mlp_starts_from_the_weights_that_were_asked_for(init: Init) -> None:
    matrix, biases = weights(init)
    most = matrix.abs().max().item()
    expected = {
        "default": 1 / 600**0.5 / 3**0.5,
        "normal": 0.01,
        "xavier": (2 / (600 + 300)) ** 0.5,
        "kaiming": (2 / 600) ** 0.5,
    }[init]
    assert matrix.std().item() == pytest.approx(expected, rel=0.01)
    assert matrix.mean().item() == pytest.approx(0, abs=expected / 100)
    if init == "normal":
        assert most > 4 * expected
    else:
        assert most == pytest.approx(3**0.5 * expected, rel=0.01), "not uniform"
    assert (biases.count_nonzero().item() == 0) == (init != "default")


def test_an_mlp_drops_units_in_training_only() -> None:
    model = MLP(12, 3, (64, 64), dropout=0.5)
    assert [type(layer) for layer in model.layers].count(nn.Dropout) == 2
    assert nn.Dropout not in [type(layer) for layer in MLP(12, 3).layers]
    x = torch.randn(4, 12)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_dropout_adds_nothing_to_the_parameters() -> None:
    assert list(shapes(MLP(12, 3)).values()) == list(shapes(MLP(12, 3, dropout=0.1)).values())


@pytest.mark.parametrize(("build", "name"), [(resnet18, "resnet18"), (resnet34, "resnet34")])
def test_a_resnet_gives_the_outputs_of_torchvision_with_its_weights(build: Any, name: str) -> None:
    import torchvision

    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)()
    ours = build(classes=1000, stem="imagenet")
    assert shapes(ours) == shapes(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image)), "in training"
        assert torch.equal(ours.layer4[0].bn1.running_var, theirs.layer4[0].bn1.running_var)
        assert torch.equal(ours.eval()(image), theirs.eval()(image)), "in evaluation"


@pytest.mark.parametrize(
    ("build", "convolutions", "millions"), [(resnet18, 17, 11.2), (resnet34, 33, 21.3)]
)
def test_a_resnet_has_its_number_of_layers(build: Any, convolutions: int, millions: float) -> None:
    model = build()
    found = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(found) == convolutions
    assert size(model) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("stem", "sides"), [("cifar", [32, 32, 16, 8, 4]), ("imagenet", [16, 8, 4, 2, 1])]
)
def test_each_stage_of_a_resnet_halves_the_image_but_the_first(
    stem: Stem, sides: list[int]
) -> None:
    model = resnet18(stem=stem)
    found: list[tuple[int, ...]] = []
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        part = model.get_submodule(name)
        part.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape[1:])))
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    channels = [64, 64, 128, 256, 512]
    assert found == [(c, s, s) for c, s in zip(channels, sides, strict=True)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 45, 33), (1, 1, 1)])
@pytest.mark.parametrize("stem", get_args(Stem))
def test_a_resnet_takes_images_of_any_size(stem: Stem, shape: tuple[int, int, int]) -> None:
    model = ResNet((1, 1, 1, 1), classes=4, channels=shape[0], stem=stem).eval()
    with torch.no_grad():
        output = model(torch.rand(2, *shape))
    assert output.shape == (2, 4)
    assert output.isfinite().all()


def test_zero_init_residual_starts_every_block_as_the_identity() -> None:
    model = resnet18(zero_init_residual=True)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    assert len(blocks) == 8
    x = torch.rand(2, 64, 4, 4)  # not below zero, so that the last ReLU keeps it
    for block in blocks:
        assert not block.bn2.weight.any()
        assert bool((block.bn1.weight == 1).all())
    assert torch.equal(model.layer1(x), x)


def test_without_zero_init_residual_a_block_changes_its_input() -> None:
    model = resnet18()
    x = torch.rand(2, 64, 4, 4)
    assert not torch.equal(model.layer1(x), x)


def test_the_same_seed_gives_the_same_first_weights() -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(resnet18().state_dict())
    same, other = [all(torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(models)]
    assert same
    assert not other


def test_filters_start_with_the_variance_of_he() -> None:
    torch.manual_seed(0)
    filters = resnet18().get_parameter("layer4.1.conv2.weight")
    assert filters.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_stochastic_depth_is_torchvisions() -> None:
    from torchvision.ops import stochastic_depth

    block, twin = BasicBlock(64, 64, 1), BasicBlock(64, 64, 1)
    twin.load_state_dict(block.state_dict())
    block.drop = 0.4
    x = torch.randn(16, 64, 4, 4)
    torch.manual_seed(3)
    found = block(x)
    torch.manual_seed(3)
    inner = twin.bn2(twin.conv2(twin.relu(twin.bn1(twin.conv1(x)))))
    dropped = stochastic_depth(inner, 0.4, "row")
    assert torch.equal(found, torch.relu(dropped + x))
    skipped = (dropped.flatten(1) == 0).all(1)
    assert 0 < skipped.sum() < 16
    assert torch.equal(found[skipped], torch.relu(x[skipped]))


def test_stochastic_depth_rises_with_the_layers_and_ends_with_training() -> None:
    model = resnet34(stochastic_depth=0.5)
    drops = [module.drop for module in model.modules() if hasattr(module, "drop")]
    assert drops == [0.5 * number / 16 for number in range(1, 17)]
    x = torch.randn(4, 3, 8, 8)
    plain = resnet34()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))
    torch.manual_seed(0)
    one = model.train()(x)
    torch.manual_seed(1)
    assert not torch.equal(model(x), one)
