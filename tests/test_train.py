"""What a run of the loop leaves: weights, lines of metrics, a status."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command, write_recipe
from safetensors.torch import load_file
from torch import Tensor

from launcher import describe
from launcher.plan import Plan
from launcher.train import due, log_interval

RUN = Path("checkpoints/r")
NAN = """
def loss(model, batch):
    global passes
    passes += model.training
    return losses.cross_entropy(model, batch) {operation} if passes == {at} else (
        losses.cross_entropy(model, batch))


passes = 0
"""


def trained(*arguments: object, extra: str = "", code: int = 0) -> list[dict[str, Any]]:
    """The metrics of a new run."""
    path = write_recipe(extra)
    assert command(path, "name=r", "threads=1", *arguments, "--fresh") == code
    return lines()


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]


def of_training(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in found if "train/loss" in line]


def weights() -> dict[str, Tensor]:
    """Of the newest checkpoint."""
    return load_file(max(RUN.glob("step-*")) / "model.safetensors")


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RUN / "status.json").read_text())
    return found


# ── when ────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_due_every_few_steps_is_due_at_the_end_too() -> None:
    assert [step for step in range(1, 12) if due(step, 4, 11)] == [4, 8, 11]
    assert [step for step in range(1, 9) if due(step, 4, 8)] == [4, 8]
    assert [step for step in range(1, 4) if due(step, 100, 3)] == [3]


@pytest.mark.parametrize(
    ("steps_per_epoch", "log_every", "interval"),
    [(1000, 50, 50), (100, 50, 20), (5, 50, 1), (3, 50, 1), (1, 50, 1), (100, 3, 3)],
)
def test_an_epoch_of_five_steps_has_at_least_five_lines(
    steps_per_epoch: int, log_every: int, interval: int
) -> None:
    plan = Plan(seed=0, epochs=1, samples=steps_per_epoch, batch_size=1, micro_batch_size=1)
    assert log_interval(plan, log_every) == interval


def test_checkpoints_are_the_newest_and_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    trained("epochs=5", "checkpoint_every=2", "evaluate_every=3")
    (best,) = {json.loads((f / "state.json").read_text())["best"]["step"]
               for f in RUN.glob("step-*20")}  # fmt: skip
    kept = sorted(int(folder.name[5:]) for folder in RUN.glob("step-*"))
    assert kept == sorted({best, 18, 20})
    assert f"at step {best}" in capsys.readouterr().out


# ── metrics ─────────────────────────────────────────────────────────────────────────────────────


def test_a_line_of_training_and_one_of_evaluation_have_these_keys() -> None:
    found = trained()
    assert [line["step"] for line in of_training(found)] == list(range(1, 9))
    assert [list(line) for line in found if "test/loss" in line] == [
        ["step", "epoch", "seconds", "test/loss", "test/accuracy", "test/accuracy/0",
         "test/accuracy/1", "test/accuracy/2", "test/accuracy/3"]
    ] * 2  # fmt: skip
    for line in of_training(found):
        assert list(line) == [
            "step", "epoch", "seconds", "train/loss", "train/lr", "train/grad_norm",
            "train/samples_per_s", "train/data_wait",
        ]  # fmt: skip
        assert line["epoch"] == line["step"] / 4
    seconds = [line["seconds"] for line in found]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] < 100


def test_a_line_of_training_has_the_mean_loss_since_the_last_one() -> None:
    every = of_training(trained("log_every=1", "batch_size=4"))
    every_third = of_training(trained("log_every=3", "batch_size=4"))
    assert [line["step"] for line in every_third] == [*range(3, 33, 3), 32]
    first, last = every_third[0], every_third[-1]
    assert first["train/loss"] == pytest.approx(
        sum(line["train/loss"] for line in every[:3]) / 3, rel=1e-12
    )
    assert last["train/loss"] == pytest.approx(
        (every[30]["train/loss"] + every[31]["train/loss"]) / 2, rel=1e-12
    )


def test_the_learning_rate_follows_the_schedule() -> None:
    found = of_training(trained("lr=0.5"))
    expected = [0.5 * (1 - (step + 0.5) / 8) for step in range(8)]
    assert [line["train/lr"] for line in found] == pytest.approx(expected, rel=1e-12)


def test_every_group_has_its_own_learning_rate() -> None:
    groups = """
