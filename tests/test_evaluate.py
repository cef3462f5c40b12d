"""Averages over a split are exact, on any number of processes."""

from functools import reduce

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launcher import evaluate, sources
from launcher.augment import normalize
from launcher.data import Batch, Data, Split
from launcher.evaluate import averages, labels, scores
from launcher.metrics import classification
from launcher.rng import SampleRng

CPU = torch.device("cpu")
SAMPLES = 45


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """7 blocks, the last of 3 samples."""
    monkeypatch.setattr(evaluate, "BLOCK", 7)


def data(samples: int = SAMPLES) -> Data:
    source = sources.synthetic("test", samples, (1, 4, 4), 4)
    return Data(train=Split(source), test=Split(source), prepare=normalize((0.5,), (0.5,)))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(),
                         nn.Linear(8, 4))  # fmt: skip


def together(
    learned: nn.Module, whole: Data, processes: int, metrics: evaluate.Metrics = classification
) -> list[dict[str, Tensor]]:
    """The scores as each of several processes has them: first every process's part, then all."""
    parts: list[Tensor] = []

    def keep(part: Tensor) -> Tensor:
        parts.append(part.clone())
        return part

    for process in range(processes):
        scores(learned, metrics, whole, CPU, seed=0, process=process, processes=processes,
               total=keep)  # fmt: skip
    everything = reduce(torch.add, parts)
    return [
        scores(learned, metrics, whole, CPU, seed=0, process=process, processes=processes,
               total=lambda part: everything)
        for process in range(processes)
    ]  # fmt: skip


def test_the_averages_are_those_of_all_samples_at_once() -> None:
    learned, whole = model(), data()
    learned.eval()
    with torch.no_grad():
        batch = whole.prepare(whole.test.source[np.arange(SAMPLES)])
        logits = learned(batch["image"])
    loss = F.cross_entropy(logits, batch["label"]).item()
    accuracy = (logits.argmax(1) == batch["label"]).double().mean().item()
    found = averages(scores(learned, classification, whole, CPU, seed=0), whole)
    assert found["test/loss"] == pytest.approx(loss, rel=1e-6)
    assert found["test/accuracy"] == accuracy


@pytest.mark.parametrize("samples", [1, 6, 7, 8, 14, SAMPLES])
@pytest.mark.parametrize("processes", [2, 3, 9])
def test_the_number_of_processes_does_not_change_a_bit(samples: int, processes: int) -> None:
    """Nine processes are more than there are blocks."""
    learned, whole = model(), data(samples)
    alone = scores(learned, classification, whole, CPU, seed=0)
    for found in together(learned, whole, processes):
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            assert values.shape == (samples,)
            assert values.numpy().tobytes() == found[name].numpy().tobytes()
        assert averages(found, whole) == averages(alone, whole)


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_every_sample_is_counted_once_at_its_own_place(processes: int) -> None:
    source = sources.Arrays(
        torch.arange(SAMPLES, dtype=torch.uint8).view(-1, 1, 1, 1),
        torch.zeros(SAMPLES, dtype=torch.int64),
        ("only",),
    )

    def number(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"number": batch["image"].flatten().float() + 1}

    whole = Data(train=Split(source), test=Split(source))
    for found in together(nn.Identity(), whole, processes, number):
        assert found["number"].tolist() == list(range(1, SAMPLES + 1))


def test_without_the_sum_a_process_has_its_own_blocks_only() -> None:
    """The negative control: the sum is what the processes exchange."""
    found = scores(model(), classification, data(), CPU, seed=0, process=1, processes=2)
    assert torch.count_nonzero(found["loss"]) == 7 + 7 + 7


def test_the_model_sees_one_shape_only() -> None:
    shapes = set()

    def note(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
        shapes.add(tuple(batch["image"].shape))
        return classification(learned, batch)

    scores(model(), note, data(), CPU, seed=0)
    assert shapes == {(7, 1, 4, 4)}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_with_its_buffers(training: bool) -> None:
    learned = model().train(training)
    before = {name: value.clone() for name, value in learned.state_dict().items()}

    def in_evaluation_mode(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert not any(module.training for module in learned.modules())
        assert not torch.is_grad_enabled()
        return classification(learned, batch)

    scores(learned, in_evaluation_mode, data(), CPU, seed=0)
    assert all(module.training is training for module in learned.modules())
    assert all(torch.equal(v, before[name]) for name, v in learned.state_dict().items())


def test_the_model_is_left_in_its_mode_when_a_metric_fails() -> None:
    learned = model()

    def broken(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
        raise KeyError("lost")

    with pytest.raises(KeyError):
        scores(learned, broken, data(), CPU, seed=0)
    assert learned.training


def test_accuracy_is_given_for_each_class_that_has_samples() -> None:
    image = torch.zeros(4, 1, 1, 1, dtype=torch.uint8)
    source = sources.Arrays(image, torch.tensor([0, 0, 2, 2]), ("cat", "dog", "eel"))
    whole = Data(train=Split(source), test=Split(source))
    found = {"accuracy": torch.tensor([1.0, 0.0, 1.0, 1.0]), "loss": torch.ones(4)}
    assert averages(found, whole) == {
        "test/accuracy": 0.75,
        "test/loss": 1.0,
        "test/accuracy/cat": 0.5,
        "test/accuracy/eel": 1.0,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_average_that_is_not_finite_is_none(value: float) -> None:
    """So that it can be written as JSON, and is never the best."""
    found = {"loss": torch.full((SAMPLES,), value), "accuracy": torch.ones(SAMPLES)}
    line = averages(found, data())
    assert line["test/loss"] is None
    assert line["test/accuracy"] == 1.0


def test_labels_are_those_of_the_source_in_order() -> None:
    whole = data()
    assert torch.equal(labels(whole), whole.test.source[np.arange(SAMPLES)]["label"])


def test_a_test_transform_draws_the_same_for_a_sample_whatever_its_block() -> None:
    source = data().test.source

    def draw(batch: Batch, rng: SampleRng) -> Batch:
        return batch | {"image": torch.from_numpy(rng.uniform()).float()}

    def drawn(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"draw": batch["image"]}

    whole = Data(train=Split(source), test=Split(source, draw))
    expected = torch.from_numpy(SampleRng(3, 0, np.arange(SAMPLES)).uniform()).float()
    found = scores(nn.Identity(), drawn, whole, CPU, seed=3)
    assert torch.equal(found["draw"], expected)


def test_very_many_classes_have_no_lines_of_their_own() -> None:
    """A hundred thousand numbers in every record would be megabytes, and took minutes to add."""
    few, many = (
        averages({"accuracy": torch.ones(2000)}, _labelled(number)) for number in (1000, 1001)
    )
    assert len(few) == 1001
    assert list(many) == ["test/accuracy"]


def test_a_class_has_the_mean_of_its_own_samples() -> None:
    accuracy = (torch.arange(2000) % 7 == 0).float()
    line = averages({"accuracy": accuracy}, _labelled(3))
    for number in range(3):
        mine = accuracy[torch.arange(2000) % 3 == number]
        assert line[f"test/accuracy/{number}"] == mine.double().mean().item()


def _labelled(classes: int) -> Data:
    label = torch.arange(2000) % classes
    image = torch.zeros(2000, 1, 1, 1, dtype=torch.uint8)
    both = Split(sources.Arrays(image, label, tuple(map(str, range(classes)))))
    return Data(train=both, test=both)
