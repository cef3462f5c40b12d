"""Draws that the micro-batches of a step share."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import command, noted, write_recipe
from test_processes import ROOT, launch, weights

from launcher import draws

# Notes the depth of each training pass; CONTROL draws it as torch's own dropout would.
NOTED = """
import os, torch
from launcher import draws

def watched(low, high, *words):
    depth = integer(low, high, *words)
    if os.environ.get("CONTROL"):
        depth = int(torch.randint(low, high, ()))
    with open(f"process-{os.environ.get('RANK', '0')}.txt", "a") as file:
        file.write(f"{depth}\\n")
    return depth

integer = draws.integer
draws.integer = watched
"""
DYNAMIC = NOTED + (ROOT / "recipes" / "dynamic_mlp.py").read_text()
GIVEN = ("dataset=digits", "batch_size=64", "epochs=1", "micro_batch_size=32")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = draws._now
    yield
    draws._now = before


def test_a_draw_depends_on_seed_step_and_words_alone() -> None:
    found = set()
    for seed in (0, 1):
        for step in (0, 1, draws.EVALUATION):
            draws.begin(seed, step)
            found |= {draws.bits(), draws.bits(0), draws.bits(1), draws.bits(0, 1)}
            assert draws.bits(1) == draws.bits(1)
    assert len(found) == 2 * 3 * 4


def test_draws_are_pinned_for_ever() -> None:
    draws.begin(3, 5)
    assert [draws.bits(), draws.bits(1)] == [14014770923828180775, 8812437768512850486]


def test_threads_draw_the_same() -> None:
    """As the replicas of DataParallel run in."""
    draws.begin(0, 7)
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(draws.bits, 2) for _ in range(8)]
    assert {future.result() for future in found} == {draws.bits(2)}


def test_integers_and_uniforms_are_spread_evenly() -> None:
    counts = [0] * 4
    total = 0.0
    for step in range(4000):
        draws.begin(0, step)
        counts[draws.integer(0, 4)] += 1
        total += draws.uniform(1)
    assert all(900 < count < 1100 for count in counts)
    assert abs(total / 4000 - 0.5) < 0.02


def test_all_evaluations_of_a_run_draw_the_same() -> None:
    recipe = write_recipe(
        "from launcher import draws\n\n\n"
        "def metrics(model, batch):\n"
        "    return {'drawn': torch.full((len(batch['label']),), draws.uniform())}\n\n\n"
        "better = {'drawn': 'smaller'}"
    )
    assert command(recipe, "name=r", "threads=1") == 0
    found = [line["test/drawn"] for line in noted() if "test/drawn" in line]
    assert len(found) == 2
    assert len(set(found)) == 1


def depths(run: Path, process: int = 0) -> list[str]:
    return (run.parent.parent / f"process-{process}.txt").read_text().split()


@pytest.mark.slow
def test_a_dynamic_network_has_the_same_depths_and_weights_on_1_and_2_processes(
    tmp_path: Path,
) -> None:
    one = launch(tmp_path / "one", DYNAMIC, 1, *GIVEN, by="python")
    two = launch(tmp_path / "two", DYNAMIC, 2, *GIVEN, by="torchrun")
    per_step = depths(one)[::2]
    assert depths(one)[1::2] == per_step, "both micro-batches of a step"
    assert len(per_step) == 22
    assert set(per_step) == {"0", "1", "2", "3"}
    assert depths(two, 0) == depths(two, 1) == per_step
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_depths_from_torchs_generator_would_differ_between_processes(tmp_path: Path) -> None:
    two = launch(tmp_path / "two", DYNAMIC, 2, *GIVEN, by="torchrun", CONTROL="1")
    assert depths(two, 0) != depths(two, 1)


@pytest.mark.slow
def test_unused_parameters_on_two_processes_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"give\s+find_unused_parameters=true"):
        launch(tmp_path / "two", DYNAMIC, 2, *GIVEN, "find_unused_parameters=false", by="torchrun")
