"""The trainers that are compared: each trains one job and ticks after every step.

Every peer is used as its own documentation does it, without what only slows it down: no logger, no
progress bar, no checkpoints. `order` are the samples to take, where a check wants the same for all;
without it each shuffles as it does.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

from benching.clock import Clock
from benching.job import MEAN, STD, Job, augmentation
from launcher.loaders import Loaders
from launcher.saver import Saver
from launcher.screen import Screen
from launcher.state import State
from launcher.stop import Stop
from launcher.train import train

Column = Callable[[Job, int, Clock, Sequence[int] | None], nn.Module]
"""From a job, loader workers, a clock and perhaps an order to the trained model."""
NEEDS = {"lightning": "lightning", "ignite": "ignite", "timm": "timm"}
"""Packages of the `bench` extra."""


class EnoughError(Exception):
    """All steps of a window are done."""


class Ticking(Screen):
    """A screen that shows nothing, and ends training with EnoughError after the clock's steps."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(shown=False)
        self._clock = clock

    def step(self, step: int) -> None:
        if self._clock.tick():
            raise EnoughError


def launcher(job: Job, workers: int, clock: Clock, order: Sequence[int] | None) -> nn.Module:
    """The launcher's own loop, with its guard, its metrics every 50 steps and its signals."""
    parts = job.parts
    model = job.model(arranged=True)
    optimizer = job.counted(parts.recipe.optimizer(parts.hparams, model))
    settings = replace(parts.settings, workers=workers)
    if job.counting is not None:  # a trial of recording computes, too, and hooks are not recorded
        settings = replace(settings, graphs="off")
    loaders = Loaders.of(
        parts.loaded, parts.hparams, settings, parts.world, parts.data, parts.plan,
        resident=parts.resident,
    )  # fmt: skip
    parts = replace(parts, model=model, optimizer=optimizer, loaders=loaders)
    screen = Ticking(clock)
    with Stop(1, str) as stop, closing(loaders):
        try:
            train(parts, State(), Saver(parts, None, screen), screen, stop)
        except EnoughError:
            return model
    raise AssertionError("the plan ended before the window")


def floor(job: Job, workers: int, clock: Clock, order: Sequence[int] | None) -> nn.Module:
    """What no loop around the same network can beat by much: images normalised in memory, one
    fancy index for a batch, nothing checked, recorded or evaluated."""
    model = job.model()
    optimizer = job.counted(job.parts.recipe.optimizer(job.parts.hparams, model))
    batches = _windows(job) if job.row.augmented else _indexed(job)
    size = job.row.batch_size
    autocast = _autocast(job)
    while True:
        samples = len(job.parts.data.train.source)
        chosen = torch.randperm(samples) if order is None else torch.tensor(order)
        for first in range(0, len(chosen) - size + 1, size):
            image, label = batches(chosen[first : first + size])
            optimizer.zero_grad()
            with autocast:
                loss = F.cross_entropy(model(image), label)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if clock.tick():
                return model


def _indexed(job: Job) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    image, label = (part.to(job.device) for part in job.floats())
    return lambda index: (image[index], label[index])


def _windows(job: Job) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """All images padded, as they are and mirrored: a window of one of them is one index too."""
    padded, label = (part.to(job.device) for part in job.floats(padding=4))
    size = padded.shape[-1] - 8
    both = [image.unfold(2, size, 1).unfold(3, size, 1) for image in (padded, padded.flip(-1))]
    views = [view.permute(0, 2, 3, 1, 4, 5) for view in both]

    def batch(index: Tensor) -> tuple[Tensor, Tensor]:
        down, right = torch.randint(0, 9, (2, len(index)))
        mirrored = torch.rand(len(index)) < 0.5
        index = torch.cat([index[~mirrored], index[mirrored]])
        cut = int((~mirrored).sum())
        parts = [
            view[index[part], down[part], right[part]]
            for view, part in zip(views, (slice(None, cut), slice(cut, None)), strict=True)
        ]
        return torch.cat(parts), label[index]

    return batch


def loader(job: Job, workers: int, order: Sequence[int] | None) -> Any:
    """torch's DataLoader with torchvision's transforms, as the tutorials have it."""
    return DataLoader(
        job.dataset(), batch_size=job.row.batch_size, shuffle=order is None, sampler=order,
        num_workers=workers, drop_last=True, persistent_workers=workers > 0,
        pin_memory=job.device.type == "cuda",
    )  # fmt: skip


