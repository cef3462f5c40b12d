"""An optimizer's state by parameter name, and what training changed in its groups.

Torch's own `load_state_dict` matches by position: parameters that changed places would take each
other's momentum without a word.
"""

import math
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.errors import CheckpointError
from launcher.together import Together, kind_of

PLAIN: Final = (int, float, bool, str, type(None))
"""Types of what a parameter group holds that is saved."""


def slots_of(
    model: nn.Module, optimizer: Optimizer | Together
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors and numbers, for JSON, as `parameter.name/slot`; groups are the
    recipe's. None is among the numbers.

    Raises CheckpointError for what would not come back.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            key = f"{name}/{slot}"
            if (read := parted(key, parameters)) != (name, slot):
                raise CheckpointError(
                    f"{kind_of(optimizer)} keeps state of {name} under {slot!r}, which would come "
                    f"back under {read[1]!r} of {read[0]}: give it another key, a string."
                )
            if isinstance(value, Tensor):
                tensors[key] = value
            elif value is None or isinstance(value, int | float):
                numbers[key] = _for_json(value)
            else:
                raise CheckpointError(
                    f"{kind_of(optimizer)} keeps {slot} of {name} as "
                    f"{type(value).__name__}: only tensors and numbers can be saved."
                )
    return tensors, numbers


def parted(key: str, parameters: Container[str]) -> tuple[str, str]:
    """The parameter and the slot that a key is made of. Both may hold slashes: the longest name
    that there is."""
    name, _, slot = whole = key.rpartition("/")
    while name not in parameters:
        if "/" not in name:
            return whole[0], whole[2]
        name, _, more = name.rpartition("/")
        slot = f"{more}/{slot}"
    return name, slot


def put_slots(
    slots: Mapping[str, Mapping[str, Any]],
    name_of: Mapping[nn.Parameter, str],
    optimizer: Optimizer | Together,
) -> None:
    """Give each parameter the slots that belong to its name."""
    for group in optimizer.param_groups:
        on_device = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            values = slots.get(name_of.get(parameter, ""), {})
            for slot, value in values.items():
                optimizer.state[parameter][slot] = _beside(parameter, slot, value, on_device)


def _beside(parameter: Tensor, slot: str, value: Any, on_device: bool) -> Any:
    """A slot where the optimizer wants it: on the parameter's device and in its memory format; a
    step count stays on the host unless the optimizer is fused or capturable, as torch has it."""
    if not isinstance(value, Tensor):
        return value
    if slot == "step":
        return value.to(parameter.device) if on_device else value
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def group_values(optimizer: Optimizer | Together) -> list[dict[str, Any]]:
    """What each parameter group holds that JSON can, but parameters and learning rate."""
    return [
        {
            key: _for_json(value)
            for key, value in group.items()
            if isinstance(key, str) and key not in ("params", "lr") and _is_plain(value)
        }
        for group in optimizer.param_groups
    ]


def _is_plain(value: Any) -> bool:
    """Whether JSON brings it back as it was, which it does not with a named tuple."""
    if type(value) in (tuple, list):
        return all(isinstance(part, PLAIN) for part in value)
    return isinstance(value, PLAIN)


def group_changes(
    optimizer: Optimizer | Together, first: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What training changed in the groups: some optimizers count or average there."""
    return [
        {key: value for key, value in now.items() if key not in before or before[key] != value}
        for now, before in zip(group_values(optimizer), first, strict=True)
    ]


def put_groups(optimizer: Optimizer | Together, changes: Iterable[Mapping[str, Any]]) -> None:
    """Give each group what training had changed in it."""
    for group, changed in zip(optimizer.param_groups, changes, strict=False):
        group.update(numbers(changed))


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON held, as they were."""
    return {name: _from_json(value) for name, value in values.items()}


def _for_json(value: Any) -> Any:
    """JSON has no infinity, noted as `{"float": "inf"}`, and no tuple, noted as `{"tuple": []}`."""
    if isinstance(value, list):
        return [_for_json(part) for part in value]
    if isinstance(value, tuple):
        return {"tuple": [_for_json(part) for part in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(part) for part in value]
    if isinstance(value, dict) and isinstance(value.get("tuple"), list):
        return tuple(_from_json(value["tuple"]))
    noted = value.get("float") if isinstance(value, dict) else None
    return float(noted) if isinstance(noted, str) else value
