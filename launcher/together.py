"""Several models and optimizers as one of each, for a checkpoint.

    generator.0.weight               in model.safetensors
    generator.0.weight/exp_avg       in optimizer.safetensors

A parameter is named by its model and its place there, and its optimizer's state by the parameter.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from launcher.errors import RecipeError


class Together:
    """The optimizers of a loop of one's own, by name, where a checkpoint expects one of torch's.

    Their parameter groups come one after another; each parameter's state is in its own optimizer.
    """

    def __init__(self, models: nn.ModuleDict, optimizers: Mapping[str, Optimizer]) -> None:
        """Raises RecipeError for a parameter in two optimizers, or in none of the models: what
        belongs to nobody, or to two, could not be restored."""
        self.state = _States()
        self.optimizers = tuple(optimizers.values())
        self.param_groups: list[dict[str, Any]] = []
        self.kind = ", ".join(f"{name} {type(one).__name__}" for name, one in optimizers.items())
        """What must be equal when a run continues."""
        names = {parameter: name for name, parameter in models.named_parameters()}
        for name, optimizer in optimizers.items():
            self.param_groups += optimizer.param_groups
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                if parameter not in names:
                    raise RecipeError(
                        f"the optimizer {name!r} has a parameter of none of the models "
                        f"{', '.join(models)}: its state could not be saved by name."
                    )
                if parameter in self.state.owners:
                    raise RecipeError(
                        f"{names[parameter]} is in two optimizers, {name!r} is one of them: a "
                        f"checkpoint holds one state for each parameter."
                    )
                self.state.owners[parameter] = optimizer


class _States:
    """`optimizer.state` of whichever optimizer has the parameter."""

    def __init__(self) -> None:
        self.owners: dict[nn.Parameter, Optimizer] = {}

    def __getitem__(self, parameter: nn.Parameter) -> dict[str, Any]:
        state: dict[str, Any] = self.owners[parameter].state[parameter]
        return state

    def get(self, parameter: nn.Parameter, default: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter, of which an optimizer may have none before its first step."""
        owner = self.owners.get(parameter)
        return default if owner is None else owner.state.get(parameter, default)


def kind_of(optimizer: Optimizer | Together) -> str:
    """The class of an optimizer, or the name and class of each of several."""
    return optimizer.kind if isinstance(optimizer, Together) else type(optimizer).__name__
