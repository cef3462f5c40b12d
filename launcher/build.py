"""From a recipe and settings to everything that a run is made of, checked before the first step."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher import generators, pretrained, rng, sources, uncompiled
from launcher import layout as layouts
from launcher import recipe as recipes
from launcher.data import Batch, Data, Resident, assemble
from launcher.ema import Average
from launcher.errors import DataError, RecipeError, SettingsError, listed
from launcher.evaluate import checked
from launcher.kept import Kept, own_memory, refuse
from launcher.loaders import Loaders
from launcher.matching import check_batch, no_broadcasting, numbered
from launcher.modes import evaluating
from launcher.monitor import Monitor, chosen
from launcher.plan import Plan, Sizes
from launcher.recipe import Loaded, Recipe
from launcher.rng import SampleRng
from launcher.settings import Hparams, RunSettings
from launcher.slots import group_values
from launcher.strategy import World

log = logging.getLogger("launcher")
_FIRST = np.arange(2, dtype=np.int64)
RESIDENT_SHARE = 0.25
"""Of a device's free memory: what in-memory data may take under `resident=auto`."""


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    loaded: Loaded
    hparams: Hparams
    settings: RunSettings
    world: World
    data: Data
    model: nn.Module
    optimizer: Optimizer
    base_lrs: tuple[float, ...]
    """Learning rate of each parameter group, before the schedule."""
    groups: Sequence[Mapping[str, Any]]
    """The rest of each parameter group, as the recipe made it."""
    plan: Plan
    resident: bool
    loaders: Loaders
    monitor: Monitor
    """The metric that decides what is best."""
    average: Average | None
    """Of the weights, which evaluations use; None unless the hyperparameters ask for it."""
    began_with: str
    """The hash of the weights that the model was made with; empty for random ones."""
    layout: layouts.Layout
    """Of the filters of convolutions."""
    moved: Sequence[nn.Parameter]
    """Filters that lie otherwise than the recipe made them."""
    kept: Kept
    """Looks for what checkpoints would lose."""

    def sample(self, part: str) -> Batch:
        """A batch of at most two samples of `train` or `test`, as the model would get it."""
        return _sample(self.data, part, self.world.device)

    @property
    def data_bytes(self) -> int:
        """Bytes of what is in memory of both splits."""
        return _in_memory(self.data)

    @property
    def modules(self) -> Mapping[str, bytes]:
        return self.loaded.modules

    @property
    def recipe(self) -> Recipe[Any]:
        return self.loaded.recipe


