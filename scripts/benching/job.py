"""One workload made ready: its data, its first weights, and how well a model does on it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchvision import datasets, transforms

from benching.rows import Row
from launcher import sources
from launcher.build import Parts, build
from launcher.connect import connect
from launcher.data import First
from launcher.launch import Launch
from launcher.layers import from_argument
from launcher.recipe import load
from launcher.settings import resolve_hparams, resolve_run

WORKLOAD = Path(__file__).with_name("workload.py")
MEAN, STD, MOMENTUM = 0.5, 0.5, 0.9


@dataclass
class Count:
    """What a column really did, seen from the model and the optimizer."""

    samples: int = 0
    updates: int = 0


@dataclass
class Job:
    """A row of the bench with everything that its columns need."""

    row: Row
    parts: Parts
    root: str
    """The data set, as the launcher takes it."""
    counting: Count | None = None
    _float: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Row, dataset: str, data_dir: str, more: Sequence[str] = ()) -> "Job":
        """Build the row's data and first weights; `more` are run settings of the launcher."""
        given = [
            f"dataset={dataset}", f"network={row.network}", f"batch_size={row.batch_size}",
            f"augmented={str(row.augmented).lower()}", f"peak_lr={row.lr}", "epochs=1000000",
            f"precision={row.precision}",
        ]  # fmt: skip
        never = [f"{key}=1000000000" for key in ("evaluate_every", "checkpoint_every")]
        settings = [f"data_dir={data_dir}", *never, *more]
        if row.threads is not None:
            settings.append(f"threads={row.threads}")
        loaded = load(WORKLOAD)
        hparams, _ = resolve_hparams(loaded.recipe.hparams, map(from_argument, given))
        run, _ = resolve_run(map(from_argument, settings))
        world = connect(Launch(), hparams, run)
        return cls(row, build(loaded, hparams, run, world), dataset)

    @property
    def device(self) -> torch.device:
        return self.parts.world.device

    @property
    def threads(self) -> int:
        return self.parts.world.threads

    @property
    def from_files(self) -> bool:
        """Whether images are decoded one by one."""
        return not isinstance(self.parts.data.train.source, sources.Arrays)

    def model(self, *, arranged: bool = False) -> nn.Module:
        """The first weights, in a model of its own: as the recipe made it, or as the launcher
        arranges it in memory."""
        model = copy.deepcopy(self.parts.model).train()
        if not arranged:
            model = model.to(memory_format=torch.contiguous_format)
        if self.counting is not None:
            count = self.counting

            def saw(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                count.samples += len(inputs[0]) if module.training else 0

            model.register_forward_pre_hook(saw)
        return model

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Plain SGD with momentum, as the tutorials make it."""
        return self.counted(torch.optim.SGD(model.parameters(), lr=self.row.lr, momentum=MOMENTUM))

    def counted(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer, its steps counted if this is a check."""
        if self.counting is not None:
            count = self.counting

            def stepped(*_: object) -> None:
                count.updates += 1

            optimizer.register_step_post_hook(stepped)
        return optimizer

    def order(self, steps: int) -> list[int]:
        """The samples of the launcher's first steps, for columns that can be told an order."""
        batches = [self.parts.plan.batch(step) for step in range(steps)]
        return [int(number) for number in np.concatenate(batches)]

    def dataset(self, transform: Any = None) -> Any:
        """The training split as torchvision reads it, one PIL image at a time; its own class for
        files, CIFAR-10 and MNIST, filled with the launcher's arrays where those are in memory."""
        steps = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
        if self.row.augmented:
            steps = [*augmentation(self.parts.data.shape[-1]), *steps]
        transform = transforms.Compose(steps) if transform is None else transform
        source = self.parts.data.train.source
        if not isinstance(source, sources.Arrays):
            size = self.parts.data.shape[-1]
            cut = [transforms.Resize(size), transforms.CenterCrop(size)]
            train = Path(self.root) / "train"
            root = str(train if train.is_dir() else self.root)
            return datasets.ImageFolder(root, transforms.Compose([*cut, transform]))
        kind: Any = datasets.CIFAR10 if source.shape[0] == 3 else datasets.MNIST
        found = kind.__new__(kind)
        image = source.image.cpu()
        found.data = image.permute(0, 2, 3, 1).numpy() if source.shape[0] == 3 else image[:, 0]
        found.targets = source.label.tolist()
        found.transform, found.target_transform, found.transforms = transform, None, None
        return found

    def floats(self, padding: int = 0) -> tuple[Tensor, Tensor]:
        """All training images normalised, in memory: float32, and their labels."""
        source = self.parts.data.train.source
        key = f"image-{padding}"
        if key not in self._float:
            batch = source[np.arange(len(source), dtype=np.int64)]
            if padding:  # zeros before they are normalised, as everybody pads
                batch = batch | {"image": F.pad(batch["image"], (padding,) * 4)}
            self._float |= {key: self.parts.data.prepare(batch)["image"], "label": batch["label"]}
        return self._float[key], self._float["label"]

    @torch.no_grad()
    def score(self, model: nn.Module) -> tuple[float, float]:
        """Mean loss and accuracy on the first test images, in float32."""
        test = First(self.parts.data.test.source, self.row.tested)
        batch = self.parts.data.prepare(test[np.arange(len(test), dtype=np.int64)])
        model = model.to(self.device).eval()
        output = model(batch["image"].to(self.device)).float()
        label = batch["label"].to(self.device)
        right = (output.argmax(1) == label).float().mean()
        return float(F.cross_entropy(output, label)), float(right)

    def close(self) -> None:
        self.parts.loaders.close()
        self.parts.world.close()


def augmentation(size: int) -> list[Any]:
    """Flip and shift, as torchvision has them."""
    return [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
