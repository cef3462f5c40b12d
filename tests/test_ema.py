"""The average of the weights: what it is, and that evaluations and checkpoints have it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command, noted, write_recipe
from safetensors.torch import load_file
from test_processes import launch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from launcher import checkpoint, network, reopen
from launcher.ema import Average, in_use
from launcher.errors import CheckpointError

# With running averages and dropout, and a metric that shows which weights were evaluated.
NORMED = """
class Normed(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.flat = nn.Flatten()
        self.norm = nn.BatchNorm1d(inputs)
        self.body = models.MLP(inputs, outputs, (8,), dropout=0.3)

    def forward(self, x):
        return self.body(self.norm(self.flat(x)))


def model(hparams, data):
    return Normed(16, len(data.classes))


def metrics(model, batch):
    found = classification(model, batch)
    weight = model.body.layers[1].weight.sum().expand(len(batch["label"]))
    return found | {"weight": weight}


from launcher.metrics import classification
"""
LAST = "step-000000000008"


def trained(name: str, *given: str, code: int = 0) -> Path:
    assert command(write_recipe(NORMED), f"name={name}", "threads=1", *given) == code
    return Path("checkpoints") / name


def cut(name: str, *given: str) -> Path:
    """The same run, stopped after each step and continued."""
    for _ in range(10):
        arguments = (f"name={name}", "threads=1", "max_minutes=1e-9", *given)
        code = command(write_recipe(NORMED), *arguments)
        if code == 0:
            return Path("checkpoints") / name
        assert code == 75
    raise AssertionError("it does not end")


def tensors(run: Path, step: str = LAST, file: str = "ema") -> dict[str, Tensor]:
    return load_file(run / step / f"{file}.safetensors")


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def model_with_everything() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


# ── what it is ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_it_is_torchs_averaged_model_to_the_last_bit(decay: float) -> None:
    torch.manual_seed(0)
    model = model_with_everything()

    def lerp(averages: Any, values: Any, averaged: Any) -> None:
        if averages[0].is_floating_point():
            step = int(averaged)
            torch._foreach_lerp_(averages, values, 1 - min(decay, step / (step + 1)))
        else:
            torch._foreach_copy_(averages, values)

    theirs = AveragedModel(model, multi_avg_fn=lerp, use_buffers=True)
    ours = Average(model, decay)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(20):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        ours.update(step)
        theirs.update_parameters(model)
    expected = theirs.module.state_dict()
    assert same(ours.tensors, dict(expected))
    assert not same(ours.tensors, model.state_dict())


def test_it_begins_as_the_plain_mean() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.999)
    for step in range(5):
        nn.init.constant_(model.weight, step)
        average.update(step)
        assert average.tensors["weight"].item() == pytest.approx(sum(range(step + 1)) / (step + 1))


def test_a_mask_of_minus_infinity_stays_one() -> None:
    """Its average would be NaN: minus infinity less itself."""
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    frozen = nn.Parameter(torch.full((3,), -torch.inf), requires_grad=False)
    model.register_parameter("frozen", frozen)
    average = Average(model, 0.9)
    for step in range(3):
        average.update(step)
    assert same(average.tensors, model.state_dict())


def test_a_model_has_its_own_weights_again_after_an_evaluation() -> None:
    model = model_with_everything()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    places = [value.data_ptr() for value in model.state_dict().values()]
    average = Average(model, 0.9)
    for tensor in average.tensors.values():
        tensor.zero_()
    seen = []

    def evaluation_that_fails() -> None:
        with in_use(model, average):
            seen.append(same(model.state_dict(), average.tensors))
            raise KeyError

    with pytest.raises(KeyError):
        evaluation_that_fails()
    assert seen == [True]
    assert same(model.state_dict(), own)
    assert [value.data_ptr() for value in model.state_dict().values()] == places
    with in_use(model, None):
        assert same(model.state_dict(), own)


# ── in a run ────────────────────────────────────────────────────────────────────────────────────


def test_evaluations_are_of_the_average_and_the_best_is_chosen_by_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = trained("r", "ema=0.9", "evaluate_every=1")
    name = "body.layers.1.weight"
    last = [line for line in noted() if "test/weight" in line][-1]
    average, own = tensors(run)[name].sum(), tensors(run, file="model")[name].sum()
    assert last["test/weight"] == pytest.approx(float(average), rel=1e-6)
    assert last["raw/weight"] == pytest.approx(float(own), rel=1e-6)
    assert abs(average - own) > 1e-4
    result = json.loads((run / "status.json").read_text())["result"]
    scores = [line["test/accuracy"] for line in noted() if "test/accuracy" in line]
    assert result["best"]["scores"]["test/accuracy"] == max(scores)
    out = capsys.readouterr().out
    assert "of the weights' average (ema=0.9); raw/ of their own" in out
    assert f"step-{result['best']['step']:012d}/ema.safetensors" in out


def test_predictions_are_made_with_the_average() -> None:
    run = trained("r", "ema=0.9")
    with network.opened(reopen.read(run, []), "last") as found:
        assert same(found.model.state_dict(), tensors(run))
    assert not same(tensors(run), tensors(run, file="model"))


def test_the_evaluate_verb_gives_the_runs_own_scores(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("r", "ema=0.9")
    scores = json.loads((run / "status.json").read_text())["result"]["scores"]
    capsys.readouterr()
    assert command("evaluate", "checkpoints/r", "step=last", "--json") == 0
    found = json.loads(capsys.readouterr().out)["scores"]
    assert found == scores
    assert "raw/loss" in found


def test_training_itself_does_not_notice() -> None:
    with_it, without = trained("with", "ema=0.9"), trained("without")
    for file in ("model", "optimizer"):
        assert same(tensors(with_it, file=file), tensors(without, file=file))
    losses = [
        [line["train/loss"] for line in noted(name) if "train/loss" in line]
        for name in ("with", "without")
    ]
    assert losses[0] == losses[1]


def test_a_run_without_it_keeps_no_such_file() -> None:
    run = trained("r")
    assert not (run / LAST / "ema.safetensors").exists()
    found = checkpoint.read(run, 8)
    assert found.average == {}
    assert found.weights is found.model
    assert all(not key.startswith("raw/") for line in noted() for key in line)


def test_an_interrupted_run_ends_with_the_same_average() -> None:
    whole, pieces = trained("whole", "ema=0.9"), cut("pieces", "ema=0.9")
    for file in ("ema", "model", "optimizer"):
        assert same(tensors(pieces, file=file), tensors(whole, file=file))
    both = [
        [{key: line[key] for key in line if key.startswith(("test/", "raw/"))} for line in found]
        for found in (noted("whole"), noted("pieces"))
    ]
    assert both[0] == both[1]
    assert len(json.loads((pieces / "run.json").read_text())["attempts"]) > 1


def test_a_run_that_forgets_its_average_ends_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    whole = trained("whole", "ema=0.9")
    monkeypatch.setattr(Average, "restore", lambda self, tensors: None)
    pieces = cut("pieces", "ema=0.9")
    assert not same(tensors(pieces), tensors(whole))
    assert same(tensors(pieces, file="model"), tensors(whole, file="model"))


def test_a_run_may_begin_to_average_and_stop_again_if_that_is_allowed() -> None:
    trained("r", "epochs=1")
    run = trained("r", "ema=0.9", "--allow-change", "ema", "--allow-change", "epochs")
    assert (run / LAST / "ema.safetensors").exists()
    more = ("epochs=3", "--allow-change", "ema", "--allow-change", "epochs")
    trained("r", *more)
    assert not (run / "step-000000000012" / "ema.safetensors").exists()


# ── on disk ─────────────────────────────────────────────────────────────────────────────────────


def test_a_damaged_average_is_found() -> None:
    run = trained("r", "ema=0.9")
    found = checkpoint.read(run, 8)
    assert same(found.weights, tensors(run))
    path = run / LAST / "ema.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors was changed or cut short"):
        checkpoint.read(run, 8)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"ema\.safetensors"):
        checkpoint.read(run, 8)


def test_an_average_of_another_model_is_refused() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Path("run").mkdir()
    checkpoint.save(Path("run"), 1, model, optimizer, {}, Average(other, 0.9).tensors)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: weight is"):
        checkpoint.restore(checkpoint.read(Path("run"), 1), model, optimizer)


@pytest.mark.slow
def test_two_processes_have_the_average_of_one(tmp_path: Path) -> None:
    recipe = write_recipe(NORMED).read_text()
    given = ("ema=0.9", "micro_batch_size=8")
    one = launch(tmp_path / "one", recipe, 1, *given, by="python")
    two = launch(tmp_path / "two", recipe, 2, *given, by="torchrun")
    for name, tensor in tensors(one).items():
        torch.testing.assert_close(tensors(two)[name], tensor, rtol=1e-4, atol=1e-5)
