"""Models that cannot learn, optimizers that hold nothing, and weights that are tied."""

from pathlib import Path

import pytest
from conftest import command, write_recipe
from safetensors.torch import load_file

from launcher import checkpoint

RUN = Path("checkpoints/r")


def run(extra: str = "", *given: str) -> int:
    return command(write_recipe(extra), "name=r", "threads=1", *given)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("def model(hparams, data): return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))"
         ".requires_grad_(False)", "has no parameter that can be trained"),
        ("def model(hparams, data): return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(4))",
         "has no parameter that can be trained"),
        ("def optimizer(hparams, model): return torch.optim.SGD([], lr=0.1)",
         "optimizer got an empty parameter list"),
        ("def optimizer(hparams, model): return torch.optim.SGD([{'params': []}], lr=0.1)",
         "holds no parameter of the model that can be trained"),
        ("def optimizer(hparams, model):\n    found = torch.optim.SGD(model.parameters(), lr=0.1)\n"
         "    found.param_groups.clear()\n    return found",
         "holds no parameter of the model that can be trained"),
    ],
)  # fmt: skip
def test_what_cannot_learn_is_refused_before_training(
    extra: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """F9: nothing to train, or nobody to train it."""
    assert run(extra) == 3
    assert words in said(capsys)
    assert not Path("checkpoints").exists()


TIED = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(16, 16) for _ in range(3))
        self.second.weight = self.first.weight

    def forward(self, image):
        return self.last(self.second(self.first(image.flatten(1)).relu()))[:, :4]

def model(hparams, data): return Tied()
"""


def test_tied_weights_stay_tied_over_an_interruption() -> None:
    """F9: and the run ends with the weights of one that was not interrupted."""
    assert run(TIED, "epochs=3") == 0
    whole = load_file(checkpoint.folder_of(RUN, 12) / "model.safetensors")
    assert whole["first.weight"].equal(whole["second.weight"])
    assert run(TIED, "epochs=3", "--fresh", "keep=9") == 0
    for step in (8, 12):
        (RUN / f"step-{step:012d}").rename(f"gone-{step}")
    (RUN / "status.json").unlink()
    assert run(TIED, "epochs=3") == 0
    again = load_file(checkpoint.folder_of(RUN, 12) / "model.safetensors")
    assert all(whole[name].equal(again[name]) for name in whole)
