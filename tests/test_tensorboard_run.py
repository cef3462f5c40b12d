"""Event files, read back with TensorBoard's own reader."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from tracked import RUN, SLOW, begin, expected, patient_recipe, steps, train

pytest.importorskip("tensorboard")


def scalars() -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: step and value by tag, over all files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(RUN / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def in_metrics(tag: str) -> list[Any]:
    rows = [(int(row["_step"]), row[tag]) for row in expected() if tag in row]
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in rows]


@pytest.mark.slow
def test_a_run_that_was_killed_is_whole_and_nothing_is_there_twice() -> None:
    patient_recipe(SLOW)
    given = ("epochs=6", "log_every=1", "checkpoint_every=3", "tensorboard=true")
    process = begin(*given, wandb="off", env={"AWAITED": "go"})
    eventually(lambda: steps() >= 11 and list(RUN.glob("tensorboard/*")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    words = train(*given, wandb="off")
    assert "tensorboard --logdir checkpoints/r/tensorboard" in words
    assert "warning" not in words
    found = scalars()
    for tag in ("train/loss", "train/lr", "train/grad_norm", "test/accuracy", "test/accuracy/0"):
        assert found[tag] == in_metrics(tag), tag


@pytest.mark.slow
def test_going_back_writes_the_files_anew() -> None:
    patient_recipe()
    given = ("keep=5", "checkpoint_every=2", "tensorboard=true")
    train("log_every=1", *given, wandb="off")
    train("log_every=3", *given, "--resume", "4", wandb="off")
    assert scalars()["train/loss"] == in_metrics("train/loss")
    assert json.loads(Path(RUN / "status.json").read_text())["state"] == "finished"
