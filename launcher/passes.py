"""The forward and backward passes of one step: all its micro-batches in this process.

`run` takes the next micro-batches and leaves their gradients, added up and exchanged, in the
parameters; `undo` takes everything back that it did to the model, so that a step can be repeated,
with the same samples from a feed that starts at this step, in other parts if need be. The pieces of
a pass are methods, `forward` and `backward`, so that something else can stand in their place or
measure them:

    passes = Passes(parts, wrapped)
    losses = passes.run(micro_batches)     # one for each micro-batch
    passes.undo()                          # as if `run` had not been called
    passes.forward = timed(passes.forward)
"""

from collections.abc import Iterator
from contextlib import nullcontext

from torch import Tensor, nn

from launcher import draws
from launcher.buffers import StepAverage
from launcher.build import Parts
from launcher.data import Batch
from launcher.plan import Seeds, Ticket


class Passes:
    """What turns micro-batches into gradients."""

    def __init__(self, parts: Parts, wrapped: nn.Module, *, repeatable: bool = False) -> None:
        """`wrapped` is the model as `World.prepare` gave it; `repeatable` remembers what `undo`
        needs, a copy of the model's buffers in each step."""
        self._world, self._plan, self._model = parts.world, parts.plan, parts.model
        self._wrapped, self._loss = wrapped, parts.recipe.loss
        self._seeds = Seeds(self._plan)
        self._buffers = StepAverage(
            parts.model, self._plan.accumulation, self._world.processes, remember=repeatable
        )

    def run(self, micro_batches: Iterator[tuple[Ticket, Batch]]) -> list[Tensor]:
        """All passes of one step. Returns each one's mean loss, a scalar on the device."""
        world, losses = self._world, []
        self._buffers.begin_step()
        for remaining in reversed(range(self._plan.accumulation)):
            ticket, batch = next(micro_batches)
            world.watch.beat()
            world.seed(self._seeds(ticket))  # for dropout
            draws.begin(self._plan.seed, ticket.step)
            self._buffers.begin_pass()
            with world.no_sync(self._wrapped) if remaining else nullcontext():
                loss = self.forward(batch)
                world.watch.beat()  # before the exchange with other processes
                self.backward(loss)
            self._buffers.end_pass()
            losses.append(loss.detach())
        self._buffers.end_step(world.total)
        return losses

    def forward(self, batch: Batch) -> Tensor:
        """The loss of one micro-batch, a scalar with its graph."""
        with self._world.autocast():
            return self._loss(self._wrapped, batch)

    def backward(self, loss: Tensor) -> None:
        """Add its share of the step's gradient to the parameters'."""
        self._world.backward(loss, 1 / self._plan.accumulation)

    def undo(self) -> None:
        """Forget the gradients, and set the buffers to what they were before the step. Only for
        passes that were made `repeatable`."""
        for parameter in self._model.parameters():
            parameter.grad = None
        self._buffers.undo()
