"""Hyperparameters, run settings, and where each value came from.

A value is set by, weakest first: the field's default, config files in the order given, `key=value`
arguments. Every layer is read as plain scalars first and validated once, so that all mistakes are
reported together, each with its layer and the nearest name that exists. Nothing here imports torch.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from launcher import durations, mirrors, secret
from launcher.errors import SettingsError, listed
from launcher.layers import Given
from launcher.validate import read, wrong_default

Precision = Literal["no", "fp16", "bf16", "auto"]
Count = Annotated[int, Field(ge=1, le=10**9)]
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,99}")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Hparams:
    """What is learned: the hyperparameters that every recipe has. A recipe adds its own."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides the first weights, the order of the samples, augmentation and dropout."""
    epochs: Count
    """Passes over the training split, in whole batches."""
    batch_size: Count
    """Samples per optimizer step, over all processes."""
    micro_batch_size: Count | Literal["auto"] | None = None
    """Samples per forward pass in one process; none: batch_size / processes; auto: the same, halved
    until it fits into memory, which is tried before the first step."""
    precision: Precision | None = None
    """Mixed precision: no, fp16, bf16, auto (bf16 on a GPU that has it, else no); none: what
    accelerate launch says."""
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    """Longest gradient, as a Euclidean norm over all parameters; none: not clipped."""
    sync_batchnorm: bool = False
    """Batch norm over all processes' micro-batches instead of each alone; needs GPUs."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate an exponential average of the weights, with this decay (0.999), in their place, and
    save it beside them; none: the weights themselves."""
    find_unused_parameters: bool = False
    """Let a pass leave out parameters, as a network does that decides in `forward` what it is made
    of: several processes (DDP) then look for them in each pass, and refuse them otherwise."""
    patience: Count | None = None
    """Evaluations in a row without a new best score of `monitor` after which the run ends; none: it
    goes on to the end of its plan."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run is carried out and recorded: nothing here changes what is learned."""

    name: str | None = None
    """The run's folder under checkpoints/; none: made from the recipe, the configs and the
    hyperparameters given."""
    data_dir: str = "data"
    """Where data sets lie, in torchvision's layout."""
    mirror: str | None = None
    """A URL (http, https, file) that data sets are downloaded from first, laid out as data_dir:
    URL/MNIST/raw/train-images-idx3-ubyte.gz, URL/cifar-10-python.tar.gz."""
    workers: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """Loader processes per training process. Data in memory needs none."""
    resident: bool | Literal["auto"] = "auto"
    """Keep data that is in memory on the device: auto (when it takes at most a quarter of the
    device's free memory), true, false."""
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """CPU threads per process; auto: on a CPU cores / processes, or one for small networks in
    micro-batches of at most 4; beside a GPU torch's default."""
    strategy: Literal["auto", "ddp", "dp"] = "auto"
    """auto: DDP when several processes were launched, DataParallel when one process sees several
    GPUs."""
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    """Mode of torch.compile, for training passes; a model that cannot be compiled is trained as it
    is."""
    layout: Literal["auto", "contiguous", "channels_last", "native"] = "auto"
    """How filters lie in memory; contiguous: as the recipe has them; native: the same, and without
    oneDNN, on a CPU. auto: native for small networks in micro-batches of at
    most 4 on one thread, else channels_last on a CPU and for large networks on a GPU, else as the
    recipe has it."""
    graphs: Literal["auto", "off"] = "auto"
    """Replay a small model's steps as a CUDA graph, where there is one GPU and one process; off for
    a recipe whose loss or network does something in Python that differs from step to step."""
    tf32: bool | None = None
    """Whether float32 products on GPUs may round their inputs to 10 bits of mantissa; none: as
    torch does by itself, in convolutions."""
    log_every: Count = 50
    """Steps between two lines in metrics.jsonl; fewer when an epoch is short."""
    evaluate_every: str = "1 epoch"
    """A duration: 200 (steps), 1 epoch, 5 % (of the run)."""
    checkpoint_every: str = "1 epoch"
    """A duration. A checkpoint is also written at the end."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Longest time between two checkpoints."""
    keep: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints kept, beside the best."""
    monitor: str = "auto"
    """The metric that decides which checkpoint is best; auto: test/accuracy if the recipe has it,
    else test/loss, else its first. The recipe's `better` says which way is better."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop in good order after this time, with exit code 75."""
    timeout: Annotated[float, Field(ge=1, le=10**6)] = 600.0
    """Seconds without any progress, or without an answer from another process, after which the run
    is ended with exit code 9."""
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases; auto: what WANDB_MODE says, else online when logged in, offline when
    not."""
    wandb_project: str | None = None
    """Its project; none: what WANDB_PROJECT says, else launcher."""
    wandb_entity: str | None = None
    """The user or team that owns the project."""
    wandb_group: str | None = None
    """Runs with the same group are shown together."""
    wandb_tags: tuple[str, ...] = ()
    """Words to find the run by."""
    wandb_artifact: bool = False
    """Pass the best checkpoint on to W&B too, at the end."""
    tensorboard: bool = False
    """TensorBoard event files in the run folder; needs the package tensorboard."""


_RUN_NAMES = tuple(field.name for field in dataclasses.fields(RunSettings))
DURATIONS = ("evaluate_every", "checkpoint_every")

# What is not built yet takes its default and refuses the rest: nobody shall believe that a setting
# has an effect which it does not have.
NOT_YET: Mapping[str, tuple[object, ...]] = {}


@dataclass(frozen=True)
class Origins:
    """Where each value came from, by field name: `default`, `config FILE:LINE`, `argument`."""

    of: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.of.get(name, "default")


def split(given: Iterable[Given]) -> tuple[list[Given], list[Given]]:
    """Values for run settings, and the rest: hyperparameters, or names that do not exist."""
    pairs = list(given)
    return [g for g in pairs if g.key in _RUN_NAMES], [g for g in pairs if g.key not in _RUN_NAMES]


def resolve_run(
    given: Iterable[Given], outline: Mapping[str, Any] | None = None, rest: Iterable[Given] = ()
) -> tuple[RunSettings, Origins]:
    """The run settings. Raises SettingsError with everything that is wrong with them, and with the
    `rest` as far as an outline of the recipe's hyperparameters, names and types, can tell."""
    settings, origins, problems = _resolve(RunSettings, given, known=())
    if settings is not None:
        problems = _check_run(settings, origins)
    if outline is not None:
        problems += read(outline, rest, _RUN_NAMES)[2].values()
    if problems or settings is None:
        raise SettingsError(*problems)
    return settings, origins


