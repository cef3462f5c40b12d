"""What must not depend on the number of processes, seen from outside: real launches over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HANGS
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent

# Trains on digits with flips, shifts and dropout, and notes a hash of every micro-batch that the
# loss sees, with a dropout mask drawn there. CONTROL puts the process where the number belongs.
RECIPE = """
import hashlib, json, os
from dataclasses import dataclass
from pathlib import Path
import torch
from torch import nn
from torch.nn import functional as F
from launcher import Data, Hparams, Recipe, Split, augment, losses, models, sources

@dataclass(frozen=True, kw_only=True)
class H(Hparams):
    epochs: int = 1
    batch_size: int = 64
    lr: float = 0.1

def data(hparams):
    def transform(batch, rng):
        image = augment.shift(augment.flip(batch["image"], rng), rng, 1)
        return batch | {"image": image}
    return Data(train=Split(sources.load("digits", "train"), transform),
                test=Split(sources.load("digits", "test")),
                prepare=augment.normalize((0.5,), (0.5,)))

def model(hparams, data):
    return models.MLP(64, 10, (32,), dropout=0.3)

def optimizer(hparams, model):
    return torch.optim.SGD(model.parameters(), lr=hparams.lr, momentum=0.9)

def loss(model, batch):
    if model.training:
        mask = F.dropout(torch.ones(16), 0.5)
        parts = (batch["image"], batch["label"], mask)
        digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in parts)).hexdigest()
        with open(f"process-{os.environ.get('RANK', '0')}.txt", "a") as file:
            file.write(digest + "\\n")
    return losses.cross_entropy(model, batch)

def count_exchanges(model):
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    def hook(state, bucket):
        with open(f"exchanges-{os.environ['RANK']}.txt", "a") as file:
            file.write("x\\n")
        return allreduce_hook(state, bucket)
    model.register_comm_hook(None, hook)

if os.environ.get("COUNT"):
    plain, seen = loss, set()
    def loss(model, batch):
        if hasattr(model, "register_comm_hook") and not seen:
            seen.add(model)
            count_exchanges(model)
        return plain(model, batch)

if os.environ.get("CONTROL"):
    from launcher import rng
    from launcher.plan import Seeds
    def seeds(self, ticket):
        return [rng.torch_seed(self._plan.seed, ticket.step, int(os.environ.get("RANK", "0")))]
    Seeds.__call__ = seeds

recipe = Recipe(hparams=H, data=data, model=model, optimizer=optimizer, loss=loss)
"""

# One step of ResNet-34 in float64, so that sums of different order agree to the last digits.
RESNET = """
from dataclasses import dataclass
import torch
from launcher import Data, Hparams, Recipe, Split, models, sources

@dataclass(frozen=True, kw_only=True)
class H(Hparams):
    epochs: int = 1
    batch_size: int = 16

def data(hparams):
    def prepare(batch):
        return batch | {"image": batch["image"].double() / 255}
    train = sources.synthetic("train", samples=32, shape=(3, 8, 8))
    return Data(train=Split(train), test=Split(sources.synthetic("test", 10, (3, 8, 8))),
                prepare=prepare)

def model(hparams, data):
    return models.resnet34().double()

def optimizer(hparams, model):
    return torch.optim.SGD(model.parameters(), lr=0.01)

recipe = Recipe(hparams=H, data=data, model=model, optimizer=optimizer)
"""


def launch(
    folder: Path, recipe: str, processes: int, *given: str, by: str = "torchrun", **environ: str
) -> Path:
    """Run a recipe in a folder of its own and return its run folder."""
    folder.mkdir()
    (folder / "r.py").write_text(recipe)
    command = [sys.executable, "-m"]
    if by == "torchrun":
        command += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    elif by == "accelerate":
        machine = ROOT / "configs" / "machines" / "cpu_2.yaml"
        command += ["accelerate.commands.launch", "--config_file", str(machine)]
    command += ["-m"] if by != "python" else []
    ran = subprocess.run(
        [*command, "launcher", "r.py", "name=run", "threads=1", *given],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "checkpoints" / "run"


def micro_batches(run: Path, processes: int, accumulation: int) -> dict[tuple[int, int], str]:
    """The hash of each micro-batch by (step, number), from what each process noted."""
    found = {}
    for process in range(processes):
        lines = (run.parent.parent / f"process-{process}.txt").read_text().split()
        for place, digest in enumerate(lines):
            step, turn = divmod(place, accumulation)
            found[step, process + turn * processes] = digest
    return found


def document(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "run.json").read_text())
    return loaded


def scores(run: Path) -> dict[str, float]:
    status = json.loads((run / "status.json").read_text())
    found: dict[str, float] = status["result"]["scores"]
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = max(run.glob("step-*"))
    return load_file(last / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same command, micro-batches of 16, by one process and by several."""
    folder = tmp_path_factory.mktemp("runs")
    starts = {"1": (1, "python"), "2": (2, "accelerate"), "2 torchrun": (2, "torchrun"),
              "4": (4, "torchrun")}  # fmt: skip
    return {
        name: launch(folder / name.replace(" ", "-"), RECIPE, count, "micro_batch_size=16", by=by)
        for name, (count, by) in starts.items()
    }


