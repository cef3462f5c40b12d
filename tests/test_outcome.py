"""outcome.json: how the last evaluation came out, equal for equal runs."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HANGS, ROOT, command, write_recipe
from PIL import Image
from torch import Tensor

from launcher import judge, outcome, sources
from launcher.data import Data, Split
from launcher.errors import CheckpointError
from launcher.judge import SHOWN, SIDE, confusion, of, picture, spread
from launcher.verdicts import Verdicts

RUN = Path("checkpoints/r")
TWICE = """
def metrics(model, batch):
    one = model(batch["image"])
    two = model(batch["image"].flip(-1))
    label = batch["label"]
    return {"accuracy": ((one + two).argmax(1) == label).float(),
            "loss": torch.nn.functional.cross_entropy(one + two, label, reduction="none")}
"""
REGRESSION = """
def data(hparams):
    image = torch.linspace(-1, 1, 64)[:, None]
    source = sources.tensors(image=image, target=image * 2)
    return Data(train=Split(source), test=Split(source))


def model(hparams, data):
    return nn.Linear(1, 1)


loss = losses.mse
def metrics(model, batch):
    from launcher.metrics import regression

    return regression(model, batch)
"""


def run(*arguments: object, extra: str = "", code: int = 0, fresh: bool = True) -> dict[str, Any]:
    """The outcome of a run, read back."""
    path = write_recipe(extra)
    switches = ["--fresh"] if fresh else []
    assert command(path, "name=r", "threads=1", *arguments, *switches) == code
    found = outcome.read(RUN)
    assert found is not None
    return found


def metrics_of(step: int) -> dict[str, Any]:
    lines = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    (line,) = (one for one in lines if one["step"] == step and "test/loss" in one)
    return {key: value for key, value in line.items() if key.startswith("test/")}


def pixels(url: str) -> Any:
    head, _, body = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


# ── of whole runs ────────────────────────────────────────────────────────────────────────────────


def test_a_run_leaves_the_outcome_of_its_last_evaluation() -> None:
    found = run()
    assert found["step"] == 8
    assert found["scores"] == metrics_of(8)
    names = found["classes"]
    assert len(names) == 4
    counts = np.array(found["confusion"])
    assert counts.shape == (4, 4)
    assert counts.sum() == 40
    assert counts.trace() / 40 == pytest.approx(found["scores"]["test/accuracy"], rel=1e-6)
    for number, name in enumerate(names):
        share = counts[number, number] / counts[number].sum()
        assert share == pytest.approx(found["scores"][f"test/accuracy/{name}"], rel=1e-6)
    assert len(found["samples"]) == 24
    assert len(found["mistakes"]) == min(24, 40 - counts.trace())
    sure = [record["probability"] for record in found["mistakes"]]
    assert sure == sorted(sure, reverse=True)
    assert all(record["label"] != record["predicted"] for record in found["mistakes"])


def test_equal_runs_have_equal_outcomes_and_another_seed_has_another() -> None:
    run()
    first = (RUN / "outcome.json").read_bytes()
    run()
    assert (RUN / "outcome.json").read_bytes() == first
    run("seed=1")
    assert (RUN / "outcome.json").read_bytes() != first


def test_a_run_that_was_stopped_leaves_what_it_had_and_ends_with_the_same() -> None:
    whole = run()
    stopping = """
import os, signal
seen = 0
def loss(model, batch):
    global seen
    seen += model.training
    if seen == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return losses.cross_entropy(model, batch)
"""
    early = run(extra=stopping, code=75)
    assert early["step"] == 4  # the evaluation; it was stopped after step 5
    assert early["scores"] == metrics_of(4)
    assert run(extra=stopping, fresh=False) == whole


def test_a_failed_run_leaves_what_it_had() -> None:
    failing = """
seen = 0
def loss(model, batch):
    global seen
    seen += model.training
    assert seen < 7
    return losses.cross_entropy(model, batch)
