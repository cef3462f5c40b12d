"""Labels for which a model has no output are named with their samples."""

import pytest
import torch
from conftest import command, write_recipe

from launcher.matching import NoOutput, entropy

RECIPE = """
class Labelled(torch.utils.data.Dataset):
    def __init__(self, samples, wrong):
        self.samples, self.wrong = samples, wrong

    def __len__(self):
        return self.samples

    def __getitem__(self, number):
        return torch.full((1, 4, 4), number / 300), 7 if number == self.wrong else number % 4


def data(hparams):
    return Data(
        train=Split(sources.from_dataset(Labelled(64, TRAIN))),
        test=Split(sources.from_dataset(Labelled(300, TEST))),
    )


def model(hparams, data):
    return models.MLP(16, 4, (8,))
"""


@pytest.mark.parametrize(
    ("split", "sample"), [("train", 1), ("train", 41), ("test", 0), ("test", 290)]
)
@pytest.mark.parametrize("given", [[], ["micro_batch_size=4"]])
def test_a_label_without_an_output_is_named_with_its_sample(
    split: str, sample: int, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"train": -1, "test": -1} | {split: sample}
    recipe = RECIPE.replace("TRAIN", f"{wrong['train']}").replace("TEST", f"{wrong['test']}")
    assert command(write_recipe(recipe), "name=r", *given) == 4
    shown = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert f"sample {sample} of the {split} split has label 7" in shown
    assert "the model gives 4 outputs, for labels from 0 to 3." in shown
    assert "Traceback" not in shown


def test_a_label_that_torch_leaves_out_has_no_output_and_needs_none() -> None:
    label = torch.tensor([-100, 1, -1])
    assert bool(entropy(torch.zeros(2, 3), label[:2]).isfinite())
    with pytest.raises(NoOutput, match="sample 2 of a micro-batch has label -1"):
        entropy(torch.zeros(3, 3), label)
