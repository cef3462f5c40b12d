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

_SYNC = nullcontext()


class Passes:
    """What turns micro-batches into gradients."""

    def __init__(self, parts: Parts, wrapped: nn.Module, *, repeatable: bool = False) -> None:
        """`wrapped` is the model as `World.prepare` gave it; `repeatable` remembers what `undo`
        needs, a copy of the model's buffers in each step."""
        world, plan = parts.world, parts.plan
        self._world, self._model, self._wrapped = world, parts.model, wrapped
        self._loss, self._seeds = parts.recipe.loss, Seeds(plan)
        self._seed, self._passes = plan.seed, plan.accumulation
        self._share = 1 / plan.accumulation
        self._plain = world.precision == "no"
        self._buffers = StepAverage(
            parts.model, plan.accumulation, world.processes, remember=repeatable
        )

    def run(self, micro_batches: Iterator[tuple[Ticket, Batch]]) -> list[Tensor]:
        """All passes of one step. Returns each one's mean loss, a scalar on the device."""
        world, buffers, losses = self._world, self._buffers, []
        buffers.begin_step()
        for number in range(1, self._passes + 1):
            ticket, batch = next(micro_batches)
            world.watch.beat()
            world.seed(self._seeds(ticket))  # for dropout
            draws.begin(self._seed, ticket.step)
            buffers.begin_pass()
            with _SYNC if number == self._passes else world.no_sync(self._wrapped):
                loss = self.forward(batch)
                world.watch.beat()  # before the exchange with other processes
                self.backward(loss)
            buffers.end_pass()
            losses.append(loss.detach())
        buffers.end_step(world.total)
        return losses

    def forward(self, batch: Batch) -> Tensor:
        """The loss of one micro-batch, a scalar with its graph."""
        if self._plain:
            return self._loss(self._wrapped, batch)
        with self._world.autocast():
            return self._loss(self._wrapped, batch)

    def backward(self, loss: Tensor) -> None:
        """Add its share of the step's gradient to the parameters'."""
        self._world.backward(loss, self._share)

    def undo(self) -> None:
        """Forget the gradients, and set the buffers to what they were before the step. Only for
        passes that were made `repeatable`."""
        for parameter in self._model.parameters():
            parameter.grad = None
        self._buffers.undo()
