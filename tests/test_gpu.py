"""Whole runs on a GPU: what other tests show on a processor, where kernels run by themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, command, noted, write_recipe
from safetensors.torch import load_file
from torch import Tensor

from launcher.update import Update

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

LENET = ROOT / "recipes" / "cifar_lenet.py"
RESNET = ROOT / "recipes" / "cifar_resnet.py"
CONVOLUTIONS = """
def model(hparams, data):
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Dropout(hparams.dropout),
        torch.nn.Linear(128, len(data.classes)),
    )
"""
ADAM = (
    CONVOLUTIONS
    + """
def optimizer(hparams, model):
    return torch.optim.AdamW(model.parameters(), lr=hparams.lr, fused=True)
"""
)
GLOO = """
import os, sys
import torch
os.environ["LOCAL_RANK"] = "0"  # or the second one would take a second GPU
torch.distributed.init_process_group("gloo")
from launcher.cli import main
code = main(sys.argv[1:])
sys.exit(code)
"""
LONG = ("epochs=3", "batch_size=4", "log_every=3", "dropout=0.5")


def weights(name: str = "r") -> dict[str, Tensor]:
    return load_file(max(Path("checkpoints", name).glob("step-*")) / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches of the steps that were one graph."""
    found: list[int] = []
    replay = Update.replay

    def noting(self: Update, batch: dict[str, Tensor]) -> Tensor:
        found.append(len(batch["label"]))
        return replay(self, batch)

    monkeypatch.setattr(Update, "replay", noting)
    return found


@pytest.mark.parametrize("extra", [CONVOLUTIONS, ADAM])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_step_that_is_one_graph_trains_as_its_parts_do(
    extra: str, precision: str, replayed: list[int]
) -> None:
    path = write_recipe(extra)
    ends = []
    for graphs in ("off", "auto"):
        given = (*LONG, f"precision={precision}", f"graphs={graphs}")
        assert command(path, f"name={graphs}", *given) == 0
        ends.append(weights(graphs))
    assert len(replayed) == 48 - 1 - 16
    apart = sum(float((ends[0][n] - ends[1][n]).double().square().sum()) for n in ends[0])
    length = sum(float(value.double().square().sum()) for value in ends[0].values())
    assert apart <= (1e-3 if precision == "no" else 5e-2) ** 2 * length


@pytest.mark.parametrize("extra", [CONVOLUTIONS, ADAM])
@pytest.mark.parametrize("graphs", ["off", "auto"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(extra: str, graphs: str) -> None:
    path = write_recipe(extra)
    given = (*LONG, f"graphs={graphs}")
    assert command(path, "name=whole", *given) == 0
    assert command(path, "name=r", *given, "max_minutes=1e-9") == 75
    assert command(path, "name=r", *given) == 0
    assert same(weights(), weights("whole"))
    losses = [[line["train/loss"] for line in noted(name) if "train/loss" in line]
              for name in ("r", "whole")]  # fmt: skip
    assert losses[0] == losses[1]


def surroundings(**more: str) -> dict[str, str]:
    """The environment of another process that finds this package."""
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def test_a_run_goes_on_from_the_gpu_to_the_processor_and_back() -> None:
    path = write_recipe(CONVOLUTIONS)
    given = [sys.executable, "-m", "launcher", str(path), "name=r", *LONG, "graphs=off"]
    for device, minutes in (("cuda", "1e-9"), ("cpu", "1e-9"), ("cuda", "none")):
        environ = surroundings(ACCELERATE_USE_CPU=str(device == "cpu").lower())
        done = subprocess.run(
            [*given, f"max_minutes={minutes}"], env=environ, capture_output=True, text=True
        )
        assert done.returncode == (0 if minutes == "none" else 75), done.stdout + done.stderr
        assert ("on cpu" in done.stdout) is (device == "cpu")
    assert command(path, "name=whole", *LONG, "graphs=off") == 0
    for name, value in weights("whole").items():
        torch.testing.assert_close(weights()[name], value, rtol=2e-2, atol=2e-3)


def two_processes(*given: str) -> str:
    """Both on the first GPU, which they share: NCCL refuses that, gloo does not."""
    Path("both.py").write_text(GLOO)
    environ = surroundings(CUDA_VISIBLE_DEVICES="0", OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone",
         "both.py", *given],
        env=environ, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_on_a_gpu_train_as_one_does() -> None:
    path = write_recipe(CONVOLUTIONS)
    given = ("epochs=2", "micro_batch_size=8", "dropout=0.5", "graphs=off", "precision=no")
    said = two_processes(str(path), "name=two", *given)
    assert "2 processes" in said
    assert command(path, "name=one", *given) == 0
    for name, value in weights("one").items():
        torch.testing.assert_close(weights("two")[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_shipped_recipe_learns_in_mixed_precision(precision: str) -> None:
    given = ("dataset=digits", "epochs=2", "batch_size=128", f"precision={precision}")
    assert command(RESNET, "name=r", *given) == 0
    best = max(line["test/accuracy"] for line in noted() if line.get("test/accuracy") is not None)
    assert best > 0.5
    status: dict[str, Any] = json.loads(Path("checkpoints/r/status.json").read_text())
    assert status["state"] == "finished"


@pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning")
def test_a_compiled_run_learns_what_a_plain_one_does(capfd: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(CONVOLUTIONS)
    for mode in ("off", "default"):
        given = (*LONG, f"compile={mode}", "precision=no")
        assert command(path, f"name={mode}", *given) == 0
    assert "left out" not in capfd.readouterr().out
    for name, value in weights("off").items():
        torch.testing.assert_close(weights("default")[name], value, rtol=1e-2, atol=1e-3)


def test_a_number_that_is_not_finite_is_found_in_the_step_where_it_appeared(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also where steps are replayed, and the host looks at them later."""
    path = write_recipe(CONVOLUTIONS)
    code = command(path, "name=r", "epochs=3", "batch_size=4", "log_every=3", "lr=1e30")
    assert code == 6
    assert "was not finite in step" in capfd.readouterr().err


def test_memory_that_runs_out_is_said_and_auto_finds_what_fits(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Half a terabyte of activations for the whole batch; a sample fits."""
    extra = """
class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(16, 4)

    def forward(self, image):
        flat = image.flatten(1)
        if not self.training:
            return self.linear(flat)
        wide = flat[:, :1, None].expand(-1, 1 << 15, 1 << 16) * 1.0
        return self.linear(flat) + wide.mean((1, 2))[:, None] * 0

def model(hparams, data):
    return Wide()
"""
    path = write_recipe(extra)
    assert command(path, "name=r", "epochs=1") not in (0, 75)
    assert "out of memory" in capfd.readouterr().err.lower()
    assert command(path, "name=fits", "epochs=1", "micro_batch_size=auto") == 0


def test_a_profile_shows_the_graph_and_the_devices_time(capfd: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(CONVOLUTIONS)
    assert command(path, "name=r", *LONG, "log_every=50", "--profile", "5") == 0
    said = capfd.readouterr().out
    assert "device" in said
    assert any(line.startswith("graph") for line in said.splitlines())
    assert Path("checkpoints/r/profile.json").is_file()


def test_what_was_trained_on_a_gpu_is_evaluated_predicted_and_exported() -> None:
    given = ("dataset=digits", "epochs=3", "batch_size=32", "peak_lr=0.05")
    assert command(LENET, "name=r", *given) == 0
    scores = json.loads(Path("checkpoints/r/status.json").read_text())["result"]["scores"]
    assert scores["test/accuracy"] > 0.3
    assert command("evaluate", "checkpoints/r") == 0
    assert command("export", "checkpoints/r") == 0
