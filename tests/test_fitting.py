"""`micro_batch_size=auto`, with memory that a test makes small.

What the recipe below calls full is said by torch's own error, in the pass and for the size that
LIMIT names: `forward 8` lets no forward pass have more than 8 samples.
"""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT, command, write_recipe

from launcher.plan import Plan

LIMITED = """
def full(where, samples, again=False):
    for limit in os.environ.get("LIMIT", "").split(","):
        place, _, most = limit.partition(" ")
        mine = os.environ.get("RANK", "0") == os.environ.get("FULL_RANK", "0")
        if place == where and mine and samples > int(most):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


class Wall(torch.autograd.Function):
    @staticmethod
    def forward(context, image):
        return image * 1

    @staticmethod
    def backward(context, gradient):
        full("backward", len(gradient))
        return gradient


class Limited(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(16, 8), nn.BatchNorm1d(8)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(8, 4)

    def forward(self, image):
        if self.training:
            full("forward", len(image))
            if self.first.weight.grad is not None:
                full("second", len(image))
        hidden = Wall.apply(self.norm(self.first(image.flatten(1)))).relu()
        return self.last(self.drop(hidden))


def model(hparams, data):
    return Limited()


def loss(model, batch):
    if model.training and os.environ.get("LATER"):
        with open("passes.txt", "a") as file:
            file.write(f"{len(batch['label'])}\\n")
        if len(Path("passes.txt").read_text().split()) == int(os.environ["LATER"]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    return losses.cross_entropy(model, batch)


from pathlib import Path
"""
CASES = [("forward 8", 8), ("backward 4", 4), ("forward 8,second 2", 2), ("forward 99", 16),
         ("forward 8,backward 4", 4)]  # fmt: skip


@pytest.fixture(autouse=True)
def recipe() -> Path:
    return write_recipe(LIMITED)


def train(name: str, size: object, *more: str) -> int:
    return command("tiny.py", f"name={name}", "threads=1", f"micro_batch_size={size}", *more)


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"checkpoints/{name}/run.json").read_text())
    return found


def last(name: str) -> dict[str, bytes]:
    folder = max(Path(f"checkpoints/{name}").glob("step-*"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("limit", "size"), CASES)
def test_the_weights_are_those_of_a_run_that_was_given_the_size_that_fits(
    limit: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMIT", limit)
    assert train("auto", "auto") == 0
    assert document("auto")["micro_batch_size"] == size
    assert train("given", size) == 0
    assert last("auto") == last("given")


def test_what_the_trial_leaves_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: buffers and gradients of the trial are not taken back."""
    monkeypatch.setenv("LIMIT", "forward 8")
    monkeypatch.setattr("launcher.passes.Passes.unchanged", lambda passes: nullcontext())
    assert train("auto", "auto") == 0
    assert train("given", document("auto")["micro_batch_size"]) == 0
    assert last("auto") != last("given")


def test_the_size_is_kept_when_a_run_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMIT", "forward 8")
    assert train("auto", "auto", "max_minutes=0.000001") == 75
    monkeypatch.delenv("LIMIT")
    assert train("auto", "auto") == 0
    assert document("auto")["micro_batch_size"] == 8
    assert document("auto")["exact"]
    assert train("given", 8) == 0
    assert last("auto") == last("given")


SEEING = """
class Seeing(Limited):
    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image):
        return super().forward(self.see(image).reshape(len(image), -1))


def model(hparams, data):
    return Seeing()
"""


def test_threads_and_layout_are_chosen_for_the_size_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the continued run chooses them, which knows the size from the beginning."""
    write_recipe(LIMITED + SEEING)
    monkeypatch.setenv("LIMIT", "forward 4")
    assert train("whole", "auto", "threads=auto") == 0
    assert train("auto", "auto", "threads=auto", "max_minutes=0.000001") == 75
    assert train("auto", "auto", "threads=auto") == 0
    about = document("auto")
    assert about["exact"]
    chosen = [(each["threads"], each["layout"]) for each in about["attempts"]]
    assert chosen == [(1, "native")] * 2
    assert last("auto") == last("whole")


FOLLOWING = """
class Following(Limited):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Parameter(self.last.weight.detach().clone(), requires_grad=False)

    def forward(self, image):
        if self.training:
            with torch.no_grad():
                self.teacher.lerp_(self.last.weight + 0.1, 0.1)
        return super().forward(image) + self.teacher.sum(1)


def model(hparams, data):
    return Following()
"""


def test_a_teacher_that_follows_is_where_it_was_before_the_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_recipe(LIMITED + FOLLOWING)
    monkeypatch.setenv("LIMIT", "forward 8")
    assert train("auto", "auto") == 0
    assert train("given", document("auto")["micro_batch_size"]) == 0
    assert last("auto") == last("given")


def test_memory_that_runs_out_later_ends_the_run_and_the_same_command_takes_half(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATER", "7")  # one pass of the trial, and those of five steps
    assert train("auto", "auto", "checkpoint_every=2") == 10
    assert "The same command continues from the last checkpoint with half" in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )
    monkeypatch.delenv("LATER")
    assert train("auto", "auto") == 0
    about = document("auto")
    assert about["micro_batch_size"] == 8
    assert about["changes"] == ["micro_batch_size 16 -> 8 at step 4"]


def test_one_sample_that_does_not_fit_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMIT", "forward 0")
    assert train("auto", "auto") == 10
    assert "out of memory" in capsys.readouterr().err
    assert not Path("checkpoints/auto/run.json").exists()


def test_another_error_is_no_want_of_memory() -> None:
    write_recipe(f"{LIMITED}\ndef loss(model, batch):\n    if model.training:\n        1 / 0\n"
                 "    return losses.cross_entropy(model, batch)")  # fmt: skip
    assert train("auto", "auto") == 3


@pytest.mark.parametrize(
    ("batch", "sizes"), [(96, [48, 24, 12, 6, 3, 1]), (100, [50, 25, 10, 5, 2, 1]), (7, [1])]
)
def test_a_half_always_divides_the_batch(batch: int, sizes: list[int]) -> None:
    plan = Plan(seed=0, epochs=1, samples=1000, batch_size=batch, micro_batch_size=batch)
    found = []
    while plan.micro_batch_size > 1:
        plan = plan.in_parts_of(plan.micro_batch_size // 2)
        found.append(plan.micro_batch_size)
    assert found == sizes


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["backward 4", "forward 4,second 2"])
def test_of_two_processes_one_is_full_and_both_take_the_size_that_fits(limit: str) -> None:
    def start(name: str, size: object) -> None:
        ran = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
             "-m", "launcher", "tiny.py", f"name={name}", "threads=1", f"micro_batch_size={size}"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LIMIT": limit,
                 "FULL_RANK": "1"},
            capture_output=True, text=True, timeout=HANGS, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr

    start("auto", "auto")
    size = document("auto")["micro_batch_size"]
    assert size == min(int(part.split()[1]) for part in limit.split(","))
    start("given", size)
    assert last("auto") == last("given")
