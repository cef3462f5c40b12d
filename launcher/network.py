"""A run's trained model for single inputs: weights, precision and preparation of its evaluation.

What a recipe's `model` and `data` ask of a data set is mostly its classes and its shape, which
run.json holds. So the data set is left unread if the recipe lets it, and read if not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from launcher import checkpoint, ema, exported, recipe, reopen, sources, uncompiled
from launcher.connect import connect
from launcher.data import Data
from launcher.errors import LauncherError, OutOfMemoryError, RecipeError, SettingsError
from launcher.launch import Launch
from launcher.modes import evaluating
from launcher.reopen import Run
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
    scores: dict[str, float | None]
    """Those that the run noted for these weights, if it did."""
    remark: str
    """What is not as it was in the run."""

    def prepared(self, image: Tensor) -> Tensor:
        """Images, (N, C, H, W), as the model takes them: after the test split's transform and
        `Data.prepare`, on its device."""
        with recipe.blamed(self.run.loaded.path, "preparing images"):
            return exported.prepared(self.data, image.to(self.world.device), self.run.hparams.seed)

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

    Raises what `reopen` and the recipe's functions raise, DataError when the recipe needs a data
    set that is not here, and OutOfMemoryError, also for what is done with it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("this verb works in one process: start it without a launcher.")
    cpu = not torch.accelerator.is_available()
    hparams, remark = reopen.for_world(run, cpu)
    world = connect(Launch(), hparams, replace(run.settings, strategy="ddp"))
    try:
        yield _network(run, wanted, world, remark)
    except Exception as error:
        if not recipe.out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory with the model of {run.folder}: {f'{error}' or type(error).__name__} "
            f"It needs a machine, or a device, with more."
        ) from error
    finally:
        world.close()


def _network(run: Run, wanted: str, world: World, remark: str) -> Network:
    sources.data_dir.set(Path(run.settings.data_dir))
    sources.mirror.set(run.settings.mirror)
    found = reopen.take(run.folder, wanted)
    data, model = _without_reading(run) or exported.made(run.loaded, run.hparams)
    model = model.to(world.device)
    if run.settings.compile == "off":
        uncompiled.leave_out()
    optimizer = recipe.call(run.loaded, "optimizer", torch.optim.Optimizer, run.hparams, model)
    checkpoint.restore(found, model, optimizer)
    ema.put(model, found.weights)  # those that evaluations use
    world.prepare(model, optimizer, sync_batchnorm=False)  # for its autocast
    best = found.state.get("best") or {}
    scores = best["scores"] if best.get("step") == found.step else {}
    return Network(run, found.step, data, model, world, scores, remark)


def _without_reading(run: Run) -> tuple[Data, nn.Module] | None:
    """Data and model without a data set; None when the recipe asks for more than was noted."""
    shape, classes = run.document.get("shape"), run.document.get("classes") or []
    if not shape:
        return None
    try:
        return exported.unread(run.loaded, run.hparams, classes, shape)
    except LauncherError:
        return None