def build(
    loaded: Loaded, hparams: Hparams, settings: RunSettings, world: World,
    micro_batch_size: int | None = None, sizes: Sizes | None = None, *, continued: bool = False,
) -> Parts:  # fmt: skip
    """Data, model, optimizer and plan, and one small batch through them in evaluation mode.

    The same hyperparameters give the same first weights in every process and on every device.
    `micro_batch_size` is what an earlier attempt at this run took where the hyperparameters leave
    it open; it is kept where it fits. `sizes` are those of the plan, where they
    are not those of the hyperparameters. `continued`: the weights of a checkpoint follow, so that
    those to begin with need not be there. Raises RecipeError, DataError and SettingsError for what
    would fail later.
    """
    sources.data_dir.set(Path(settings.data_dir))
    sources.mirror.set(settings.mirror)
    if settings.compile == "off":
        uncompiled.leave_out()
    # What does not divide is refused before data is read, and perhaps fetched.
    Plan.of(sizes or hparams, sys.maxsize, world.processes, world.devices)
    generators.seed(first := rng.torch_seed(hparams.seed))
    data: Data = recipes.call(loaded, "data", Data, hparams)
    _check_sources(loaded, data)
    samples = len(data.train.source)
    plan = Plan.of(sizes or hparams, samples, world.processes, world.devices)
    if hparams.micro_batch_size == "auto" and micro_batch_size is not None:
        plan = plan.in_parts_of(micro_batch_size)
    elif hparams.micro_batch_size is None and micro_batch_size is not None:
        parts = micro_batch_size * world.processes * world.devices
        if hparams.batch_size % parts == 0:
            plan = replace(plan, micro_batch_size=micro_batch_size)
    torch.manual_seed(first)
    generators.seed(first)  # again: what `data` draws is its own affair
    pretrained.needed.set(not continued)
    pretrained.used.set("")
    model: nn.Module = recipes.call(loaded, "model", nn.Module, hparams, data)
    model = model.to(world.device)
    _check_model(loaded, model)
    own_memory(model)
    world, layout = computed(settings, world, model, plan)
    moved = layouts.arrange(model, layout)
    optimizer: Optimizer = recipes.call(loaded, "optimizer", Optimizer, hparams, model)
    _check_optimizer(loaded, model, optimizer)
    recipes.call(loaded, "schedule", float, hparams, plan.progress(0))
    resident = _resident(settings, data, world.device)
    data = data.on(world.device, resident=resident)
    try:
        names = preflight(loaded, data, model, world.device)
    except RecipeError:
        if settings.layout != "auto" or layout != "channels_last":
            raise
        # A `view` of what lies channels last, perhaps: then the model stays as it was made.
        layouts.restore(moved)
        layout, moved = "contiguous", []
        names = preflight(loaded, data, model, world.device)
    monitor = chosen(settings.monitor, names, loaded.recipe.better)
    base_lrs = tuple(float(group["lr"]) for group in optimizer.param_groups)
    groups = group_values(optimizer)
    return Parts(
        loaded, hparams, settings, world, data, model, optimizer, base_lrs, groups, plan, resident,
        Loaders.of(loaded, hparams, settings, world, data, plan, resident=resident), monitor,
        None if hparams.ema is None else Average(model, hparams.ema),
        pretrained.used.get(), layout, moved, Kept(model, optimizer),
    )  # fmt: skip


def computed(
    settings: RunSettings, world: World, model: nn.Module, plan: Plan
) -> tuple[World, layouts.Layout]:
    """The threads and the layout for micro-batches of the plan's size."""
    size = plan.micro_batch_size
    if world.device.type == "cpu" and settings.threads == "auto" and layouts.tiny(model, size):
        world = world.on_one_thread()
    return world, layouts.choose(settings.layout, model, world.device, world.threads, size)


def preflight(loaded: Loaded, data: Data, model: nn.Module, device: torch.device) -> list[str]:
    """Two samples through data, model, loss and metrics; the names of the metrics it will have.

    Raises RecipeError for an output that does not fit the classes: on a GPU the loss would only say
    "device-side assert". The model is left as it was.
    """
    batches = {}
    for part in ("train", "test"):
        before = generators.states()
        with recipes.blamed(loaded.path, f"making a {part} batch"):
            batches[part] = _sample(data, part, device)
        check_batch(data, part, batches[part])
    generators.warn_of_tests(before, generators.states())  # training is looked at in a step
    _check_same_types(loaded, *batches.values())
    hook = model.register_forward_hook(_OutputCheck(loaded, data, batches["train"]))
    try:
        with evaluating(model), no_broadcasting():
            with numbered("train", _FIRST):
                loss = recipes.call(loaded, "loss", Tensor, model, batches["train"])
            with numbered("test", _FIRST):
                metrics = recipes.call(loaded, "metrics", dict, model, batches["test"])
    finally:
        hook.remove()
    _check_results(loaded, loss, metrics, batches["test"])
    return [f"test/{name}" for name in metrics]


def _sample(data: Data, part: str, device: torch.device) -> Batch:
    split = data.train if part == "train" else data.test
    index = _FIRST[: len(split.source)]
    return assemble(data, split, index, SampleRng(0, 0, index), device)