def optimizer(hparams, model):
    bias = [p for p in model.parameters() if p.ndim == 1]
    weight = [p for p in model.parameters() if p.ndim > 1]
    return torch.optim.SGD([{"params": weight}, {"params": bias, "lr": 0.0}], lr=0.1)
"""
    trained("epochs=1", extra=groups)
    one = weights()
    trained("epochs=2", extra=groups)
    two = weights()
    assert not torch.equal(one["layers.1.weight"], two["layers.1.weight"])
    assert torch.equal(one["layers.1.bias"], two["layers.1.bias"])
    trained("epochs=2", extra=groups.replace('"lr": 0.0', '"lr": 0.1'))
    assert not torch.equal(one["layers.1.bias"], weights()["layers.1.bias"])


# ── the same mathematics ────────────────────────────────────────────────────────────────────────


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("micro_batch_size", [1, 4, 8])
def test_accumulated_gradients_are_those_of_the_whole_batch(micro_batch_size: int) -> None:
    whole = trained()
    expected = weights()
    parts = trained(f"micro_batch_size={micro_batch_size}")
    assert 0 < difference(weights(), expected) < 1e-6
    for one, other in zip(whole, parts, strict=True):
        for key in ("train/loss", "train/lr", "train/grad_norm", "test/loss", "test/accuracy"):
            assert (key in one) == (key in other)
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=1e-5)


def test_one_step_is_the_step_of_plain_torch() -> None:
    """Against a second loop of ten lines, which knows nothing of the launcher's."""
    trained("epochs=1", "batch_size=64", "lr=0.3")
    expected = load_file(max(RUN.glob("step-*")) / "model.safetensors")

    from launcher import rng
    from launcher.data import assemble
    from launcher.recipe import load

    recipe = load(Path("tiny.py")).recipe
    hparams = recipe.hparams(epochs=1, batch_size=64, lr=0.3)
    data = recipe.data(hparams)
    torch.manual_seed(rng.torch_seed(0))
    model = recipe.model(hparams, data)
    index = rng.order(0, 0, 64)
    batch = assemble(data, data.train, index, rng.SampleRng(0, 0, index), torch.device("cpu"))
    own = dict(model.named_parameters())
    gradients = torch.autograd.grad(recipe.loss(model, batch), list(own.values()))
    moved = {
        name: (parameter - 0.3 * 0.5 * gradient).detach()
        for (name, parameter), gradient in zip(own.items(), gradients, strict=True)
    }
    assert difference(moved, expected) < 1e-6


def test_the_gradient_is_clipped_and_its_norm_noted_before() -> None:
    free = of_training(trained("momentum=0", "lr=1"))
    freely = weights()
    clipped = of_training(trained("momentum=0", "lr=1", "grad_clip=0.001"))
    tightly = weights()
    assert free[0]["train/grad_norm"] == clipped[0]["train/grad_norm"] > 0.001
    assert difference(freely, tightly) > 1e-3
    write_recipe()
    command("tiny.py", "name=r", "--fresh", "momentum=0", "lr=1", "grad_clip=1000")
    assert difference(freely, weights()) == 0


def test_a_clipped_step_has_the_length_of_the_clip() -> None:
    """One step of plain SGD moves the weights by the learning rate times the gradient."""
    parts = ("momentum=0", "epochs=1", "batch_size=64")
    trained(*parts, "lr=0.0001", "grad_clip=1e-9")
    before = weights()
    trained(*parts, "lr=1", "grad_clip=0.125")
    moved = torch.cat([(weights()[name] - before[name]).flatten() for name in before])
    assert moved.norm().item() == pytest.approx(0.5 * 0.125, rel=1e-3)  # progress is 1/2


def test_the_same_command_gives_the_same_bytes_and_another_seed_others() -> None:
    def everything(*arguments: str) -> bytes:
        trained("dropout=0.5", *arguments)
        return (max(RUN.glob("step-*")) / "model.safetensors").read_bytes()

    assert everything() == everything() != everything("seed=1")


