"""`launcher show`: what a command would do, without doing it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from launcher import describe, screen, settings
from launcher.build import Parts, build
from launcher.connect import connect
from launcher.errors import DataError
from launcher.explain import explained
from launcher.layers import scalar
from launcher.layout import size
from launcher.modes import evaluating
from launcher.request import Request
from launcher.run import prepare
from launcher.settings import Hparams, Origins

MIB = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A module without submodules, as one sample goes through it."""

    name: str
    kind: str
    output: tuple[int, ...]
    """For one sample."""
    parameters: int


def show(request: Request, *, as_json: bool) -> None:
    """Print every setting with its origin, the plan, the layers, and an estimate of the memory."""
    loaded, hparams, origins = prepare(request)
    if request.launch.is_main and not as_json:
        values(request, hparams, origins)
    world = connect(request.launch, hparams, request.settings)
    try:
        try:
            parts = build(loaded, hparams, request.settings, world)
        except DataError:
            if world.is_main and not as_json:
                screen.text("The plan, the layers and the memory cannot be shown without the data:")
            raise
        found = layers(parts)
        needs = memory(parts, found)
        if not world.is_main:
            return
        if as_json:
            screen.text(json.dumps(document(request, parts, origins, found, needs), indent=1))
        else:
            tables(request, parts, found, needs)
    except Exception as error:
        reason = explained(loaded.path, hparams, None, error)
        if reason is error:
            raise
        raise reason from error
    finally:
        world.close()


def layers(parts: Parts) -> list[Layer]:
    """The layers in the order in which a sample meets them, from one pass in evaluation mode."""
    found: list[Layer] = []
    names = {module: name for name, module in parts.model.named_modules()}

    def note(module: nn.Module, inputs: object, output: object) -> None:
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
        count = size(module)
        found.append(Layer(names[module], type(module).__name__, shape, count))

    hooks = [
        module.register_forward_hook(note)
        for module in parts.model.modules()
        if not any(module.children())
    ]
    with evaluating(parts.model):
        parts.recipe.loss(parts.model, parts.sample("train"))
    for hook in hooks:
        hook.remove()
    return found


def memory(parts: Parts, found: list[Layer]) -> dict[str, float]:
    """MiB on one device, estimated: weights, gradients, optimizer state, activations, data.

    The optimizer's state is measured by one step with zero gradients; activations are the layers'
    outputs of one micro-batch, in float32 or half of it, which is what a backward pass keeps at
    most. What cuDNN and the allocator add is not in it.
    """
    weights = sum(p.nbytes for p in [*parts.model.parameters(), *parts.model.buffers()])
    trained = [p for p in parts.model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    gradients = sum(p.nbytes for p in trained)
    parts.optimizer.step()
    slots = [slot for state in parts.optimizer.state.values() for slot in state.values()]
    state = sum(slot.nbytes for slot in slots if isinstance(slot, Tensor))
    width = 4 if parts.world.precision == "no" else 2
    outputs = sum(int(torch.Size(layer.output).numel()) for layer in found)
    needs = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": state,
        "activations": outputs * parts.plan.micro_batch_size * width,
        "data": parts.data_bytes if parts.resident else 0,
    }
    needs["together"] = sum(needs.values())
    return {name: size / MIB for name, size in needs.items()}


def arithmetic(parts: Parts) -> dict[str, Any]:
    """The plan in numbers."""
    plan, run = parts.plan, parts.settings
    return {
        "training samples": plan.samples,
        "batch_size": plan.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "processes": plan.processes,
        "devices per process": plan.devices,
        "accumulation": plan.accumulation,
        "steps per epoch": plan.steps_per_epoch,
        "samples left over per epoch": plan.samples % plan.batch_size,
        "epochs": plan.epochs,
        "total steps": plan.total_steps,
        "evaluate every (steps)": plan.steps(run.evaluate_every),
        "checkpoint every (steps)": plan.steps(run.checkpoint_every),
    }


def values(request: Request, hparams: Hparams, origins: Origins) -> None:
    """Every setting with its origin, for a person: before the data, which may be out of reach."""
    for title, given, sources in (
        (f"Hyperparameters of {request.path}", hparams, origins),
        ("Run settings", request.settings, request.settings_from),
    ):
        rows = ((k, scalar(v), sources[k]) for k, v in settings.recorded(given).items())
        screen.table(title, ("key", "value", "from"), rows)


def tables(request: Request, parts: Parts, found: list[Layer], needs: Mapping[str, float]) -> None:
    """The plan, the layers and the memory, for a person."""
    screen.table("Plan", ("quantity", "value"), arithmetic(parts).items())
    model_rows = (
        (layer.name or "(model)", layer.kind, " x ".join(map(str, layer.output)),
         f"{layer.parameters:,}")
        for layer in found
    )  # fmt: skip
    title = f"{type(parts.model).__name__}: {size(parts.model):,} parameters"
    screen.table(title, ("layer", "kind", "output of one sample", "parameters"), model_rows)
    estimate = ((name, f"{size:,.1f} MiB") for name, size in needs.items())
    screen.table("Memory of one device, estimated", ("what", "size"), estimate)
    screen.text(f"Runs as {describe.devices(parts)}; folder {request.label}")
    for sentence in describe.remarks(parts, request):
        screen.text(sentence)


def document(
    request: Request, parts: Parts, origins: Origins, found: list[Layer], needs: Mapping[str, float]
) -> dict[str, Any]:
    """What `show --json` prints for a program."""
    return {
        "recipe": str(request.path),
        "folder": str(request.label),
        "hyperparameters": describe.with_origins(parts.hparams, origins),
        "run_settings": describe.with_origins(parts.settings, request.settings_from),
        "plan": arithmetic(parts),
        "layers": [vars(layer) for layer in found],
        "parameters": size(parts.model),
        "memory_mib": dict(needs),
        "devices": describe.devices(parts),
    }
