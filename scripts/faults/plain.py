"""The run beside ours: training with Accelerate alone, as its documentation puts it together.

`ProjectConfiguration(automatic_checkpoint_naming=True, total_limit=2)` and `save_state` every few
steps; `use_seedable_sampler=True`, which its documentation recommends for the same shuffling after
a restart, with `set_seed` and `set_epoch`; model, optimizer, loader and scheduler through
`prepare`. At the start `load_state` takes the newest checkpoint, the step comes from its number as
in the examples, `skip_first_batches` drops what was trained in the epoch under way, and the
numbering of checkpoints goes on. Augmentation and dropout draw from torch's generator, which
`load_state` restores. The acknowledgement is written when `save_state` has returned.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from launcher import models, screen

EVERY = 7
EPOCHS = {"mlp": 8, "lenet": 3}
FINAL = "final.safetensors"


class Digits(Dataset[tuple[Tensor, Tensor]]):
    """Handwritten digits, each shifted by up to one pixel when it is read."""

    def __init__(self, enlarge: int) -> None:
        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16 - 0.5
        self.images = images.repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)[:1438]
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        down, right = (int(shift) for shift in torch.randint(-1, 2, (2,)))
        return self.images[index].roll((down, right), (1, 2)), self.labels[index]


def main(arguments: Sequence[str]) -> int:
    """Train a model, `mlp` or `lenet`, in the current folder to its end, from where it is."""
    name = arguments[0]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    accelerator = Accelerator(
        cpu=True,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        project_config=ProjectConfiguration(
            project_dir=".", automatic_checkpoint_naming=True, total_limit=2
        ),
    )
    set_seed(0)
    model = models.MLP(64, 10, (64,), dropout=0.3) if name == "mlp" else models.LeNet(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(Digits(1 if name == "mlp" else 4), 32, shuffle=True, drop_last=True)
    total = EPOCHS[name] * len(loader)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    step = 0
    if there := checkpoints(Path()):
        number = max(there)
        accelerator.load_state()
        accelerator.project_configuration.iteration = number + 1
        step = (number + 1) * EVERY
    screen.text(f"begins at step {step}")
    first, skipped = divmod(step, len(loader))
    for epoch in range(first, EPOCHS[name]):
        loader.set_epoch(epoch)
        skip = skipped if epoch == first else 0
        for images, labels in accelerator.skip_first_batches(loader, skip) if skip else loader:
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(model(images), labels))
            optimizer.step()
            scheduler.step()
            step += 1
            if step % EVERY == 0:
                accelerator.save_state()
                screen.text(f"checkpoint step={step} committed")
    save_file(accelerator.unwrap_model(model).state_dict(), FINAL)
    return 0


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints by their numbers."""
    found = (folder / "checkpoints").glob("checkpoint_*")
    return {int(path.name.removeprefix("checkpoint_")): path for path in found}
