"""Numbers that are not finite: found in the step where they appear, on all processes alike.

A loss that is not finite makes its gradients NaN (`World.backward`), and the exchange of gradients
carries a NaN to every process: so the norm of the gradient is the one flag that all agree on.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.errors import NonFiniteError, RecipeError, listed
from launcher.plan import Plan
from launcher.strategy import World

MOST_SKIPPED: Final = 50
_NEVER: Final = 2**62


def gradient_norm(world: World, parameters: Sequence[nn.Parameter], clip: float | None) -> Tensor:
    """Euclidean norm of the whole gradient before clipping, a scalar on the device; clips to
    `clip`. One kernel for all parameters, and no wait."""
    if world.precision == "fp16":
        world.accelerator.unscale_gradients()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        raise RecipeError("the loss gave no parameter of the model a gradient.")
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if clip is not None:
        torch._foreach_mul_(gradients, torch.clamp(clip / (norm + 1e-6), max=1.0))
    return norm


def finite_factor(factor: Any, step: int) -> float:
    """A schedule's factor. Raises RecipeError unless it is a finite number."""
    if isinstance(factor, int | float) and math.isfinite(factor):
        return float(factor)
    raise RecipeError(
        f"recipe.schedule must return a finite number; in step {step + 1} it returned {factor!r}."
    )


class Guard:
    """Watches the gradient norm. On the host it is looked at in every step, before the update; on
    other devices it is kept there and looked at when the metrics are.

    Until then a fused optimizer leaves out every update after the first bad step, by the same flag
    that an fp16 scaler gives it. Another optimizer goes on with what it has; nothing of that is
    evaluated or saved.
    """

    def __init__(self, world: World, plan: Plan, optimizer: Optimizer) -> None:
        self._plan = plan
        self._at_once = world.device.type == "cpu"
        self._scaled = world.precision == "fp16"
        self._fused = optimizer if optimizer.defaults.get("fused") else None
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=world.device)
        self._skipped_in_a_row = 0
        self.skipped = 0
        """Steps that fp16's scaler left out."""

    def before_update(self, step: int, norm: Tensor) -> None:
        """Raises NonFiniteError if the host can tell without waiting."""
        if self._at_once:
            if not math.isfinite(norm.item()):
                self._refuse(step)
        elif not self._scaled:
            bad = torch.where(torch.isfinite(norm), _NEVER, step)
            self._first_bad = torch.minimum(self._first_bad, bad)
            if self._fused is not None:
                self._fused.found_inf = (self._first_bad != _NEVER).float()  # type: ignore[attr-defined]

    def after_update(self, step: int, *, skipped: bool) -> None:
        """Count a step that fp16 left out: its gradient was too large for the loss scale."""
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        self.skipped += skipped
        if self._skipped_in_a_row >= MOST_SKIPPED:
            self._refuse(step)

    def before_evaluation(self, step: int, parameters: Sequence[nn.Parameter]) -> None:
        """Raises NonFiniteError instead of the score of weights that are not finite: on every
        process, since all have the same weights. Waits for the device."""
        self.before_save()
        norms = torch._foreach_norm([p.detach() for p in parameters if p.numel()])
        if not torch.isfinite(torch.stack([norm.float() for norm in norms])).all():
            self._refuse(step - 1)

    def before_save(self) -> None:
        """Raises NonFiniteError for anything since the last log step; waits for the device. The
        weights themselves are looked at by the saver, beside training."""
        first = int(self._first_bad)
        if first != _NEVER:
            self._refuse(first)

    def on_log(self, step: int, loss: float) -> None:
        """Raises NonFiniteError for anything since the last log step; waits for the device."""
        self.before_save()
        if not math.isfinite(loss):
            self._refuse(step - 1)

    def _refuse(self, step: int) -> NoReturn:
        raise not_finite(self._plan, step)


def not_finite(plan: Plan, step: int) -> NonFiniteError:
    """What to say of a step, counted from 0, that gave a number that is none."""
    return NonFiniteError(
        f"the loss or its gradient was not finite in step {step + 1} (epoch "
        f"{step // plan.steps_per_epoch + 1}), whose samples are "
        f"{listed(plan.batch(step).tolist())}. Nothing after the last checkpoint was saved. Try a "
        f"smaller learning rate, a longer warm-up or grad_clip=1, or look at these samples."
    )
