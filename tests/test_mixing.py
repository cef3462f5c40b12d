"""Mixup and cutmix: the values, and that nothing but the micro-batch decides them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_recipe
from safetensors.torch import load_file
from test_processes import launch, micro_batches, weights
from torch.nn import functional as F

from launcher import losses, mixing
from launcher.data import Batch
from launcher.errors import RecipeError
from launcher.rng import SampleRng

INDEX = np.array([7, 3, 11, 0, 5, 2, 90, 41], dtype=np.int64)
ALPHAS = [0.2, 0.5, 1.0, 3.0]

# Notes a hash of every mixed micro-batch that the loss sees. OFF leaves the mix out; WRONG takes
# the partner from a generator of its own, as a loop without SampleRng would.
RECIPE = """
import hashlib, os
from dataclasses import dataclass
import torch
from launcher import Data, Hparams, Recipe, Split, augment, losses, mixing, models, sources
from launcher.rng import SampleRng

@dataclass(frozen=True, kw_only=True)
class H(Hparams):
    epochs: int = 1
    batch_size: int = 64

def data(hparams):
    def transform(batch, rng):
        if os.environ.get("OFF"):
            return batch
        batch = mixing.cutmix(batch, rng, classes=10)
        return mixing.mixup(batch, rng, classes=10, alpha=0.4)
    train = sources.from_dataset(Numbers())
    return Data(train=Split(train, transform), test=Split(sources.load("digits", "test")),
                prepare=augment.normalize((0.5,), (0.5,)))

class Numbers(torch.utils.data.Dataset):
    classes = [str(digit) for digit in range(10)]
    fingerprint = "digits"
    def __init__(self):
        whole = sources.load("digits", "train")
        import numpy as np
        self.all = whole[np.arange(len(whole))]
    def __len__(self):
        return len(self.all["label"])
    def __getitem__(self, number):
        return self.all["image"][number], int(self.all["label"][number])

if os.environ.get("WRONG"):
    def partners(self):
        import numpy as np
        return np.random.default_rng(os.getpid()).permutation(len(self))
    SampleRng.partners = partners

def model(hparams, data):
    return models.MLP(64, 10, (16,))

def optimizer(hparams, model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

def loss(model, batch):
    if model.training:
        parts = (batch["image"], batch["label"])
        digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in parts)).hexdigest()
        with open(f"process-{os.environ.get('RANK', '0')}.txt", "a") as file:
            file.write(digest + "\\n")
    return losses.cross_entropy(model, batch)