def test_both_launchers_form_one_world_of_two(runs: dict[str, Path]) -> None:
    assert [document(runs[name])["attempts"][0]["processes"] for name in runs] == [1, 2, 2, 4]
    assert document(runs["2"])["launched_by"] == "accelerate launch"
    assert document(runs["2 torchrun"])["launched_by"] == "torchrun"


def test_every_micro_batch_and_dropout_mask_is_the_same_on_any_number_of_processes(
    runs: dict[str, Path],
) -> None:
    one = micro_batches(runs["1"], 1, 4)
    assert len(one) == 22 * 4
    assert len(set(one.values())) == len(one)
    assert micro_batches(runs["2"], 2, 2) == one
    assert micro_batches(runs["2 torchrun"], 2, 2) == one
    assert micro_batches(runs["4"], 4, 1) == one


def test_seeding_by_process_would_be_noticed(runs: dict[str, Path], tmp_path: Path) -> None:
    control = launch(tmp_path / "c", RECIPE, 2, "micro_batch_size=16", CONTROL="1")
    assert micro_batches(control, 2, 2) != micro_batches(runs["1"], 1, 4)


def test_gradients_are_exchanged_once_a_step(tmp_path: Path) -> None:
    run = launch(tmp_path / "c", RECIPE, 2, "micro_batch_size=8", COUNT="1")
    exchanges = (run.parent.parent / "exchanges-0.txt").read_text().split()
    assert len(exchanges) == 22  # steps, of four micro-batches in each process


def test_final_weights_differ_by_rounding_only(runs: dict[str, Path]) -> None:
    one = weights(runs["1"])
    for name in ("2", "4"):
        for key, tensor in weights(runs[name]).items():
            difference = (tensor - one[key]).norm() / one[key].norm()
            assert difference < 1e-5, (name, key)


NOISY = """
import os
import torch

class Noisy(torch.optim.SGD):
    steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        parameters = self.param_groups[0]["params"]
        for parameter in parameters:
            parameter += 0.01 * torch.randn_like(parameter)
        self.steps += 1
        if self.steps == 22:
            torch.save([p.detach() for p in parameters], f"weights-{os.environ['RANK']}.pt")
"""


def test_an_update_that_draws_leaves_the_same_weights_in_all_processes(tmp_path: Path) -> None:
    recipe = NOISY + RECIPE.replace("return torch.optim.SGD", "return Noisy")
    both = [launch(tmp_path / str(count), recipe, count, "micro_batch_size=16") for count in (1, 2)]
    kept = [torch.load(both[1].parent.parent / f"weights-{process}.pt") for process in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*kept, strict=True))
    one = weights(both[0])
    for key, tensor in weights(both[1]).items():
        assert (tensor - one[key]).norm() / one[key].norm() < 1e-5, key


def test_an_evaluation_is_the_same_to_the_last_sample_on_1_2_and_3_processes(
    tmp_path: Path,
) -> None:
    # With a learning rate of zero the weights are equal; 359 samples divide by neither 2 nor 3.
    found = [
        scores(launch(tmp_path / str(count), RECIPE, count, "lr=0", "batch_size=66", by=by))
        for count, by in ((1, "python"), (2, "torchrun"), (3, "torchrun"))
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["test/accuracy"] * 359 == pytest.approx(round(found[0]["test/accuracy"] * 359))


def test_running_averages_do_not_depend_on_how_a_batch_is_split(tmp_path: Path) -> None:
    splits = {1: "python", 2: "torchrun", 4: "torchrun"}
    found = [
        weights(launch(tmp_path / str(count), RESNET, count, "micro_batch_size=4", by=by))
        for count, by in splits.items()
    ]
    names = [name for name in found[0] if "running" in name]
    assert len(names) == 72
    for other in found[1:]:
        for name in names:
            torch.testing.assert_close(other[name], found[0][name], rtol=1e-9, atol=1e-12)
        assert int(other["bn1.num_batches_tracked"]) == 2


def test_a_refusal_is_said_once_and_ends_all_processes(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(RECIPE)
    machine = ROOT / "configs" / "machines" / "cpu_2.yaml"
    ran = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(machine), "-m",
         "launcher", "r.py", "batch_size=63"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode != 0
    assert ran.stderr.count("cannot be split evenly") == 1
    assert not (tmp_path / "checkpoints").exists()
