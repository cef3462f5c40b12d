"""A model out of training for a moment."""

import torch
from torch import Tensor, nn

from launcher.modes import evaluating, remembered


def test_every_module_comes_back_in_its_own_mode() -> None:
    """A recipe may freeze a part: `model.train()` would wake it."""
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


class Moving(nn.Module):
    """Whose passes move all that a module can have."""

    mean: Tensor
    grown: Tensor
    late: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.ones(2))
        self.teacher = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("mean", torch.ones(2))
        self.register_buffer("grown", torch.ones(1), persistent=False)
        self.register_buffer("late", None)
        self.again = self.teacher

    @torch.no_grad()
    def forward(self) -> None:
        self.trained.mul_(2)
        self.teacher.lerp_(self.trained, 0.1)
        self.mean += 1
        self.grown = torch.cat([self.grown, self.grown])
        self.late = torch.ones(3)


def test_a_model_is_put_back_as_it_was() -> None:
    moving = Moving()
    model = nn.Sequential(moving)
    first = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    put_back = remembered(model)
    moving()
    moving()
    put_back()
    now = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert now.keys() == first.keys()
    assert all(now[name] is first[name] for name in first)
    assert all((value == 1).all() for value in now.values())
    assert moving.late is None
    assert moving.again is moving.teacher
