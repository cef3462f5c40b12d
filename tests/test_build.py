"""What would fail after an hour is refused before the first step."""

import logging
from dataclasses import replace

import pytest
import torch
from conftest import write_recipe

from launcher.build import Parts, build, preflight
from launcher.connect import connect
from launcher.errors import RecipeError, SettingsError
from launcher.launch import Launch
from launcher.monitor import Monitor
from launcher.recipe import load
from launcher.settings import RunSettings

CPU = torch.device("cpu")

TEN_CLASSES = """
def data(hparams):
    image = torch.zeros(40, 1, 4, 4, dtype=torch.uint8)
    label = torch.arange(40) % {labels}
    source = sources.Arrays(image, label, tuple("0123456789"))
    return Data(train=Split(source), test=Split(source), prepare=augment.normalize((0.5,), (0.5,)))


def model(hparams, data):
    return models.MLP(16, {outputs}, (4,))
"""

BATCH_NORM = """
def model(hparams, data):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 4)
    )
"""


def built(extra: str = "", settings: RunSettings = RunSettings(), **changes: object) -> Parts:  # noqa: B008
    loaded = load(write_recipe(extra))
    hparams = replace(loaded.recipe.hparams(), **changes)
    return build(loaded, hparams, settings, connect(Launch(), hparams, settings))


def refusal(extra: str) -> str:
    with pytest.raises(RecipeError) as error:
        built(extra)
    return str(error.value)


# ── the output ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [(7, 10), (12, 10), (7, 2), (1, 1)],
    ids=["too few", "too many", "too few, but the labels seen fit", "one"],
)
def test_a_head_that_does_not_fit_the_classes_is_refused_with_both_shapes(
    outputs: int, labels: int
) -> None:
    message = refusal(TEN_CLASSES.format(outputs=outputs, labels=labels))
    assert f"output of shape (2, {outputs})" in message
    assert "has 10 classes: it should be (2, 10)" in message
    assert "recipe.model in tiny.py" in message
    assert "(1, 4, 4)" in message


def test_a_head_that_fits_is_not_refused() -> None:
    parts = built(TEN_CLASSES.format(outputs=10, labels=10))
    assert parts.data.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("output", "shape"), [("x.flatten(1)[:, 0]", "(2,)"), ("x", "(2, 1, 4, 4)"), ("x.sum()", "()")]
)
def test_an_output_of_another_rank_is_refused_with_its_shape(output: str, shape: str) -> None:
    message = refusal(
        "class Odd(nn.Linear):\n"
        f"    def forward(self, x): return {output} * self.weight.sum()\n\n\n"
        "def model(hparams, data): return Odd(1, 1)\n"
    )
    assert f"output of shape {shape}" in message
    assert "4 classes" in message


def test_regression_has_no_classes_to_fit() -> None:
    parts = built(
        "class Sums:\n"
        "    classes, shape, fingerprint = None, (1, 4, 4), 'sums'\n\n"
        "    def __len__(self): return 40\n\n"
        "    def __getitem__(self, index):\n"
        "        x = torch.ones(len(index), 1, 4, 4)\n"
        "        return {'image': x, 'target': torch.ones(len(index), 1)}\n\n\n"
        "def data(hparams): return Data(train=Split(Sums()), test=Split(Sums()))\n\n\n"
        "def model(hparams, data): return models.MLP(16, 1)\n\n\n"
        "from launcher.metrics import regression as metrics\n"
        "loss = losses.mse\n",
    )
    assert parts.data.classes == ()
    assert parts.monitor == Monitor("test/loss", smaller=True)


