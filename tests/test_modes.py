"""A model out of training for a moment."""

import torch
from torch import nn

from launcher.modes import evaluating


def test_every_module_comes_back_in_its_own_mode() -> None:
    """A recipe may freeze a part: `model.train()` would wake it."""
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()