"""
    found = run(extra=failing, code=3)
    assert found["step"] == 4


def test_an_outcome_that_was_never_written_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the last checkpoint and the outcome: the next start has nothing to train."""
    whole = run()
    status = json.loads((RUN / "status.json").read_text())
    for left in ("", "{"):
        (RUN / "status.json").write_text(json.dumps(status | {"state": "running"}))
        (RUN / "outcome.json").write_text(left) if left else (RUN / "outcome.json").unlink()
        assert run(fresh=False) == whole
    assert len([line for line in (RUN / "metrics.jsonl").read_text().splitlines()
                if "test/loss" in line]) == 2  # fmt: skip


def test_it_is_made_without_a_second_pass() -> None:
    counting = """
def model(hparams, data):
    class Counted(models.MLP):
        def forward(self, image):
            if not self.training:
                with open("passes.txt", "a") as file:
                    file.write("x")
            return super().forward(image)
    return Counted(16, 4, (8,))
"""
    run("epochs=1", "micro_batch_size=16", extra=counting)
    preflight = 2
    assert Path("passes.txt").read_text() == "x" * (preflight + 1)


@pytest.mark.parametrize("more", [["precision=bf16"], ["ema=0.9"]], ids=["bf16", "ema"])
def test_the_verdicts_are_those_of_the_weights_and_the_precision_that_are_scored(
    more: list[str],
) -> None:
    found = run("lr=0.5", *more)
    counts = np.array(found["confusion"])
    assert counts.trace() / 40 == pytest.approx(found["scores"]["test/accuracy"], rel=1e-6)


@pytest.mark.slow
def test_two_processes_leave_one_outcome_and_make_up_for_one_that_is_missing() -> None:
    path = write_recipe()
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
             "-m", "launcher", str(path), "name=r", "threads=1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}

    def launch() -> bytes:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=HANGS)
        assert done.returncode == 0, done.stderr
        return (RUN / "outcome.json").read_bytes()

    first = launch()
    found = json.loads(first)
    counts = np.array(found["confusion"])
    assert counts.sum() == 40
    assert counts.trace() / 40 == pytest.approx(found["scores"]["test/accuracy"], rel=1e-6)
    assert found["scores"] == metrics_of(8)
    status = json.loads((RUN / "status.json").read_text())
    (RUN / "status.json").write_text(json.dumps(status | {"state": "running"}))
    (RUN / "outcome.json").unlink()
    assert launch() == first


def test_metrics_that_call_the_model_twice_have_scores_and_no_verdicts() -> None:
    found = run(extra=TWICE)
    assert found["confusion"] is None
    assert found["mistakes"] == found["samples"] == []
    assert found["scores"] == metrics_of(8)


def test_regression_has_scores_and_nothing_else() -> None:
    found = run("monitor=test/loss", "momentum=0", extra=REGRESSION)
    assert found["classes"] == []
    assert found["confusion"] is None
    assert found["mistakes"] == found["samples"] == []
    assert set(found["scores"]) == {"test/loss"}


def test_an_outcome_that_cannot_be_made_costs_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no pictures today")

    monkeypatch.setattr(judge, "_pictures", broken)
    assert command(write_recipe(), "name=r", "threads=1") == 0
    assert "warning: checkpoints/r/outcome.json was not written: " in capsys.readouterr().out
    assert json.loads((RUN / "status.json").read_text())["state"] == "finished"
    assert not (RUN / "outcome.json").exists()


# ── its parts ────────────────────────────────────────────────────────────────────────────────────


def verdicts(predicted: list[int], probability: list[float], classes: int) -> Verdicts:
    found = Verdicts(classes)
    found.predicted, found.probability = torch.tensor(predicted), torch.tensor(probability)
    return found


def data(labels: list[int], classes: int, image: Tensor | None = None) -> Data:
    if image is None:
        image = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    names = tuple(f"class {number}" for number in range(classes))
    source = sources.Arrays(image, torch.tensor(labels), names)
    return Data(train=Split(source), test=Split(source))


def test_the_rows_are_true_and_the_columns_predicted() -> None:
    label, predicted = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 1, 1, 0])
    assert confusion(label, predicted, 3) == [[1, 2, 0], [0, 0, 0], [1, 0, 0]]


