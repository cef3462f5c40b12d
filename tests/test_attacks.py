"""What an attacker of the first version found, kept mended."""

import json
import os
from pathlib import Path

import pytest
from conftest import command, write_recipe
from safetensors.torch import load_file

from launcher import checkpoint

RUN = Path("checkpoints/r")


COUNTS = """
class Counts(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            group["calls"] = group.get("calls", 0) + 1
            group["lr"] = group["lr"] / (1 + 0.1 * group["calls"])
        return super().step(closure)

def optimizer(hparams, model):
    return Counts(model.parameters(), lr=hparams.lr, momentum=0.9)

def loss(model, batch):
    if model.training and os.environ.get("STOP"):
        os.environ["STOP"] = str(int(os.environ["STOP"]) - 1)
        if os.environ["STOP"] == "0":
            raise KeyboardInterrupt
    return losses.cross_entropy(model, batch)
"""


def run(extra: str = "", *given: str) -> int:
    return command(write_recipe(extra), "name=r", "threads=1", *given)


def status() -> dict[str, object]:
    found: dict[str, object] = json.loads((RUN / "status.json").read_text())
    return found


def test_a_schedule_that_ends_in_nan_leaves_no_weights_that_are_nan() -> None:
    late = (
        "import math\ndef schedule(hparams, progress): return 1.0 if progress < 0.8 else math.nan"
    )
    assert run(late, "checkpoint_every=1") == 3
    for path in RUN.glob("step-*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_weights_that_overflow_in_the_last_update_are_not_saved() -> None:
    """The gradient is finite before the update, so only a look at the weights can tell."""
    huge = "def schedule(hparams, progress): return 1.0 if progress < 0.9 else 1e300"
    assert run(huge, "checkpoint_every=100", "evaluate_every=100") == 6
    assert not list(RUN.glob("step-*"))


def test_a_damaged_checkpoint_loses_its_name_and_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or it would count among the newest, and the one just written would be removed for it."""
    given = ("checkpoint_every=2", "evaluate_every=100", "keep=2")
    assert run(COUNTS, *given) == 0
    path = checkpoint.folder_of(RUN, 8) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (RUN / "status.json").unlink()
    monkeypatch.setenv("STOP", "1")
    assert run(COUNTS, *given) == 130
    assert checkpoint.steps(RUN) == [6]
    assert len(list(RUN.glob(".bad-step-000000000008-*"))) == 1


def ends_as_if_it_had_not_been_interrupted(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal runs have equal COMMIT files: each holds the hash of all the hashes."""
    assert run(extra, "checkpoint_every=3") == 0
    expected = (checkpoint.folder_of(RUN, 8) / "COMMIT").read_bytes()
    RUN.rename("whole")
    monkeypatch.setenv("STOP", "6")
    assert run(extra, "checkpoint_every=3") == 130
    monkeypatch.delenv("STOP")
    assert run(extra, "checkpoint_every=3") == 0
    assert (checkpoint.folder_of(RUN, 8) / "COMMIT").read_bytes() == expected


def test_what_an_optimizer_counts_in_its_groups_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ends_as_if_it_had_not_been_interrupted(COUNTS, monkeypatch)


def test_checkpoints_may_lie_elsewhere_behind_a_link() -> None:
    Path("scratch").mkdir()
    Path("checkpoints").symlink_to("scratch")
    assert run() == 0
    assert (Path("scratch") / "r" / "status.json").exists()


def test_a_recipe_that_changes_the_folder_changes_nothing_else() -> None:
    here = Path.cwd()
    Path("other").mkdir()
    moves = "plain = data\ndef data(hparams):\n    os.chdir('other')\n    return plain(hparams)"
    assert run(moves) == 0
    os.chdir(here)
    assert (RUN / "status.json").exists()
    assert run(moves, "lr=5") == 5


def test_transforms_that_draw_from_torch_are_the_same_after_an_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = (
        COUNTS
        + """
def data(hparams, data=data):
    def noisy(batch, rng):
        image = batch["image"].float()
        return batch | {"image": image + torch.rand(image.shape) * 50}
    whole = data(hparams)
    return Data(train=Split(whole.train.source, noisy), test=whole.test, prepare=whole.prepare)
"""
    )
    ends_as_if_it_had_not_been_interrupted(draws, monkeypatch)


def test_dropout_does_not_depend_on_what_a_transform_draws() -> None:
    weights = []
    for draws in ("0", "3"):
        drawing = f"""
def data(hparams, data=data):
    def transform(batch, rng):
        torch.rand({draws})
        return batch
    whole = data(hparams)
    return Data(train=Split(whole.train.source, transform), test=whole.test, prepare=whole.prepare)
"""
        assert run(drawing, "dropout=0.5", "--fresh") == 0
        weights.append((checkpoint.folder_of(RUN, 8) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_part_that_is_woken_during_training_is_clipped_and_cleared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    woken = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.steps = nn.Linear(16, 8), nn.Linear(8, 4), 0
        self.a.requires_grad_(False)
    def forward(self, x):
        self.steps += self.training
        if self.steps == 2:
            self.a.requires_grad_(True)
        return self.b(self.a(x.flatten(1)))
def model(hparams, data): return Net()
def optimizer(hparams, model): return torch.optim.SGD(model.parameters(), lr=0.0)
def schedule(hparams, progress): return 1.0
"""
    assert run(woken, "batch_size=64", "epochs=6", "log_every=1") == 0
    lines = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    norms = [line["train/grad_norm"] for line in lines if "train/grad_norm" in line]
    assert max(norms[1:]) < 1.5 * min(norms[1:])  # the same weights each time: no sum grows


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("def loss(model, batch): return losses.cross_entropy(model, batch).detach()", 3),
        ("def loss(model, batch): return model(batch['image']).sum(1)", 3),
        ("def optimizer(hparams, model): return torch.optim.LBFGS(model.parameters())", 3),
        ("def schedule(hparams, progress): return 1.0 if progress < 0.5 else 'low'", 3),
        ("calls = []\nplain = metrics\ndef metrics(model, batch):\n    calls.append(1)\n"
         "    found = plain(model, batch)\n"
         "    return found if len(calls) < 2 else {'other': found['loss']}", 3),
        ("plain = data\ndef data(hparams):\n    whole = plain(hparams)\n    return Data("
         "train=whole.train, test=Split(whole.test.source, lambda b, r: {k: v[:1] for k, v in "
         "b.items()}))", 3),
        ("class Odd(nn.Linear):\n    def get_extra_state(self): return {}\n"
         "def model(hparams, data): return nn.Sequential(nn.Flatten(), Odd(16, 4))", 3),
    ],
)  # fmt: skip
def test_a_recipe_that_misbehaves_late_is_a_recipe_error(extra: str, code: int) -> None:
    assert run(extra) == code


@pytest.mark.parametrize(
    "given",
    [
        ["epochs=" + "9" * 400], ["threads=100000"], ["threads=999999999999"],
        ["lr=\"\\UFFFFFFFF\""], ["epochs=99999999999999"],
    ],
)  # fmt: skip
def test_numbers_without_sense_are_refused(given: list[str]) -> None:
    assert run("", *given) == 2
    assert not Path("checkpoints").exists()


def test_a_recipe_with_a_name_that_no_disk_holds_is_refused() -> None:
    assert command("x" * 300 + ".py") == 2