TARGETS = """
def data(hparams):
    source = sources.tensors(image=torch.ones(40, 16), target=torch.ones(40))
    return Data(train=Split(source), test=Split(source))


def model(hparams, data): return nn.Linear(16, 1)


def mean_squares(model, batch):
    return nn.functional.mse_loss(model(batch["image"])[:, 0], batch["target"])


"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loss", "metrics"),
    [
        ("losses.mse", "metrics.regression"),
        ("mean_squares", "metrics.regression"),
        (
            "lambda m, b: nn.functional.l1_loss(m(b['image']), b['target'])",
            "lambda m, b: {'loss': m(b['image'])[:, 0]}",
        ),
    ],
    ids=["ours", "the metrics alone", "torch's own"],
)
def test_an_output_that_would_be_broadcast_against_its_target_is_refused(
    loss: str, metrics: str
) -> None:
    said = refusal(f"from launcher import metrics\n{TARGETS}loss = {loss}\nmetrics = {metrics}")
    assert "(2, 1)" in said or "torch.Size([2, 1])" in said
    assert "(2,)" in said or "torch.Size([2])" in said


def test_the_defaults_say_what_a_recipe_with_targets_must_give() -> None:
    said = refusal(TARGETS)
    assert "losses.cross_entropy (the default loss) needs `label`" in said
    assert "a batch of this data has image, target: give the recipe loss=losses.mse" in said
    said = refusal(f"{TARGETS}loss = mean_squares")
    assert said.startswith("metrics.classification (the default) needs `label`")
    assert "give the recipe metrics=metrics.regression or metrics of its own." in said


# ── loss and metrics ────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_no_single_number_is_refused_with_its_shape() -> None:
    message = refusal("def loss(model, batch): return model(batch['image']).mean(1)")
    assert "recipe.loss in tiny.py must return one number" in message
    assert "(2,)" in message


def test_a_loss_that_is_no_tensor_is_refused() -> None:
    message = refusal("def loss(model, batch): return model(batch['image']).sum().item()")
    assert "recipe.loss in tiny.py must return Tensor, but returned float" in message


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("output.mean()", "()"),
        ("output", "(2, 4)"),
        ("output[:1, 0]", "(1,)"),
        ("[1.0, 2.0]", "list"),
    ],
)
def test_a_metric_that_is_not_one_number_per_sample_is_refused(value: str, what: str) -> None:
    message = refusal(
        f"def metrics(model, batch):\n    output = model(batch['image'])\n"
        f"    return {{'accuracy': {value}}}"
    )
    assert "recipe.metrics must return one number per sample" in message
    assert f"'accuracy' is {what} for 2 samples" in message


def test_metrics_that_are_no_dictionary_are_refused() -> None:
    assert "must return dict" in refusal("def metrics(model, batch): return model(batch['image'])")


def test_an_unknown_monitor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError) as error:
        built(settings=RunSettings(monitor="test/acuracy"))
    message = str(error.value)
    assert "monitor=test/acuracy" in message
    assert "test/loss, test/accuracy" in message
    assert "Did you mean 'test/accuracy'?" in message


def test_a_direction_of_a_metric_that_is_not_there_is_refused_with_the_nearest() -> None:
    message = refusal('better = {"acuracy": "larger"}')
    assert "Recipe.better names 'acuracy', and recipe.metrics gives no such metric" in message
    assert "but loss, accuracy. Did you mean 'accuracy'?" in message


# ── model, optimizer, data ──────────────────────────────────────────────────────────────────────


def test_an_optimizer_of_another_model_is_refused() -> None:
    message = refusal(
        "def optimizer(hparams, model):\n"
        "    other = nn.Linear(2, 2)\n"
        "    return torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)"
    )
    assert "recipe.optimizer in tiny.py holds 2 tensors that are no parameters" in message


def test_a_model_with_nothing_to_train_is_refused() -> None:
    message = refusal("def model(hparams, data): return models.MLP(16, 4).requires_grad_(False)\n")
    assert "recipe.model in tiny.py has no parameter that can be trained" in message


def test_a_parameter_that_the_optimizer_leaves_out_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "launcher"):
        built("def optimizer(hparams, model): return torch.optim.SGD([next(model.parameters())])")
    assert "the optimizer leaves out layers.1.bias, layers.3.weight, layers.3.bias" in caplog.text


@pytest.mark.parametrize("name", ["data", "model", "optimizer", "schedule", "loss", "metrics"])
def test_what_a_recipe_raises_names_its_line(name: str) -> None:
    message = refusal(f"def {name}(one, two=None):\n    raise KeyError('lost')")
    assert message.startswith("tiny.py:")
    assert f"recipe.{name} raised KeyError: 'lost'" in message


@pytest.mark.parametrize("part", ["train", "test"])
def test_what_a_transform_raises_names_its_line_and_the_split(part: str) -> None:
    message = refusal(
        "def data(hparams, data=data):\n"
        "    def broken(batch, rng): return batch['picture']\n\n"
        "    whole = data(hparams)\n"
        f"    splits = {{'train': whole.train, 'test': whole.test}}\n"
        f"    splits['{part}'] = Split(whole.train.source, broken)\n"
        "    return Data(**splits)\n"
    )
    assert message.startswith("tiny.py:")
    assert f"making a {part} batch raised KeyError: 'picture'" in message


def test_an_exit_in_a_transform_is_a_refusal() -> None:
    """An exit with code 0 would look like success."""
    assert "exit" in refusal(
        "import sys\n\n\n"
        "def data(hparams, data=data):\n"
        "    def over(batch, rng): sys.exit(0)\n\n"
        "    return Data(train=Split(data(hparams).train.source, over), test=data(hparams).test)\n"
    )


# ── what is built ───────────────────────────────────────────────────────────────────────────────


def weights(parts: Parts) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parts.model.parameters()]


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_that_normalize_would_divide_twice_are_refused(part: str) -> None:
    said = refusal(
        "def data(hparams):\n"
        "    bytes_ = sources.synthetic('train', 64, (1, 4, 4), 4)\n"
        "    scaled = lambda batch, rng: batch | {'image': batch['image'].float() / 255}\n"
        f"    return Data(train=Split(bytes_{', scaled' * (part == 'train')}),\n"
        f"                test=Split(bytes_{', scaled' * (part == 'test')}),\n"
        "                prepare=augment.normalize((0.5,), (0.5,)))"
    )
    assert "divide these by 255 again" in said


def test_images_of_another_type_in_training_than_in_tests_are_refused() -> None:
    said = refusal(
        "def data(hparams):\n"
        "    bytes_ = sources.synthetic('train', 64, (1, 4, 4), 4)\n"
        "    scaled = lambda batch, rng: batch | {'image': batch['image'].float() / 255}\n"
        "    return Data(train=Split(bytes_, scaled), test=Split(bytes_))"
    )
    assert "as float32 in training and as uint8 in tests: do in Data.prepare" in said


def test_sizes_that_do_not_divide_are_refused_before_data_is_read() -> None:
    with pytest.raises(SettingsError, match="nearest sizes that fit: 14 and 21"):
        built("def data(hparams): raise AssertionError('it was read')", micro_batch_size=7)


def test_the_first_weights_are_a_function_of_the_seed() -> None:
    first = weights(built(BATCH_NORM))
    torch.rand(7)
    second = weights(built(BATCH_NORM))
    other = weights(built(BATCH_NORM, seed=1))
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], other[0])


def test_the_first_weights_are_those_of_the_recipe() -> None:
    """Nothing of what is checked has trained them."""
    parts = built("def model(hparams, data): return nn.Sequential(nn.Flatten(), ONE)\n\n\n"
                  "ONE = nn.Linear(16, 4)\nnn.init.ones_(ONE.weight)")  # fmt: skip
    assert torch.equal(weights(parts)[0], torch.ones(4, 16))
    assert parts.optimizer.state == {}
    assert all(parameter.grad is None for parameter in parts.model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_the_mode_it_was_with_its_buffers(training: bool) -> None:
    parts = built(BATCH_NORM)
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    parts.model.train(training)
    names = preflight(parts.loaded, parts.data, parts.model, CPU)
    assert names == ["test/loss", "test/accuracy"]
    assert all(module.training is training for module in parts.model.modules())
    after = parts.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not parts.model._forward_hooks


def test_the_model_keeps_its_mode_when_it_is_refused() -> None:
    parts = built(BATCH_NORM)
    wrong = replace(
        parts.loaded, recipe=replace(parts.recipe, loss=lambda model, batch: torch.zeros(2))
    )
    with pytest.raises(RecipeError):
        preflight(wrong, parts.data, parts.model, CPU)
    assert parts.model.training
    assert not parts.model._forward_hooks


def test_the_learning_rates_are_those_before_the_schedule() -> None:
    parts = built(
        "def optimizer(hparams, model):\n"
        "    first, *others = model.parameters()\n"
        "    groups = [{'params': [first], 'lr': 0.5}, {'params': others}]\n"
        "    return torch.optim.SGD(groups, lr=0.25)"
    )
    assert parts.base_lrs == (0.5, 0.25)


def test_the_micro_batch_size_of_an_earlier_attempt_is_kept_where_it_fits() -> None:
    parts = built()
    again = build(parts.loaded, parts.hparams, parts.settings, parts.world, 4)
    odd = build(parts.loaded, parts.hparams, parts.settings, parts.world, 5)
    asked = replace(parts.hparams, micro_batch_size=8)
    explicit = build(parts.loaded, asked, parts.settings, parts.world, 4)
    found = [p.plan.micro_batch_size for p in (parts, again, odd, explicit)]
    assert found == [16, 4, 16, 8]


def test_data_in_memory_cannot_be_asked_of_data_that_is_not() -> None:
    lazy = (
        "class Lazy:\n"
        "    def __init__(self, source): self.source = source\n\n"
        "    def __getattr__(self, name):\n"
        "        if name in ('nbytes', 'to'): raise AttributeError(name)\n"
        "        return getattr(self.source, name)\n\n"
        "    def __len__(self): return len(self.source)\n\n"
        "    def __getitem__(self, index): return self.source[index]\n\n\n"
        "def data(hparams, data=data):\n"
        "    whole = data(hparams)\n"
        "    lazy = [Split(Lazy(s.source), s.transform) for s in (whole.train, whole.test)]\n"
        "    return Data(train=lazy[0], test=lazy[1], prepare=whole.prepare)\n"
    )
    assert not built(lazy).resident
    with pytest.raises(SettingsError, match="resident=true"):
        built(lazy, settings=RunSettings(resident=True))