def tutorial(job: Job, workers: int, clock: Clock, order: Sequence[int] | None) -> nn.Module:
    """The loop of PyTorch's tutorial "Training a Classifier"."""
    net = job.model()
    criterion = nn.CrossEntropyLoss()
    optimizer = job.optimizer(net)
    trainloader = loader(job, workers, order)
    return _plain(job, net, criterion, optimizer, trainloader, clock)


def timm(job: Job, workers: int, clock: Clock, order: Sequence[int] | None) -> nn.Module:
    """timm's loader in a plain loop: it collates bytes and normalises whole batches."""
    from timm.data import create_loader
    from timm.data.transforms import ToNumpy

    shape = tuple(job.parts.data.shape)
    batches = create_loader(
        job.dataset(transform=transforms.Compose([])), shape, job.row.batch_size, is_training=True,
        no_aug=True, mean=(MEAN,) * shape[0], std=(STD,) * shape[0], num_workers=workers,
        persistent_workers=workers > 0, device=job.device, pin_memory=job.device.type == "cuda",
    )  # fmt: skip
    if job.row.augmented:  # timm has no padded crop of its own
        batches.loader.dataset.transform = transforms.Compose([*augmentation(shape[-1]), ToNumpy()])
    net = job.model()
    return _plain(job, net, nn.CrossEntropyLoss(), job.optimizer(net), batches, clock)


def _plain(
    job: Job, net: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer,
    batches: Any, clock: Clock,
) -> nn.Module:  # fmt: skip
    running_loss, device, autocast = 0.0, job.device, _autocast(job)
    while True:
        for data in batches:
            inputs, labels = data[0].to(device), data[1].to(device)
            optimizer.zero_grad()
            with autocast:
                outputs = net(inputs)
                loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if clock.tick():
                return net


def accelerate(job: Job, workers: int, clock: Clock, order: Sequence[int] | None) -> nn.Module:
    """The loop of Accelerate's own examples: everything prepared, its backward."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=job.device.type == "cpu", mixed_precision=job.row.precision)
    model = job.model()
    optimizer = job.optimizer(model)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    prepared = accelerator.prepare(model, optimizer, loader(job, workers, order), scheduler)
    wrapped, stepper, batches, schedule = prepared
    total_loss = torch.zeros((), device=job.device)
    while True:
        for inputs, labels in batches:
            outputs = wrapped(inputs)
            loss = F.cross_entropy(outputs, labels)
            total_loss += loss.detach().float()
            accelerator.backward(loss)
            stepper.step()
            schedule.step()
            stepper.zero_grad()
            if clock.tick():
                accelerator.free_memory()
                return model


def lightning(job: Job, workers: int, clock: Clock, order: Sequence[int] | None) -> nn.Module:
    """A LightningModule and its Trainer."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = job.model()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            inputs, labels = batch
            loss = F.cross_entropy(self.net(inputs), labels)
            self.log("train_loss", loss)
            return loss

        def on_train_batch_end(self, *_: object) -> None:
            clock.tick()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return job.optimizer(self)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu" if job.device.type == "cpu" else "gpu", devices=1,
            max_steps=clock.steps, max_epochs=-1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
            precision="bf16-mixed" if job.row.precision == "bf16" else "32-true",
        )  # fmt: skip
        trainer.fit(module, loader(job, workers, order))
    return module.net


def ignite(job: Job, workers: int, clock: Clock, order: Sequence[int] | None) -> nn.Module:
    """Ignite's quick start: a supervised trainer."""
    from ignite.engine import Events, create_supervised_trainer

    model = job.model()
    trainer = create_supervised_trainer(
        model, job.optimizer(model), nn.CrossEntropyLoss(), device=job.device
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: clock.tick())
    trainer.run(loader(job, workers, order), max_iters=clock.steps)
    return model


def _autocast(job: Job) -> AbstractContextManager[object]:
    if job.row.precision == "no":
        return nullcontext()
    return torch.autocast(job.device.type, dtype=torch.bfloat16)


COLUMNS: dict[str, Column] = {
    "launcher": launcher, "floor": floor, "tutorial": tutorial, "accelerate": accelerate,
    "lightning": lightning, "ignite": ignite, "timm": timm,
}  # fmt: skip


def missing(names: Sequence[str], row_precision: str = "no") -> Iterator[tuple[str, str]]:
    """Columns that cannot run here or do not fit the row, with the reason."""
    for name in names:
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            yield name, f"{NEEDS[name]} is not installed: pip install -e '.[bench]'"
        elif name == "ignite" and row_precision == "bf16":
            yield name, "its supervised trainer has no bf16"


def takes_workers(name: str, job: Job) -> bool:
    """Whether a column has loader workers to choose: the launcher only for files."""
    return name != "floor" and (name != "launcher" or job.from_files)
