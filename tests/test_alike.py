"""What each process keeps for itself is refused where it is not the same in all."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import HANGS, write_recipe
from torch import Tensor, nn

from launcher import alike
from launcher.errors import RecipeError
from launcher.strategy import World


def said(*models: nn.Module) -> list[str]:
    """What each of several processes says, each with its model; nothing for those that go on."""
    met, parts = Barrier(len(models), timeout=HANGS), [torch.zeros(0)] * len(models)

    def one(process: int, model: nn.Module) -> str:
        def total(part: Tensor) -> Tensor:
            parts[process] = part
            met.wait()
            found = torch.stack(parts).sum(0)
            met.wait()
            return found

        world: Any = SimpleNamespace(
            process=process, processes=len(models), device=torch.device("cpu"), total=total
        )
        try:
            alike.refuse_differences(cast(World, world), model, 3)
        except RecipeError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(one, range(len(models)), models))


def model(**buffers: Tensor) -> nn.Module:
    made = nn.Module()
    for name, value in buffers.items():
        made.register_buffer(name, value)
    return made


COUNT, FLAG = torch.tensor([1, 2]), torch.tensor([True, False])


def test_processes_with_the_same_values_go_on() -> None:
    assert said(*(model(count=COUNT, flag=FLAG.clone()) for _ in range(3))) == [""] * 3
    assert said(nn.Linear(1, 1), nn.Linear(1, 1)) == ["", ""], "floating-point numbers are averaged"


@pytest.mark.parametrize("changed", [{"count": COUNT.flip(0)}, {"flag": ~FLAG}])
def test_what_differs_is_named_in_every_process(changed: dict[str, Tensor]) -> None:
    first, other = {"count": COUNT, "flag": FLAG}, {"count": COUNT, "flag": FLAG} | changed
    one, *same = said(model(**first), model(**first), model(**other))
    assert same == [one, one]
    assert f"after 3 steps the processes have different values of {next(iter(changed))}," in one
    assert "a floating-point buffer" in one


def test_a_buffer_that_one_process_has_alone_is_refused_in_every_one() -> None:
    one, other = said(model(count=COUNT, flag=FLAG), model(flag=FLAG))
    assert one == other
    assert "buffers of different names" in one


def test_what_is_not_saved_may_differ() -> None:
    one, other = model(), model()
    for number, made in enumerate((one, other)):
        made.register_buffer("process", torch.tensor(number), persistent=False)
    assert said(one, other) == ["", ""]


COUNTING = """
class Counting(nn.Linear):
    def __init__(self):
        super().__init__(16, 4)
        self.register_buffer("used", torch.zeros(4, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, image):
        out = super().forward(image.flatten(1))
        if self.training:
            self.steps += 1
            if self.steps > AFTER:
                self.used += (out > 0).sum(0)
        return out

def model(hparams, data): return Counting()
"""


@pytest.mark.parametrize(("after", "words"), [(0, "after 1 step "), (2, "after 4 steps ")])
def test_a_count_of_a_processs_own_samples_ends_a_run_of_two(after: int, words: str) -> None:
    """After the first step, or at the first save: nothing is saved of it."""
    recipe = write_recipe(COUNTING.replace("AFTER", str(after)))
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
         "launcher", str(recipe), "name=r", "threads=1"],
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    shown = " ".join((ran.stdout + ran.stderr).replace("│", " ").split())
    assert f"{words}the processes have different values of used, and" in shown
    assert '"code": 3' in Path("checkpoints/r/status.json").read_text()
    assert not list(Path("checkpoints/r").glob("step-*"))
