"""Numbers that are not finite: found in the step where they appear, on all processes alike.

A loss that is not finite makes its gradients NaN (`World.backward`), and the exchange of gradients
carries a NaN to every process: so the gradient is the one flag that all agree on.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.errors import NonFiniteError, RecipeError, listed
from launcher.plan import Plan
from launcher.strategy import World

MOST_SKIPPED: Final = 50


def gradient_norm(gradients: list[Tensor], clip: float | None = None) -> Tensor:
    """Euclidean norm of the whole gradient before clipping, a scalar on the device; clips to
    `clip`. No wait."""
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
    """Looks at every gradient before the update: one operation for all parameters, the one that
    an fp16 scaler has for it. On the host its answer is read at once; on other devices it is kept
    there and read when the metrics are.

    Until then a fused optimizer leaves out every update after the first bad step, by the same flag
    that an fp16 scaler gives it. Another optimizer goes on with what it has; nothing of that is
    evaluated or saved. Under fp16 the scaler looks by itself.
    """

    def __init__(
        self, world: World, plan: Plan, optimizer: Optimizer, parameters: Iterable[nn.Parameter],
        clip: float | None = None,
    ) -> None:  # fmt: skip
        """`clip` is the longest gradient, or None."""
        self._world, self._plan, self._clip = world, plan, clip
        self._parameters = tuple(parameters)
        self._complex = any(parameter.is_complex() for parameter in self._parameters)
        self._count, self._sparse = 0, False
        """Of gradients in the last step, and whether one of them was sparse."""
        self._at_once = world.device.type == "cpu"
        self._scaled = world.precision == "fp16"
        self._bad = torch.zeros((), device=world.device)
        """1 from the first bad step on."""
        self._since = torch.zeros((), device=world.device)
        """Steps since then."""
        self._one = torch.ones((), device=world.device)
        self._steps = 0
        self._fused = optimizer if optimizer.defaults.get("fused") else None
        self._skipped_in_a_row = 0
        self.skipped = 0
        """Steps that fp16's scaler left out."""

    def before_update(self, step: int, *, norm: bool) -> Tensor | None:
        """Clip the gradient, and return its norm before that if asked for.

        Raises NonFiniteError if the host can tell without waiting, and RecipeError when there is no
        gradient at all.
        """
        self.begin(step)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not gradients:
            raise RecipeError("the loss gave no parameter of the model a gradient.")
        if len(gradients) != self._count:  # the first step, or one that uses other parts
            self._count = len(gradients)
            self._sparse = any(gradient.is_sparse for gradient in gradients)
        if self._sparse:
            gradients = [_values(p) for p in self._parameters if p.grad is not None]
        if self._scaled:
            if not norm and self._clip is None:
                return None
            self._world.accelerator.unscale_gradients()
            return gradient_norm(gradients, self._clip)
        real = [*map(_real, gradients)] if self._complex else gradients
        torch._amp_foreach_non_finite_check_and_unscale_(real, self._bad, self._one)
        length = None
        if norm or self._clip is not None:
            length = gradient_norm(gradients, self._clip)
            if self._clip is not None:  # one that overflows would clip everything to nothing
                self._bad.masked_fill_(~torch.isfinite(length), 1)
        if self._at_once:
            if self._bad.item():
                self._refuse(step)
        else:
            self._since += self._bad
            if self._fused is not None:
                self._fused.found_inf = self._bad  # type: ignore[attr-defined]
        return length

    def begin(self, step: int) -> None:
        """The step whose gradient is looked at next: for a recording of `before_update`, too."""
        self._steps = step + 1

    def after_update(self, step: int, *, skipped: bool) -> None:
        """Count a step that fp16 left out: its gradient was too large for the loss scale."""
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        self.skipped += skipped
        if self._skipped_in_a_row >= MOST_SKIPPED:
            self._refuse(step)

    def before_evaluation(self, step: int, parameters: Sequence[nn.Parameter]) -> None:
        """Raises NonFiniteError instead of the score of weights that are not finite: on every
        process, since all have the same weights. Those that are not trained may be anything: a mask
        of minus infinity, or whole numbers. Waits for the device."""
        self.before_save()
        trained = [p.detach() for p in parameters if p.requires_grad and p.numel()]
        norms = [norm.float() for norm in torch._foreach_norm(trained)]
        if not torch.isfinite(torch.stack(norms)).all():
            self._refuse(step - 1)

    def before_save(self) -> None:
        """Raises NonFiniteError for anything since the last log step; waits for the device. The
        weights themselves are looked at by the saver, beside training."""
        if since := int(self._since):
            self._refuse(self._steps - since)

    def on_log(self, step: int, loss: float) -> None:
        """Raises NonFiniteError for anything since the last log step; waits for the device."""
        self.before_save()
        if not math.isfinite(loss):
            self._refuse(step - 1)

    def _refuse(self, step: int) -> NoReturn:
        raise not_finite(self._plan, step)


def _real(gradient: Tensor) -> Tensor:
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


def _values(parameter: nn.Parameter) -> Tensor:
    """Of its gradient, the numbers that are there: those of a sparse one each once, as they then
    lie in it."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient
    parameter.grad = gradient = gradient.coalesce()
    return gradient._values()


def not_finite(plan: Plan, step: int) -> NonFiniteError:
    """What to say of a step, counted from 0, that gave a number that is none."""
    return NonFiniteError(
        f"the loss or its gradient was not finite in step {step + 1} (epoch "
        f"{step // plan.steps_per_epoch + 1}), whose samples are "
        f"{listed(plan.batch(step).tolist())}. Nothing after the last checkpoint was saved. Try a "
        f"smaller learning rate, a longer warm-up or grad_clip=1, or look at these samples."
    )
