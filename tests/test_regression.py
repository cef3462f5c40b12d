"""The tutorials' regression: `recipes/regression_mlp.py` against their own loop."""

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command, noted
from torch import Tensor, nn

from launcher import recipe, rng

RECIPE = ROOT / "recipes" / "regression_mlp.py"


def tutorial(inputs: Tensor, target: Tensor, model: nn.Module, steps: int) -> list[float]:
    """The tutorials' loop, as they have it: the loss of each step."""
    loss_fn = nn.MSELoss(reduction="sum")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(steps):
        loss = loss_fn(model(inputs), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("micro_batch", [64, 16])
def test_500_steps_follow_the_tutorials_loss_curve(micro_batch: int) -> None:
    given = ("name=r", "threads=1", "evaluate_every=500", "checkpoint_every=500", "log_every=1")
    assert command(RECIPE, *given, f"micro_batch_size={micro_batch}") == 0
    ours = [line["train/loss"] for line in noted() if "train/loss" in line]

    loaded = recipe.load(RECIPE).recipe
    hparams = loaded.hparams()
    data = loaded.data(hparams)
    torch.manual_seed(rng.torch_seed(0))
    model = nn.Sequential(nn.Linear(1000, 100), nn.ReLU(), nn.Linear(100, 10))
    parts = data.train.source.parts  # type: ignore[attr-defined]
    theirs = tutorial(parts["image"], parts["target"], model, 500)

    assert len(ours) == len(theirs) == 500
    assert ours[0] > 300
    assert ours[-1] < 1e-4
    assert theirs[-1] < 1e-4
    # Equal up to rounding, which Adam lets grow once the loss is next to nothing.
    assert ours[:100] == pytest.approx(theirs[:100], rel=1e-3)
    assert ours[:300] == pytest.approx(theirs[:300], rel=0.05, abs=1e-3)


def test_the_best_score_of_a_regression_is_its_smallest_loss() -> None:
    assert command(RECIPE, "name=r", "threads=1", "epochs=6", "lr=0.01") == 0
    result = json.loads(Path("checkpoints/r/status.json").read_text())["result"]
    found = [line["test/loss"] for line in noted() if "test/loss" in line]
    assert result["monitor"] == "test/loss"
    assert result["best"]["scores"]["test/loss"] == min(found)
