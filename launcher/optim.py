"""Parameter groups by role."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from launcher.errors import RecipeError, did_you_mean


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices and filters with weight decay, norms and biases without (He
    et al.: Bag of Tricks for Image Classification, CVPR 2019, section 3.1, no bias decay).

    Parameters that need no gradient are in neither; an empty group is left out.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def layer_groups(
    model: nn.Module, lr: float, rates: Mapping[str, float], weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameter groups with learning rates of their own, each as `decay_groups` makes them.

    `rates` are factors on `lr` by the names of the model's direct parts, and "" for all others:
    `{"fc": 1, "": 0.1}` trains the body with a tenth of the head's rate, `{"fc": 1, "layer4": 1 /
    2.6, "layer3": 1 / 2.6**2, "": 1 / 2.6**3}` each stage with less than the one above (Howard,
    Ruder: Universal Language Model Fine-tuning for Text Classification, ACL 2018, section 3.2,
    discriminative fine-tuning). A factor of 0 leaves a part as it is, but for its buffers.

    Raises RecipeError for a name that the model has not, and for a part without a factor.
    """
    children = dict(model.named_children())
    for name in rates:
        if name and name not in children:
            raise RecipeError(
                f"layer_groups: the model has no part {name!r}.{did_you_mean(name, [*children])}"
            )
    groups: list[dict[str, Any]] = []
    for name, rate in rates.items():
        named = {id(p) for p in children[name].parameters()} if name else set()
        others = {id(p) for key in rates if key for p in children[key].parameters()}
        mine = [
            group | {"params": [p for p in group["params"] if _belongs(p, name, named, others)]}
            for group in decay_groups(model, weight_decay)
        ]
        groups += [group | {"lr": lr * rate} for group in mine if group["params"]]
    held = {id(p) for group in groups for p in group["params"]}
    if missing := [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]:
        raise RecipeError(f'layer_groups: no factor for {missing[0]}: give one for "", the rest.')
    return groups


def _belongs(parameter: nn.Parameter, name: str, named: set[int], others: set[int]) -> bool:
    return id(parameter) in named if name else id(parameter) not in others
