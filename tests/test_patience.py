"""Early stopping on the monitored metric."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import command, write_recipe
from safetensors.torch import load_file
from test_processes import launch, weights

# The score rises with each evaluation until the third, then falls.
SCORED = """
calls = 0


def metrics(model, batch):
    global calls
    scores = [0.0, 0.1, 0.2, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]  # the first: before training
    found = torch.full((len(batch["label"]),), scores[calls])
    calls += 1
    return {"accuracy": found}
"""
# The same as a function of the weights' step, for runs that are killed and continued.
STEPPED = """
def metrics(model, batch):
    step = int(model.layers[1].bias.grad_fn is None) and int(model.steps)
    return {"accuracy": torch.full((len(batch["label"]),), -abs(step - 12.0))}


class Counting(models.MLP):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return super().forward(x)


def model(hparams, data):
    return Counting(16, len(data.classes), (hparams.width,))
"""


def status(name: str = "r") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"checkpoints/{name}/status.json").read_text())
    return found


def test_a_run_ends_after_as_many_evaluations_without_a_better_score(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(SCORED)
    assert command(recipe, "name=r", "threads=1", "epochs=10", "patience=2") == 0
    found = status()
    assert (found["state"], found["step"], found["last_committed_step"]) == ("finished", 20, 20)
    assert found["result"]["best"]["step"] == 12
    assert found["reason"] == (
        "stopped early, after step 20 of 40: 2 evaluations in a row gave no better test/accuracy "
        "(best: step 12; patience=2)"
    )
    assert "stopped early, after step 20 of 40" in capsys.readouterr().out
    assert sorted(path.name for path in Path("checkpoints/r").glob("step-*")) == [
        "step-000000000012", "step-000000000016", "step-000000000020",
    ]  # fmt: skip


def test_without_patience_it_goes_on_to_the_end() -> None:
    """The negative control."""
    assert command(write_recipe(SCORED), "name=r", "threads=1", "epochs=10") == 0
    assert (status()["step"], status()["reason"]) == (40, "")


def test_the_same_command_shows_the_result_and_trains_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(STEPPED)
    given = (recipe, "name=r", "threads=1", "epochs=10", "patience=2")
    assert command(*given) == 0
    before = Path("checkpoints/r/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert command(*given) == 0
    assert "stopped early, after step 20 of 40" in capsys.readouterr().out
    assert Path("checkpoints/r/metrics.jsonl").read_bytes() == before


def test_a_run_that_was_interrupted_stops_at_the_same_step_with_the_same_bits() -> None:
    recipe = write_recipe(STEPPED)
    given = ("threads=1", "epochs=10", "patience=2")
    assert command(recipe, "name=whole", *given) == 0
    assert command(recipe, "name=cut", *given, "max_minutes=1e-9", "checkpoint_every=1") == 75
    for _ in range(30):
        code = command(recipe, "name=cut", *given, "max_minutes=1e-9", "checkpoint_every=1")
        if code == 0:
            break
        assert code == 75
    assert status("cut")["reason"] == status("whole")["reason"] != ""
    for name in ("model", "optimizer"):
        step = f"step-{status('whole')['step']:012d}/{name}.safetensors"
        whole, cut = (load_file(f"checkpoints/{run}/{step}") for run in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(whole[key].equal(cut[key]) for key in whole)


def test_a_run_that_lost_only_its_last_word_ends_without_another_step() -> None:
    recipe = write_recipe(STEPPED)
    given = (recipe, "name=r", "threads=1", "epochs=10", "patience=2")
    assert command(*given) == 0
    path = Path("checkpoints/r/status.json")
    path.write_text(json.dumps(status() | {"state": "running", "reason": ""}))
    assert command(*given) == 0
    assert (status()["state"], status()["step"]) == ("finished", 20)
    assert "stopped early" in status()["reason"]


def test_more_patience_continues_where_it_stopped() -> None:
    recipe = write_recipe(STEPPED)
    assert command(recipe, "name=r", "threads=1", "epochs=10", "patience=2") == 0
    more = ("patience=4", "--allow-change", "patience")
    assert command(recipe, "name=r", "threads=1", "epochs=10", *more) == 0
    assert status()["step"] == 28


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(tmp_path: Path) -> None:
    recipe = write_recipe(STEPPED).read_text()
    given = ("epochs=10", "patience=2", "micro_batch_size=8")
    one = launch(tmp_path / "one", recipe, 1, *given, by="python")
    two = launch(tmp_path / "two", recipe, 2, *given, by="torchrun")
    for run in (one, two):
        assert json.loads((run / "status.json").read_text())["step"] == 20
    assert weights(one).keys() == weights(two).keys()
