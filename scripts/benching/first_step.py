"""A peer's shortest program: an MLP on digits until its first step, which it says in one line.

    python first_step.py tutorial|accelerate|lightning|ignite DIGITS.csv.gz

Each imports what its own examples import. The table is read as the launcher reads it, without
scikit-learn, so that nobody waits for that.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def digits(path: Path) -> TensorDataset:
    text = gzip.decompress(path.read_bytes()).replace(b"\n", b",").rstrip(b",")
    table = torch.from_numpy(np.array(text.split(b","), np.uint8).reshape(-1, 65))
    return TensorDataset(table[:, :64].float() / 16, table[:, 64].long())


def done() -> None:
    sys.stdout.write("first step\n")
    sys.stdout.flush()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def tutorial(batches: DataLoader[tuple[Tensor, ...]]) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for image, label in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(image), label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return


def accelerate(batches: DataLoader[tuple[Tensor, ...]]) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net, stepper, loader = accelerator.prepare(net, optimizer, batches)
    for image, label in loader:
        accelerator.backward(F.cross_entropy(net(image), label))
        stepper.step()
        stepper.zero_grad()
        return


def lightning(batches: DataLoader[tuple[Tensor, ...]]) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    pl.Trainer(
        max_steps=1, accelerator="auto", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(Module(), batches)  # fmt: skip


def ignite(batches: DataLoader[tuple[Tensor, ...]]) -> None:
    from ignite.engine import create_supervised_trainer

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    create_supervised_trainer(net, optimizer, nn.CrossEntropyLoss()).run(batches, max_iters=1)


if __name__ == "__main__":
    loader = DataLoader(digits(Path(sys.argv[2])), batch_size=256, shuffle=True)
    peers = {
        "tutorial": tutorial, "accelerate": accelerate, "lightning": lightning, "ignite": ignite,
    }  # fmt: skip
    peers[sys.argv[1]](loader)
    done()