def resolve_hparams(cls: type[T], given: Iterable[Given]) -> tuple[T, Origins]:
    """A recipe's hyperparameters. Raises SettingsError with everything that is wrong with them."""
    hparams, origins, problems = _resolve(cls, given, _RUN_NAMES)
    if problems or hparams is None:
        raise SettingsError(*problems)
    return hparams, origins


def as_json(instance: Any) -> dict[str, Any]:
    """Every field with a value that JSON can hold."""
    try:
        document: dict[str, Any] = TypeAdapter(type(instance)).dump_python(instance, mode="json")
        json.dumps(document, allow_nan=False)
    except (PydanticUserError, PydanticSerializationError, ValueError, TypeError) as error:
        raise SettingsError(f"{type(instance).__name__} cannot be recorded: {error}.") from error
    if isinstance(instance, RunSettings) and instance.mirror is not None:
        document["mirror"] = mirrors.redacted(instance.mirror)
    return document


def recorded(instance: Any) -> dict[str, Any]:
    """Every field as it may be written or shown: `as_json`, without what is named like a secret."""
    return {key: secret.redacted(key, value) for key, value in as_json(instance).items()}


def from_json(cls: type[T], text: str) -> T:
    """What `as_json` gave, as an instance again."""
    return TypeAdapter(cls).validate_json(text)


def check_name(name: str, source: str) -> str:
    """A run name that is safe as a folder. Raises SettingsError."""
    if not RUN_NAME.fullmatch(name):
        raise SettingsError(
            f"name={name!r} (from {source}) cannot be a folder under checkpoints/: use letters, "
            f"digits and ._=,+- only, a letter or digit first, at most 100 characters."
        )
    return name


def _resolve(
    cls: type[T], given: Iterable[Given], known: Iterable[str]
) -> tuple[T | None, Origins, list[str]]:
    hints = _types(cls)
    values, origins, problems = read(hints, given, known)
    required = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in origins:
            continue
        if field.default is not dataclasses.MISSING:
            problems |= wrong_default(field.name, field.default, hints[field.name])
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
    if required:
        problems[""] = f"no value for {listed(required)}: give it as {required[0]}=VALUE."
    if problems:
        return None, Origins(origins), list(problems.values())
    try:
        return cls(**values), Origins(origins), []
    except (ValueError, TypeError) as error:  # a recipe's own __post_init__
        return None, Origins(origins), [f"{cls.__name__}: {error}"]


def _types(cls: type) -> dict[str, Any]:
    """Field types; a field that every recipe has keeps its bounds when a recipe redefines it."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
        for annotation in hints.values():
            TypeAdapter(annotation)
    except (NameError, TypeError, PydanticUserError) as error:
        raise SettingsError(
            f"{cls.__name__} has a field whose type cannot be read from text: {error}."
        ) from error
    base = typing.get_type_hints(Hparams, include_extras=True)
    fields = [field.name for field in dataclasses.fields(cls)]
    if not issubclass(cls, Hparams):
        return {name: hints[name] for name in fields}
    return {name: base.get(name, hints[name]) for name in fields}


def _check_run(settings: RunSettings, origins: Origins) -> list[str]:
    problems: list[str] = []
    if settings.name is not None:
        try:
            check_name(settings.name, origins["name"])
        except SettingsError as error:
            problems.extend(error.problems)
    if settings.mirror is not None and (reason := mirrors.problem(settings.mirror)):
        shown = "" if "@" in settings.mirror else f"; got {settings.mirror!r}"
        problems.append(f"mirror: {reason}{shown} (from {origins['mirror']}).")
    for key in DURATIONS:
        try:
            durations.parse(getattr(settings, key))
        except ValueError as error:
            value = getattr(settings, key)
            problems.append(f"{key}: {error}; got {value!r} (from {origins[key]}).")
    return problems
