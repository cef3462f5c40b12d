"""Hyperparameters, run settings, and where each value came from.

A value is set by, weakest first: the field's default, config files in the order given, `key=value`
arguments. Every layer is read as plain scalars first and validated once, so that all mistakes are
reported together, each with its layer and the nearest name that exists. Nothing here imports torch.
"""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError

from launcher import durations
from launcher.errors import SettingsError, did_you_mean, listed
from launcher.layers import Given, from_argument, scalar

Precision = Literal["no", "fp16", "bf16", "auto"]
Count = Annotated[int, Field(ge=1)]
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
    micro_batch_size: Count | None = None
    """Samples per forward pass in one process; none: batch_size / processes."""
    precision: Precision | None = None
    """Mixed precision: no, fp16, bf16, auto (bf16 on a GPU that has it, else no); none: what
    accelerate launch says."""
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    """Longest gradient, as a Euclidean norm over all parameters; none: not clipped."""
    sync_batchnorm: bool = False
    """Batch norm over all processes' micro-batches instead of each alone; needs GPUs."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run is carried out and recorded: nothing here changes what is learned."""

    name: str | None = None
    """The run's folder under checkpoints/; none: made from the recipe, the configs and the
    hyperparameters given."""
    data_dir: str = "data"
    """Where data sets lie, in torchvision's layout."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Loader processes per training process. Data in memory needs none."""
    resident: bool | Literal["auto"] = "auto"
    """Keep data that is in memory on the device: auto (when it takes at most a quarter of the
    device's free memory), true, false."""
    threads: Count | Literal["auto"] = "auto"
    """CPU threads per process; auto: cores / processes on a CPU, torch's default beside a GPU."""
    strategy: Literal["auto", "ddp", "dp"] = "auto"
    """auto: DDP when several processes were launched, DataParallel when one process sees several
    GPUs."""
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    """Mode of torch.compile."""
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
    monitor: str = "test/accuracy"
    """The metric that decides which checkpoint is best; a loss is better when it is smaller."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop in good order after this time, with exit code 75."""
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases."""
    wandb_project: str | None = None
    """Its project."""
    wandb_entity: str | None = None
    """The user or team that owns the project."""
    wandb_group: str | None = None
    """Runs with the same group are shown together."""
    wandb_tags: tuple[str, ...] = ()
    """Words to find the run by."""
    tensorboard: bool = False
    """TensorBoard event files in the run folder."""


_RUN_NAMES = tuple(field.name for field in dataclasses.fields(RunSettings))
DURATIONS = ("evaluate_every", "checkpoint_every")

# What is not built yet takes its default and refuses the rest: nobody shall believe that a setting
# has an effect which it does not have.
NOT_YET: Mapping[str, tuple[object, ...]] = {
    "workers": ("auto", 0),
    "compile": ("off",),
    "wandb": ("auto", "off"),
    "wandb_project": (None,),
    "wandb_entity": (None,),
    "wandb_group": (None,),
    "wandb_tags": ((),),
    "tensorboard": (False,),
}


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
        problems += _read(outline, rest, _RUN_NAMES)[2].values()
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
    document: dict[str, Any] = TypeAdapter(type(instance)).dump_python(instance, mode="json")
    return document


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
    values, origins, problems = _read(hints, given, known)
    required = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in origins:
            continue
        if field.default is not dataclasses.MISSING:
            problems |= _wrong_default(field.name, field.default, hints[field.name])
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


def _read(
    hints: Mapping[str, Any], given: Iterable[Given], known: Iterable[str]
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Values, origins and problems by name: the last value given for a name wins."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: dict[str, str] = {}
    for item in given:
        if item.key not in hints:
            nearest = did_you_mean(item.key, [*hints, *known])
            problems[item.key] = f"unknown setting '{item.key}' (from {item.source}).{nearest}"
            continue
        earlier = origins.get(item.key)
        origins[item.key] = f"{item.source}, over {earlier}" if earlier else item.source
        problems.pop(item.key, None)
        try:
            values[item.key] = _validate(item, hints[item.key])
        except ValueError as error:
            problems[item.key] = f"{item.key}: {error}; got {item.shown} (from {item.source})."
    return values, origins, problems


def _types(cls: type) -> dict[str, Any]:
    """Field types; a field that every recipe has keeps its bounds when a recipe redefines it."""
    hints = typing.get_type_hints(cls, include_extras=True)
    base = typing.get_type_hints(Hparams, include_extras=True)
    fields = [field.name for field in dataclasses.fields(cls)]
    if not issubclass(cls, Hparams):
        return {name: hints[name] for name in fields}
    return {name: base.get(name, hints[name]) for name in fields}


def _validate(item: Given, annotation: Any) -> Any:
    """The value as its type. Raises ValueError with the reason.

    Validation goes through JSON, in strict mode: lists may be tuples and whole numbers may be
    floats, but a float is no int, a bool is no number and a number is no text.
    """
    members = _members(annotation)
    as_typed = str in members and not (item.value is None and type(None) in members)
    value = item.text if as_typed and item.text is not None else item.value
    if item.text and not isinstance(value, list) and any(get_origin(m) is tuple for m in members):
        value = from_argument(f"{item.key}=[{item.text}]").value  # widths=64,32
    if not _finite(value):
        raise ValueError("must be a finite number")
    try:
        valid = TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        reasons = {detail["msg"].removeprefix("Input ") for detail in error.errors()}
        raise ValueError(" or ".join(sorted(reasons))) from None
    if not _finite(valid):  # a whole number too large for a float
        raise ValueError("must be a finite number")
    return valid


def _wrong_default(name: str, default: Any, annotation: Any) -> dict[str, str]:
    try:
        TypeAdapter(annotation).validate_python(default)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input ")
        return {name: f"{name}: {reason}; got {default!r} (from the class's default)."}
    return {}


def _finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, without their bounds."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _check_run(settings: RunSettings, origins: Origins) -> list[str]:
    problems: list[str] = []
    if settings.name is not None:
        try:
            check_name(settings.name, origins["name"])
        except SettingsError as error:
            problems.extend(error.problems)
    for key in DURATIONS:
        try:
            durations.parse(getattr(settings, key))
        except ValueError as error:
            value = getattr(settings, key)
            problems.append(f"{key}: {error}; got {value!r} (from {origins[key]}).")
    for key, built in NOT_YET.items():
        if getattr(settings, key) not in built:
            only = " or ".join(scalar(value) for value in built)
            value = scalar(getattr(settings, key))
            problems.append(
                f"{key}={value} (from {origins[key]}) is not built yet: give {key}={only} "
                f"or leave it out."
            )
    return problems