def test_mistakes_are_the_most_confident_first_and_then_in_order() -> None:
    probability = [0.5, 0.9, 0.9, float("nan"), 0.99, 0.7]
    found = of(data([0] * 6, 2), verdicts([1, 1, 1, 1, 0, 1], probability, 2), seed=0)
    assert [record["index"] for record in found["mistakes"]] == [1, 2, 5, 0, 3]
    assert found["mistakes"][-1]["probability"] is None
    json.dumps(found, allow_nan=False)


def test_more_than_a_hundred_classes_have_no_matrix_but_pictures() -> None:
    for classes, there in ((100, True), (101, False)):
        found = of(data([0, 1], classes), verdicts([0, 0], [0.5, 0.5], classes), seed=0)
        assert (found["confusion"] is not None) is there
        assert len(found["samples"]) == 2
        assert len(found["mistakes"]) == 1


@pytest.mark.parametrize("samples", [1, 2, SHOWN, SHOWN + 1, 10_000])
def test_samples_are_spread_over_the_split(samples: int) -> None:
    found = spread(samples)
    assert len(found) == len({*found}) == min(samples, SHOWN)
    assert found[0] == 0
    assert found == sorted(found)
    gaps = {after - before for before, after in zip(found, [*found[1:], samples], strict=True)}
    assert max(gaps) - min(gaps) <= 1


def test_pictures_are_the_samples_of_the_source_before_prepare() -> None:
    image = torch.randint(0, 256, (3, 3, 5, 4), dtype=torch.uint8)
    whole = data([0, 0, 0], 2, image)
    whole = Data(train=whole.train, test=whole.test, prepare=lambda batch: {})
    found = of(whole, verdicts([0, 1, 0], [0.5, 0.5, 0.5], 2), seed=0)
    for record in found["samples"]:
        expected = image[record["index"]].permute(1, 2, 0).numpy()
        assert np.array_equal(pixels(record["picture"]), expected)
    (mistake,) = found["mistakes"]
    assert np.array_equal(pixels(mistake["picture"]), image[1].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((3, 96, 96), (96, 96)), ((3, 192, 96), (96, 48)), ((1, 97, 400), (23, 96)),
     ((1, 1, 999), (1, 96))],
)  # fmt: skip
def test_a_large_picture_is_made_smaller(shape: tuple[int, ...], shown: tuple[int, int]) -> None:
    url = picture(torch.full(shape, 77, dtype=torch.uint8))
    assert url is not None
    small = pixels(url)
    assert small.shape[:2] == shown
    assert max(small.shape) <= SIDE
    assert (small == 77).all()


def test_numbers_that_are_no_bytes_are_stretched() -> None:
    url = picture(torch.tensor([[[-2.0, 0.0, 2.0]]]))
    assert url is not None
    assert pixels(url).tolist() == [[0, 128, 255]]
    flat = picture(torch.full((1, 2, 2), 3.5))
    assert flat is not None
    assert (pixels(flat) == 0).all()


@pytest.mark.parametrize(
    "image",
    [torch.zeros(2, 4, 4), torch.zeros(16), torch.zeros(3, 0, 4), torch.zeros(1, 3, 4, 4),
     torch.full((1, 2, 2), float("nan"))],
)  # fmt: skip
def test_what_is_no_picture_has_none(image: Tensor) -> None:
    assert picture(image) is None


def test_samples_without_an_image_have_records_without_a_picture() -> None:
    source = sources.tensors(words=torch.zeros(4, 7), label=torch.tensor([0, 1, 0, 1]))
    whole = Data(train=Split(source), test=Split(source))
    found = of(whole, verdicts([0, 0, 0, 1], [0.5] * 4, 2), seed=0)
    assert [record["picture"] for record in found["samples"]] == [None] * 4


def test_another_format_is_refused_and_none_is_none() -> None:
    folder = Path()
    assert outcome.read(folder) is None
    outcome.write(folder, {"format": 2})
    with pytest.raises(CheckpointError, match="has the format 2"):
        outcome.read(folder)
    (folder / "outcome.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        outcome.read(folder)
