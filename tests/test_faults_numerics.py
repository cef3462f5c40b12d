"""What goes wrong in the numbers, and memory that runs out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANGS, ROOT, command, write_recipe
from safetensors.torch import load_file

from launcher import checkpoint

RUN = Path("checkpoints/r")

# Raises or spoils the loss in the training step that FAIL_STEP names, in the process FAIL_RANK.
FAILS = """
calls = 0

def loss(model, batch):
    global calls
    if not model.training:
        return losses.cross_entropy(model, batch)
    calls += 1
    mine = os.environ.get("RANK", "0") == os.environ.get("FAIL_RANK", "0")
    if mine and calls == int(os.environ["FAIL_STEP"]):
        return fail(model, batch)
    return losses.cross_entropy(model, batch)
"""
NAN = FAILS + "\ndef fail(model, batch): return losses.cross_entropy(model, batch) * torch.nan\n"
RAISES = """
def fail(model, batch):
    raise {error}
"""


def run(extra: str, *given: str) -> int:
    return command(write_recipe(extra), "name=r", "threads=1", *given)


def status() -> dict[str, object]:
    found: dict[str, object] = json.loads((RUN / "status.json").read_text())
    return found


def two_processes(extra: str, *given: str) -> subprocess.CompletedProcess[str]:
    write_recipe(extra)
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
         "launcher", "tiny.py", "name=r", "threads=1", *given],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip


def test_a_batch_that_gives_nan_stops_the_run_and_leaves_the_good_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """E1: and the checkpoint is continued from, when the reason is gone."""
    monkeypatch.setenv("FAIL_STEP", "6")
    assert run(NAN) == 6
    assert "step 6 (epoch 2)" in capsys.readouterr().err
    assert (status()["state"], status()["code"], status()["last_committed_step"]) == (
        "failed",
        6,
        4,
    )
    assert checkpoint.steps(RUN) == [4]
    monkeypatch.setenv("FAIL_STEP", "100")
    assert run(NAN) == 0
    assert (status()["state"], status()["last_committed_step"]) == ("finished", 8)


def test_a_learning_rate_beyond_reason_leaves_no_weights_that_are_not_finite() -> None:
    """E1: the gradient of the first step is finite, the weights after it are not."""
    assert run("", "lr=1e20", "checkpoint_every=1") == 6
    assert status()["state"] == "failed"
    for path in RUN.glob("step-*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_nan_in_one_of_two_processes_stops_both_at_the_same_step(
    rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E2: each of the two says so for itself, and neither waits for the other."""
    monkeypatch.setenv("FAIL_RANK", rank)
    monkeypatch.setenv("FAIL_STEP", "6")
    ran = two_processes(NAN)
    assert ran.returncode != 0
    assert status()["code"] == 6, ran.stderr
    assert "step 6 (epoch 2)" in str(status()["reason"])
    assert checkpoint.steps(RUN) == [4]


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError",
        "MemoryError('Unable to allocate 3 GiB')",
        "torch.OutOfMemoryError",
        "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')",
        "RuntimeError('[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can\\'t '"
        "'allocate memory: you tried to allocate 9 bytes.')",
    ],
)
def test_memory_that_runs_out_ends_with_10_and_the_sizes(
    error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """E5: the sizes are those that were computed, also where none was given."""
    monkeypatch.setenv("FAIL_STEP", "6")
    assert run(FAILS + RAISES.format(error=error), "batch_size=32", "epochs=4") == 10
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "micro_batch_size=32 (inputs of shape (32, 1, 4, 4)) and batch_size=32" in said
    assert "Give a smaller micro_batch_size=" in said
    assert (status()["code"], status()["last_committed_step"]) == (10, 4)


def test_memory_that_runs_out_for_real_ends_with_10(monkeypatch: pytest.MonkeyPatch) -> None:
    """E5: torch's own words for a host that is full are known."""
    huge = "\ndef fail(model, batch): return torch.empty(1 << 50).sum()\n"
    monkeypatch.setenv("FAIL_STEP", "2")
    assert run(FAILS + huge) == 10


@pytest.mark.parametrize("where", ["data(hparams)", "model(hparams, data)"])
def test_memory_that_runs_out_before_the_first_step_ends_with_10(where: str) -> None:
    """E5: nothing of the run is on disk then."""
    assert run(f"def {where}: raise MemoryError") == 10
    assert not Path("checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_memory_that_runs_out_in_one_of_two_processes_ends_both(
    rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E5: without waiting for ever, with the sizes in what is said."""
    monkeypatch.setenv("FAIL_RANK", rank)
    monkeypatch.setenv("FAIL_STEP", "6")
    ran = two_processes(FAILS + RAISES.format(error="MemoryError"))
    assert ran.returncode != 0
    said = " ".join(ran.stderr.replace("│", " ").split())
    assert "micro_batch_size=8 (inputs of shape (8, 1, 4, 4))" in said
    assert status()["state"] == "failed"
    assert status()["last_committed_step"] == 4
    assert status()["code"] in ((10,) if rank == "0" else (9, 10))


@pytest.mark.slow
def test_a_run_with_few_descriptors_trains_or_says_why_not() -> None:
    """E7: `ulimit -n 64`."""
    write_recipe()
    ran = subprocess.run(
        ["bash", "-c", f"ulimit -n 64; exec {sys.executable} -m launcher tiny.py name=r threads=1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode in (0, 7, 70), ran.stderr
    assert ran.returncode == 0 or "Too many open files" in ran.stderr


UNTRAINED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.table = nn.Linear(16, 4), nn.Embedding(4, 4, sparse=True)
        self.places = nn.Parameter(torch.arange(4), requires_grad=False)
        self.mask = nn.Parameter(torch.full((4, 4), -torch.inf).triu(1), requires_grad=False)

    def forward(self, image):
        weights = self.mask.softmax(1)
        return self.first(image.flatten(1)) @ weights + self.table(self.places).sum(0)


def model(hparams, data):
    return Net()


def optimizer(hparams, model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
"""


def test_sparse_gradients_and_parameters_that_are_masks_or_whole_numbers_continue_to_the_bit() -> (
    None
):
    def trained() -> dict[str, bytes]:
        folder = max(RUN.glob("step-*"))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert run(UNTRAINED, "evaluate_every=2", "grad_clip=0.5") == 0
    whole = trained()
    RUN.rename("whole")
    assert run(UNTRAINED, "evaluate_every=2", "grad_clip=0.5", "max_minutes=0.000001") == 75
    assert run(UNTRAINED, "evaluate_every=2", "grad_clip=0.5") == 0
    assert trained() == whole