def _check_same_types(loaded: Loaded, train: Batch, test: Batch) -> None:
    """Labels may differ: soft ones are of training alone."""
    if "image" in train and "image" in test and train["image"].dtype != test["image"].dtype:
        kinds = [str(batch["image"].dtype).removeprefix("torch.") for batch in (train, test)]
        raise RecipeError(
            f"images reach the model of {loaded.path} as {kinds[0]} in training and as {kinds[1]} "
            f"in tests: do in Data.prepare what both need, and not in a split's transform."
        )


class _OutputCheck:
    """A forward hook: the logits must have one column for each class."""

    def __init__(self, loaded: Loaded, data: Data, batch: Batch) -> None:
        self.loaded = loaded
        self.classes = len(data.classes)
        self.shape = data.shape

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        fits = isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == self.classes
        if self.classes and isinstance(output, Tensor) and not fits:
            samples = len(inputs[0])
            raise RecipeError(
                f"recipe.model in {self.loaded.path} gives an output of shape "
                f"{tuple(output.shape)} for {samples} samples of shape {self.shape}, but the "
                f"data has {self.classes} classes: it should be ({samples}, {self.classes})."
            )


def _check_results(loaded: Loaded, loss: Tensor, metrics: dict[str, Any], batch: Batch) -> None:
    if loss.ndim != 0:
        raise RecipeError(
            f"recipe.loss in {loaded.path} must return one number, the mean over the micro-batch; "
            f"it returned shape {tuple(loss.shape)}."
        )
    checked(metrics, len(next(iter(batch.values()))), {})


def _check_sources(loaded: Loaded, data: Data) -> None:
    for part, source in (("train", data.train.source), ("test", data.test.source)):
        if not len(source):
            raise DataError(f"the {part} split of {loaded.path} has no sample.")
        if not isinstance(getattr(source, "fingerprint", None), str):
            raise RecipeError(f"the {part} source of {loaded.path} has no fingerprint, a text.")
    trained = {name: label for label, name in enumerate(data.classes)}
    for label, name in enumerate(data.test.source.classes or ()):
        if trained.get(name, label) != label:
            raise DataError(
                f"{name!r} is class {trained[name]} in the train split of {loaded.path} and class "
                f"{label} in the test split: give both the same classes, in the same order."
            )


def _check_model(loaded: Loaded, model: nn.Module) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise RecipeError(f"recipe.model in {loaded.path} has no parameter that can be trained.")
    refuse(model, f"recipe.model in {loaded.path}")


def _check_optimizer(loaded: Loaded, model: nn.Module, optimizer: Optimizer) -> None:
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not trained & held:
        raise RecipeError(
            f"recipe.optimizer in {loaded.path} holds no parameter of the model that can be "
            f"trained: give it model.parameters()."
        )
    own = {id(p): name for name, p in model.named_parameters()}
    if foreign := held - own.keys():
        raise RecipeError(
            f"recipe.optimizer in {loaded.path} holds {len(foreign)} tensors that are no "
            f"parameters of the model it was given."
        )
    if any("lr" not in group for group in optimizer.param_groups):
        raise RecipeError(f"recipe.optimizer in {loaded.path} has a group without lr.")
    if missing := [own[key] for key in own if key in trained - held]:
        log.warning("the optimizer leaves out %s: they keep their first values", listed(missing))


def _resident(settings: RunSettings, data: Data, device: torch.device) -> bool:
    """Whether in-memory sources are kept on the device."""
    size = _in_memory(data)
    if device.type == "cpu" or not size:
        if settings.resident is True and not size:
            raise SettingsError("resident=true: this data is not in memory. Leave resident out.")
        return False
    if settings.resident != "auto":
        return settings.resident
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return size <= RESIDENT_SHARE * free


def _in_memory(data: Data) -> int:
    both = (data.train.source, data.test.source)
    return sum(source.nbytes for source in both if isinstance(source, Resident))