recipe = Recipe(hparams=H, data=data, model=model, optimizer=optimizer, loss=loss)
"""


def rng(index: np.ndarray = INDEX) -> SampleRng:
    return SampleRng(1, 2, index)


def batch(samples: int = len(INDEX)) -> Batch:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (samples, 3, 12, 16), dtype=torch.uint8)
    return {"image": image, "label": torch.arange(samples) % 5}


# ── values ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_weight_has_the_beta_distribution(alpha: float) -> None:
    from scipy.stats import beta, kstest

    found = mixing.beta(SampleRng(0, 0, np.arange(50_000)), alpha)
    assert found.min() >= 0
    assert found.max() <= 1
    assert kstest(found, beta(alpha, alpha).cdf).pvalue > 0.01
    other = kstest(found, beta(alpha * 1.2, alpha * 1.2).cdf)  # the negative control
    assert other.pvalue < 1e-6


@pytest.mark.parametrize("alpha", [0, -1.0])
def test_an_alpha_that_is_not_positive_is_refused(alpha: float) -> None:
    with pytest.raises(RecipeError, match="must be above 0"):
        mixing.beta(rng(), alpha)


def test_partners_are_a_permutation_of_each_micro_batch() -> None:
    """Two micro-batches side by side, as under DataParallel, are those of two processes."""
    (both,) = SampleRng.each(1, 2, [INDEX], parts=2)
    alone = [rng(INDEX[:4]).partners(), rng(INDEX[4:]).partners() + 4]
    assert both.partners().tolist() == [*alone[0], *alone[1]]
    assert sorted(rng().partners()) == list(range(8))


def same_for_all(monkeypatch: pytest.MonkeyPatch, weight: float, middle: tuple[int, int]) -> None:
    """Draws as torchvision makes them: one weight, one place, and the sample before as partner."""
    count = len(INDEX)
    monkeypatch.setattr(SampleRng, "partners", lambda self: np.roll(np.arange(count), 1))
    monkeypatch.setattr(mixing, "beta", lambda rng, alpha: np.full(count, weight))
    places = iter(middle)
    monkeypatch.setattr(SampleRng, "integers", lambda self, low, high: np.full(count, next(places)))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 1.0])
def test_mixup_is_torchvisions(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.transforms import v2

    same_for_all(monkeypatch, weight, (0, 0))
    theirs = v2.MixUp(num_classes=5)
    monkeypatch.setattr(theirs, "make_params", lambda _: {"lam": weight})
    given = batch()
    image, label = theirs(given["image"].float(), given["label"])
    found = mixing.mixup(given, rng(), classes=5)
    torch.testing.assert_close(found["image"], image, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(found["label"], label, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("middle", [(0, 0), (5, 7), (11, 15)])
def test_cutmix_is_torchvisions(
    weight: float, middle: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.transforms import v2

    same_for_all(monkeypatch, weight, middle)
    theirs = v2.CutMix(num_classes=5)
    monkeypatch.setattr(theirs._dist, "sample", lambda size: torch.tensor([weight]))
    columns_first = iter([torch.tensor([middle[1]]), torch.tensor([middle[0]])])
    given = batch()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_, **__: next(columns_first))
        image, label = theirs(given["image"].float(), given["label"])
    found = mixing.cutmix(given, rng(), classes=5)
    assert torch.equal(found["image"], image)
    torch.testing.assert_close(found["label"], label, rtol=1e-6, atol=1e-6)


def test_a_label_says_how_much_of_each_class_is_in_an_image() -> None:
    given = batch() | {"image": torch.zeros(8, 1, 10, 10, dtype=torch.uint8)}
    given["image"][1::2] = 1
    given["label"] = torch.tensor([0, 1] * 4)
    for mix in (mixing.mixup, mixing.cutmix):
        found = mix(given, rng(), 2, 1.0)
        share = found["image"].mean((1, 2, 3))
        torch.testing.assert_close(found["label"][:, 1], share, rtol=1e-5, atol=1e-5)
        assert found["label"].sum(1).allclose(torch.ones(8))
        assert ((share > 0) & (share < 1)).any()


def test_both_can_be_used_one_after_the_other() -> None:
    found = mixing.mixup(mixing.cutmix(batch(), rng(), 5), rng(), 5)
    assert found["label"].shape == (8, 5)
    assert found["label"].sum(1).allclose(torch.ones(8))
    with pytest.raises(RecipeError, match="has not 6 classes"):
        mixing.mixup(found, rng(), classes=6)


def test_the_loss_of_a_soft_label_is_the_mean_of_its_classes() -> None:
    logits, label = torch.randn(8, 5), torch.arange(8) % 5
    share = torch.rand(8, 1)
    mixed = mixing.soft(label, 5) * share + mixing.soft(label.roll(1), 5) * (1 - share)
    found = losses.cross_entropy(torch.nn.Identity(), {"image": logits, "label": mixed})
    one, other = (F.cross_entropy(logits, y, reduction="none") for y in (label, label.roll(1)))
    expected = (share[:, 0] * one + (1 - share[:, 0]) * other).mean()
    torch.testing.assert_close(found, expected)


# ── runs ────────────────────────────────────────────────────────────────────────────────────────

GIVEN = ("micro_batch_size=16",)


@pytest.mark.slow
def test_mixed_batches_depend_on_neither_processes_nor_workers(tmp_path: Path) -> None:
    one = launch(tmp_path / "one", RECIPE, 1, *GIVEN, "workers=0", by="python")
    expected = micro_batches(one, 1, 4)
    assert len(set(expected.values())) == 22 * 4
    workers = launch(tmp_path / "workers", RECIPE, 1, *GIVEN, "workers=2", by="python")
    assert micro_batches(workers, 1, 4) == expected
    two = launch(tmp_path / "two", RECIPE, 2, *GIVEN, "workers=0", by="torchrun")
    assert micro_batches(two, 2, 2) == expected
    for name, tensor in weights(workers).items():
        assert tensor.equal(weights(one)[name])
    off = launch(tmp_path / "off", RECIPE, 1, *GIVEN, "workers=0", by="python", OFF="1")
    assert not {*micro_batches(off, 1, 4).values()} & {*expected.values()}


@pytest.mark.slow
def test_partners_drawn_by_each_process_for_itself_would_be_noticed(tmp_path: Path) -> None:
    found = [
        micro_batches(launch(tmp_path / name, RECIPE, 1, *GIVEN, by="python", WRONG="1"), 1, 4)
        for name in ("one", "other")
    ]
    assert found[0] != found[1]


def test_a_mixed_run_that_was_interrupted_ends_with_the_same_bits() -> None:
    from conftest import command

    Path("r.py").write_text(RECIPE)
    given = ("r.py", *GIVEN, "threads=1", "workers=0")
    assert command(*given, "name=whole") == 0
    assert command(*given, "name=cut", "max_minutes=1e-9") == 75
    assert command(*given, "name=cut") == 0
    for file in ("model", "optimizer"):
        whole, cut = (
            load_file(max(Path(f"checkpoints/{name}").glob("step-*")) / f"{file}.safetensors")
            for name in ("whole", "cut")
        )
        assert all(whole[key].equal(cut[key]) for key in whole)
    os.environ["WRONG"] = "1"
    try:  # the negative control
        assert command(*given, "name=wrong") == 0
    finally:
        del os.environ["WRONG"]
    wrong = load_file(max(Path("checkpoints/wrong").glob("step-*")) / "model.safetensors")
    whole = load_file(max(Path("checkpoints/whole").glob("step-*")) / "model.safetensors")
    assert not all(whole[key].equal(wrong[key]) for key in whole)


def test_a_recipe_mixes_in_one_line() -> None:
    from conftest import command

    recipe = write_recipe(
        "from launcher import mixing\n\n\n"
        "def data(hparams):\n"
        "    def transform(batch, rng):\n"
        "        return mixing.mixup(batch, rng, classes=4)\n\n"
        "    return Data(\n"
        "        train=Split(sources.synthetic('train', 64, (1, 4, 4), 4), transform),\n"
        "        test=Split(sources.synthetic('test', 40, (1, 4, 4), 4)),\n"
        "        prepare=augment.normalize((0.5,), (0.5,)),\n"
        "    )"
    )
    assert command(recipe, "name=r", "threads=1") == 0
