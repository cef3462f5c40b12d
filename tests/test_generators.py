"""Python's and numpy's generators: what is seeded, and what is said of draws that are not."""

import random
from pathlib import Path

import numpy as np
import pytest
from conftest import command, write_recipe

from launcher import checkpoint, generators

DRAWS = {"numpy": "np.random.rand()", "python": "random.random()"}
NAMES = {"numpy": "numpy's global generator", "python": "Python's random"}
BEGIN = "import random\nimport numpy as np\n"
MODEL = """
def model(hparams, data):
    made = models.MLP(16, 4, (8,))
    with torch.no_grad():
        next(made.parameters()).mul_(DRAW)
    return made
"""
DATA = """
def data(hparams):
    def train(batch, rng):
        return batch | {"image": (batch["image"] * (TRAIN)).to(torch.uint8)}

    def test(batch, rng):
        return batch | {"image": (batch["image"] * (TEST)).to(torch.uint8)}

    return Data(
        train=Split(sources.synthetic("train", NUMBER, (1, 4, 4), 4), train),
        test=Split(sources.synthetic("test", 40, (1, 4, 4), 4), test),
        prepare=augment.normalize((0.5,), (0.5,)),
    )
"""
LOSS = """
def loss(model, batch):
    return losses.cross_entropy(model, batch) * (DRAW if model.training else 1)
"""


def of(train: str = "1", test: str = "1", number: str = "64") -> str:
    """A recipe's `data` with these factors on its images, and so many samples."""
    return BEGIN + DATA.replace("TRAIN", train).replace("TEST", test).replace("NUMBER", number)


def trained(extra: str, name: str, *words: str) -> str:
    assert command(write_recipe(extra), f"name={name}", "threads=1", *words) == 0
    found, _ = checkpoint.newest(Path("checkpoints", name))
    assert found is not None
    return str([(key, found.weights[key].tolist()) for key in sorted(found.weights)])


@pytest.mark.parametrize("kind", DRAWS)
def test_first_weights_that_are_drawn_are_those_of_the_seed(kind: str) -> None:
    extra = BEGIN + MODEL.replace("DRAW", DRAWS[kind])
    found = []
    for number in range(2):
        random.seed(number)
        np.random.seed(number)
        found.append(trained(extra, f"run{number}"))
    first, again = found
    assert again == first
    assert trained(extra, "other", "seed=1") != first


def test_data_that_draws_is_the_same_each_time() -> None:
    """A split by `random.shuffle`, or a sample of the files."""
    extra = of(number="16 * random.randint(1, 99)")
    assert trained(extra, "first", "epochs=1") == trained(extra, "again", "epochs=1")


def test_what_data_draws_does_not_change_the_first_weights() -> None:
    draws = of().replace("def data(hparams):\n", "def data(hparams):\n    random.random()\n")
    model = MODEL.replace("DRAW", "random.random()")
    assert trained(draws + model, "drawn") == trained(of() + model, "plain")


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("what", ["transform", "loss"])
@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_step_that_draws_is_said_once(
    kind: str, what: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    loss = BEGIN + LOSS.replace("DRAW", DRAWS[kind])
    extra = of(train=DRAWS[kind]) if what == "transform" else loss
    assert command(write_recipe(extra), "name=r", "threads=1", *words) == 0
    shown = capsys.readouterr()
    found = f"{shown.out} {shown.err}"
    assert found.count(f"a step draws from {NAMES[kind]}, which is not the run's") == 1
    assert found.count("draws from") == 1


def test_a_test_batch_that_draws_is_said_before_the_first_step(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(write_recipe(of(test="np.random.rand()")), "name=r", "threads=1") == 0
    assert caplog.text.count("making a test batch draws from numpy's global generator") == 1
    assert "a step draws" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["workers=1"], ["micro_batch_size=4", "ema=0.9"]])
def test_nothing_is_said_of_draws_that_are_the_runs(
    words: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Dataset's samples find the generators seeded, and leave them as they were."""
    extra = """
import random
import numpy as np


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, number):
        return torch.full((1, 4, 4), random.random() + np.random.rand()), number % 4


def data(hparams):
    def transform(batch, rng):
        return batch | {"image": batch["image"] + torch.rand(()) + float(rng.uniform()[0])}

    source = sources.from_dataset(Noisy(), classes="abcd")
    return Data(train=Split(source, transform), test=Split(source))
"""
    assert command(write_recipe(extra), "name=r", "threads=1", "dropout=0.5", *words) == 0
    assert "draws from" not in capsys.readouterr().out + caplog.text


def test_a_single_draw_shows_and_a_look_does_not() -> None:
    for draw, name in ((random.random, NAMES["python"]), (np.random.rand, NAMES["numpy"])):
        before = generators.states()
        assert generators.drawn(before, generators.states()) == ""
        draw()
        assert generators.drawn(before, generators.states()) == name
