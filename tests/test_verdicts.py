"""What a model said is noted in the evaluation itself, exactly, and changes no score."""

from functools import partial, reduce

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from launcher import evaluate, sources, verdicts
from launcher.augment import normalize
from launcher.data import Batch, Data, Split
from launcher.evaluate import Metrics, scores
from launcher.metrics import classification
from launcher.verdicts import Verdicts

CPU = torch.device("cpu")
SAMPLES, CLASSES = 45, 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """7 blocks, the last of 3 samples."""
    monkeypatch.setattr(evaluate, "BLOCK", 7)


def data(samples: int = SAMPLES) -> Data:
    source = sources.synthetic("test", samples, (1, 4, 4), CLASSES)
    return Data(train=Split(source), test=Split(source), prepare=normalize((0.5,), (0.5,)))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(), nn.Linear(8, CLASSES))


def said(learned: nn.Module, metrics: Metrics = classification, classes: int = CLASSES) -> Verdicts:
    verdicts = Verdicts(classes)
    scores(learned, metrics, data(), CPU, seed=0, verdicts=verdicts)
    return verdicts


def all_at_once(learned: nn.Module) -> Tensor:
    """The logits of every sample."""
    learned.eval()
    with torch.no_grad():
        whole = data()
        return learned(whole.prepare(whole.test.source[np.arange(SAMPLES)])["image"])  # type: ignore[no-any-return]


def test_the_verdicts_are_those_of_all_samples_at_once() -> None:
    logits = all_at_once(model())
    found = said(model())
    assert found.predicted is not None
    assert found.probability is not None
    assert found.predicted.dtype == torch.int64
    assert torch.equal(found.predicted, logits.argmax(1))
    assert torch.allclose(found.probability, logits.softmax(1).amax(1), atol=1e-6)


def test_they_are_those_that_the_accuracy_counts() -> None:
    verdicts = Verdicts(CLASSES)
    found = scores(model(), classification, data(), CPU, seed=0, verdicts=verdicts)
    label = evaluate.labels(data())
    assert verdicts.predicted is not None
    assert torch.equal((verdicts.predicted == label).float(), found["accuracy"])


def test_noting_them_changes_no_score_and_leaves_nothing_behind() -> None:
    learned = model()
    without = scores(learned, classification, data(), CPU, seed=0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = scores(learned, classification, data(), CPU, seed=0, verdicts=Verdicts(CLASSES))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(found[name].numpy().tobytes() == v.numpy().tobytes() for name, v in without.items())
    assert not learned._forward_hooks


def note(parts: list[Tensor], part: Tensor) -> Tensor:
    parts.append(part.clone())
    return part


def take(sums: list[Tensor], part: Tensor) -> Tensor:
    return sums.pop(0)


@pytest.mark.parametrize("processes", [2, 3, 9])
def test_the_verdicts_of_all_processes_reach_each_of_them(processes: int) -> None:
    learned, alone = model(), said(model())
    parts: list[list[Tensor]] = []
    for process in range(processes):
        parts.append([])
        scores(learned, classification, data(), CPU, seed=0, process=process, processes=processes,
               total=partial(note, parts[-1]), verdicts=Verdicts(CLASSES))  # fmt: skip
    sums = [reduce(torch.add, kind) for kind in zip(*parts, strict=True)]
    for process in range(processes):
        left, mine = sums.copy(), Verdicts(CLASSES)
        scores(learned, classification, data(), CPU, seed=0, process=process, processes=processes,
               total=partial(take, left), verdicts=mine)  # fmt: skip
        assert alone.predicted is not None
        assert alone.probability is not None
        assert torch.equal(mine.predicted, alone.predicted)  # type: ignore[arg-type]
        assert torch.equal(mine.probability, alone.probability)  # type: ignore[arg-type]


def test_without_the_exchange_there_are_none() -> None:
    """The negative control: a process alone knows its own blocks only, and says nothing of all."""
    verdicts = Verdicts(CLASSES)
    scores(model(), classification, data(), CPU, seed=0, process=1, processes=2, verdicts=verdicts)
    assert verdicts.predicted is None


def twice(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
    flipped = learned(batch["image"].flip(-1))
    return {"loss": (learned(batch["image"]) + flipped).amax(1)}


def never(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"loss": batch["label"].float()}


def a_part(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
    assert isinstance(learned, nn.Sequential)
    return {"loss": learned[0](batch["image"])[:, 0]}


def the_half(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
    learned(batch["image"][:3])
    return {"loss": batch["label"].float()}


@pytest.mark.parametrize("metrics", [twice, never, a_part, the_half])
def test_metrics_that_use_the_model_otherwise_leave_none(metrics: Metrics) -> None:
    found = said(model(), metrics)
    assert found.predicted is None
    assert found.probability is None


class Other(nn.Module):
    """A model whose output is no tensor of (samples, classes)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, image: Tensor) -> object:
        flat = image.flatten(1)
        return {"tuple": (flat, flat), "dict": {"logits": flat}, "wide": flat,
                "flat": flat[:, 0], "deep": image, "none": None}[self.kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["tuple", "dict", "wide", "flat", "deep", "none"])
def test_an_output_of_another_shape_leaves_none(kind: str) -> None:
    def metrics(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
        learned(batch["image"])
        return {"loss": batch["label"].float()}

    assert said(Other(kind), metrics).predicted is None


def test_an_evaluation_without_verdicts_forgets_those_of_the_one_before() -> None:
    verdicts = said(model())
    assert verdicts.predicted is not None
    scores(model(), twice, data(), CPU, seed=0, verdicts=verdicts)
    assert verdicts.predicted is None


def test_regression_looks_at_nothing() -> None:
    learned = model()

    def metrics(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert not learned._forward_hooks
        return {"loss": learned(batch["image"])[:, 0]}

    assert said(learned, metrics, classes=0).predicted is None


def test_a_metric_that_fails_leaves_no_hook() -> None:
    def broken(learned: nn.Module, batch: Batch) -> dict[str, Tensor]:
        raise KeyError("lost")

    learned = model()
    with pytest.raises(KeyError):
        said(learned, broken)
    assert not learned._forward_hooks


def test_half_precision_is_taken_as_float32() -> None:
    class Half(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.flatten(1)[:, :CLASSES].bfloat16()

    found = said(Half())
    assert found.probability is not None
    assert found.probability.dtype == torch.float32
    whole = all_at_once(Half()).float().softmax(1).amax(1)
    assert torch.allclose(found.probability, whole, atol=1e-6)


def test_blocks_are_decided_together_and_not_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are taken at once, the verdicts are the same."""
    expected = said(model())
    for most in (0, 50, 10**9):
        monkeypatch.setattr(verdicts, "_AT_ONCE", most)
        found = said(model())
        assert found.predicted is not None
        assert torch.equal(found.predicted, expected.predicted)  # type: ignore[arg-type]
        assert torch.equal(found.probability, expected.probability)  # type: ignore[arg-type]


def test_an_output_that_is_written_to_again_is_copied_in_time() -> None:
    """As by a captured graph, whose outputs lie in the same place each time."""

    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = torch.zeros(7, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            return self.place.copy_(image.flatten(1)[:, :CLASSES])

    found = said(Reused())
    assert found.predicted is not None
    assert torch.equal(found.predicted, all_at_once(Fresh()).argmax(1))


class Fresh(nn.Module):
    """The same with an output of its own each time."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, :CLASSES]
