"""Parameter groups by role."""

from typing import Any

from torch import nn


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