def test_dropout_drops() -> None:
    """A negative control for the seeds of dropout."""
    almost_none = of_training(trained("dropout=1e-9"))
    half = of_training(trained("dropout=0.5"))
    assert almost_none[0]["train/loss"] != half[0]["train/loss"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_in_any_precision_of_a_cpu_ends_well(precision: str) -> None:
    found = of_training(trained(f"precision={precision}"))
    assert all(math.isfinite(line["train/loss"]) for line in found)
    assert {tensor.dtype for tensor in weights().values()} == {torch.float32}
    run = json.loads((RUN / "run.json").read_text())
    assert run["attempts"][0]["precision"] == precision


# ── what ends a run ─────────────────────────────────────────────────────────────────────────────


def test_a_finished_run_says_so() -> None:
    found = trained()
    about = status()
    assert (about["state"], about["code"], about["step"]) == ("finished", 0, 8)
    assert about["last_committed_step"] == 8
    assert about["result"]["scores"]["test/loss"] == found[-1]["test/loss"]


@pytest.mark.parametrize("operation", ["* float('nan')", "+ float('inf')"])
def test_a_loss_that_is_not_finite_ends_the_run_in_its_step(
    operation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained(extra=NAN.format(operation=operation, at=7), code=6)
    about = status()
    assert (about["state"], about["code"]) == ("failed", 6)
    assert "not finite in step 7 (epoch 2)" in about["reason"]
    assert about["last_committed_step"] == 4
    assert [line["step"] for line in of_training(found)] == [1, 2, 3, 4, 5, 6]
    assert "not finite" in capsys.readouterr().err
    assert sorted(folder.name for folder in RUN.glob("step-*")) == ["step-000000000004"]


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("raise KeyError('x')", 3),
        ("raise KeyboardInterrupt", 130),
        ("raise SystemExit(0)", 3),
        ("raise torch.OutOfMemoryError('full')", 10),
    ],
)
def test_what_a_recipe_raises_in_a_step_ends_the_run(statement: str, code: int) -> None:
    """An exit with code 0 would look like success."""
    lines = ["def loss(model, batch):", "    if model.training:", f"        {statement}",
             "    return losses.cross_entropy(model, batch)"]  # fmt: skip
    ended: int | str | None = None
    try:
        ended = command(write_recipe("\n".join(lines)), "name=r")
    except SystemExit as error:
        ended = f"exit({error.code})"
    assert ended == code
    about = status()
    assert (about["state"], about["last_committed_step"]) == ("failed", None)
    assert about["code"] == code


def test_a_recipe_that_raises_in_a_step_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    extra = "def loss(model, batch):\n    if model.training:\n        [][1]  # here\n" \
            "    return losses.cross_entropy(model, batch)"  # fmt: skip
    path = write_recipe(extra)
    assert command(path, "name=r") == 3
    place = [n for n, text in enumerate(path.read_text().splitlines(), 1) if "# here" in text]
    assert f"tiny.py:{place[0]}: the recipe raised IndexError" in capsys.readouterr().err


def test_a_test_loss_that_is_not_finite_ends_nothing() -> None:
    extra = (
        "def metrics(model, batch, score=metrics):\n"
        "    return score(model, batch) | {'loss': torch.full((len(batch['label']),), torch.inf)}"
    )
    found = trained(extra=extra)
    assert found[-1]["test/loss"] is None
    assert status()["state"] == "finished"
    assert status()["result"]["scores"]["test/loss"] is None
    assert command("tiny.py", "name=r", "threads=1") == 0


# ── dry run ─────────────────────────────────────────────────────────────────────────────────────


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def test_a_dry_run_leaves_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe()
    before = files()
    assert command(path, "--dry-run") == 0
    assert files() == before
    out = capsys.readouterr().out
    assert "dry run: one step" in out
    assert "test/accuracy" in out


def test_a_dry_run_beside_a_run_leaves_it_alone() -> None:
    trained()
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    assert command("tiny.py", "name=r", "--dry-run") == 0
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("extra", [NAN.format(operation="* float('nan')", at=1)])
def test_a_dry_run_finds_what_a_run_would(extra: str) -> None:
    assert command(write_recipe(extra), "--dry-run") == 6


# ── what is shown ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


def test_a_run_begins_with_its_plan_and_ends_with_its_result(shown: Callable[[], str]) -> None:
    trained("micro_batch_size=4")
    out = shown()
    assert "r: fresh" in out
    assert "2 epochs x 4 steps of 16 = 8 steps; micro-batches of 4 x 4" in out
    assert "MLP, 172 parameters" in out
    one = Plan(seed=0, epochs=1, samples=16, batch_size=16, micro_batch_size=16)
    assert describe.planned(one) == "1 epoch x 1 step of 16 = 1 step"
    assert "epoch 2.00  step 8/8  train/loss " in out
    assert "r: finished at step 8" in out
    assert "test/accuracy/0" not in out
