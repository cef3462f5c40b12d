"""What is trained while it is killed: three models on little data, each for some seconds.

A checkpoint every few steps and a line of metrics every step, so that most instants are next to one
of either. The MLP and ResNet-34 augment and the MLP drops units, so that a wrong stream of random
numbers shows in their weights; LeNet is the recipe as it is, which does neither.
"""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

_RECIPE = '''\
"""{title}"""

from dataclasses import dataclass

import torch

from launcher import Data, Hparams, Recipe, Split, augment, models, schedules, sources


@dataclass(frozen=True, kw_only=True)
class Hp(Hparams):
    epochs: int = {epochs}
    batch_size: int = {batch_size}


def data(hparams):
    def transform(batch, rng):
        return batch | {{"image": augment.shift(augment.flip(batch["image"], rng), rng, 1)}}

    return Data(
        train=Split({train}, transform),
        test=Split({test}),
        prepare=augment.normalize((0.5,), (0.5,)),
    )


def model(hparams, data):
    return {model}


def optimizer(hparams, model):
    return torch.optim.SGD(model.parameters(), lr={lr}, momentum=0.9, fused=True)


def schedule(hparams, progress):
    return schedules.cosine(progress, warmup=0.2)


recipe = Recipe(hparams=Hp, data=data, model=model, optimizer=optimizer, schedule=schedule)
'''

MLP = _RECIPE.format(
    title="An MLP with dropout on digits.", epochs=10, batch_size=32, lr=0.1,
    train='sources.load("digits", "train")', test='sources.load("digits", "test")',
    model="models.MLP(64, 10, (64,), dropout=0.3)",
)  # fmt: skip
RESNET = _RECIPE.format(
    title="ResNet-34 on small synthetic images: a checkpoint of 170 MB.", epochs=1, batch_size=8,
    lr=0.01, train='sources.synthetic("train", 64, (3, 8, 8), 10)',
    test='sources.synthetic("test", 32, (3, 8, 8), 10)', model="models.resnet34(10, 3)",
)  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """A recipe with its settings, in a number of processes."""

    name: str
    recipe: str
    """The text of a recipe, or the name of one in recipes/."""
    settings: tuple[str, ...]
    processes: int = 1
    share: float = 0.0
    """Of all kills."""

    @property
    def label(self) -> str:
        return f"{self.name}, {self.processes} process{'es' if self.processes > 1 else ''}"

    def write(self, folder: Path) -> str:
        """Put the recipe into the folder; its name there."""
        text = self.recipe
        if "\n" not in text:
            text = (ROOT / "recipes" / text).read_text()
        (folder / f"{self.name}.py").write_text(text)
        return f"{self.name}.py"


_MLP = ("checkpoint_every=7",)
_LENET = ("dataset=digits", "batch_size=32", "peak_lr=0.02", "checkpoint_every=6")
_RESNET = ("checkpoint_every=3",)

WORKLOADS = (
    Workload("mlp", MLP, (*_MLP, "epochs=10"), 1, 0.38),
    Workload("lenet", "cifar_lenet.py", (*_LENET, "epochs=3"), 1, 0.22),
    Workload("resnet34", RESNET, _RESNET, 1, 0.08),
    Workload("mlp", MLP, (*_MLP, "epochs=3"), 2, 0.16),
    Workload("lenet", "cifar_lenet.py", (*_LENET, "epochs=2"), 2, 0.12),
    Workload("resnet34", RESNET, _RESNET, 2, 0.04),
)
COMMON = ("threads=1", "log_every=1")
