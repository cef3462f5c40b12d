"""A run's trained model for single inputs: weights, precision and preparation of its evaluation.

What a recipe's `model` and `data` ask of a data set is mostly its classes and its shape, which
run.json holds. So the data set is left unread if the recipe lets it, and read if not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from launcher import checkpoint, recipe, reopen, rng, sources
from launcher.connect import connect
from launcher.data import Data, finish
from launcher.errors import LauncherError, RecipeError, SettingsError
from launcher.launch import Launch
from launcher.modes import evaluating
from launcher.reopen import Run
from launcher.rng import SampleRng
from launcher.sources.absent import Known, known
from launcher.strategy import World


@dataclass(frozen=True)
class Network:
    """A model with its weights, and what belongs to it."""

    run: Run
    step: int
    data: Data
    """Perhaps of sources that were not read."""
    model: nn.Module
    world: World
    remark: str
    """What is not as it was in the run."""

    def prepared(self, image: Tensor) -> Tensor:
        """Images, (N, C, H, W), as the model takes them: after the test split's transform and
        `Data.prepare`, on its device."""
        index = np.zeros(len(image), dtype=np.int64)
        batch = {"image": image}
        if self.data.classes:  # there is none, but a preparation may pass it on
            batch["label"] = torch.zeros(len(image), dtype=torch.int64)
        seeded = SampleRng(self.run.hparams.seed, 0, index)
        with recipe.blamed(self.run.loaded.path, "preparing images"):
            return finish(self.data, self.data.test, batch, seeded, self.world.device)["image"]

    def outputs(self, image: Tensor) -> Tensor:
        """What the model gives for images as `pictures` reads them: float32 on the host, (N, ...).
        Raises RecipeError for a model that gives something else."""
        prepared = self.prepared(image)
        with evaluating(self.model), self.world.inference():
            with recipe.blamed(self.run.loaded.path, "the model"):
                output = self.model(prepared)
        if not isinstance(output, Tensor) or len(output) != len(image):
            raise RecipeError(
                f"the model of {self.run.folder} gives {type(output).__name__} for {len(image)} "
                f"images: predict needs a tensor with an entry for each."
            )
        return output.float().cpu()


@contextmanager
def opened(run: Run, wanted: str) -> Iterator[Network]:
    """A run's model with the weights of a checkpoint, in this process alone.

    Raises what `reopen` and the recipe's functions raise, and DataError when the recipe needs a
    data set that is not here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("this verb works in one process: start it without a launcher.")
    cpu = not torch.accelerator.is_available()
    hparams, remark = reopen.for_world(run, cpu)
    world = connect(Launch(), hparams, replace(run.settings, strategy="ddp"))
    try:
        yield _network(run, wanted, world, remark)
    finally:
        world.close()


def _network(run: Run, wanted: str, world: World, remark: str) -> Network:
    sources.data_dir.set(Path(run.settings.data_dir))
    sources.mirror.set(run.settings.mirror)
    found = reopen.take(run.folder, wanted)
    data, model = _without_reading(run) or _made(run)
    model = model.to(world.device)
    optimizer = recipe.call(run.loaded, "optimizer", torch.optim.Optimizer, run.hparams, model)
    checkpoint.restore(found, model, optimizer)
    world.prepare(model, optimizer, sync_batchnorm=False)  # for its autocast
    return Network(run, found.step, data, model, world, remark)


def _without_reading(run: Run) -> tuple[Data, nn.Module] | None:
    """Data and model without a data set; None when the recipe asks for more than was noted."""
    shape = run.document.get("shape")
    if not shape:
        return None
    classes = tuple(run.document.get("classes") or ()) or None
    token = known.set(Known(classes, tuple(shape)))
    try:
        return _made(run)
    except LauncherError:
        return None
    finally:
        known.reset(token)


def _made(run: Run) -> tuple[Data, nn.Module]:
    data: Data = recipe.call(run.loaded, "data", Data, run.hparams)
    torch.manual_seed(rng.torch_seed(run.hparams.seed))
    model: nn.Module = recipe.call(run.loaded, "model", nn.Module, run.hparams, data)
    return data, model
