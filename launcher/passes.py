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
    passes.compute = captured              # both passes at once

`first` is called once, before the first pass, with its micro-batch: to try another way to compute.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn

from launcher import draws
from launcher.buffers import StepAverage
from launcher.build import Parts
from launcher.data import Batch
from launcher.layout import computing
from launcher.matching import NoOutput
from launcher.modes import remembered
from launcher.plan import Seeds, Ticket

_SYNC = nullcontext()


class Passes:
    """What turns micro-batches into gradients."""

    def __init__(self, parts: Parts, wrapped: nn.Module, *, repeatable: bool = False) -> None:
        """`wrapped` is the model as `World.prepare` gave it; `repeatable` remembers what `undo`
        needs, a copy of the model's buffers in each step."""
        world, plan = parts.world, parts.plan
        self._world, self._model, self.wrapped = world, parts.model, wrapped
        self.first: Callable[[Ticket, Batch], None] | None = None
        self._loss, self._seeds = parts.recipe.loss, Seeds(plan)
        self._seed, self._passes = plan.seed, plan.accumulation
        self._share = 1 / plan.accumulation
        self._parameters = tuple(parts.model.parameters())
        self._plain, self._layout = world.precision == "no", parts.layout
        self._buffers = StepAverage(
            parts.model, plan.accumulation, world.processes, remember=repeatable
        )

    def run(self, micro_batches: Iterator[tuple[Ticket, Batch]]) -> list[Tensor]:
        """All passes of one step. Returns each one's mean loss, a scalar on the device."""
        world, buffers, losses = self._world, self._buffers, []
        buffers.begin_step()
        with computing(self._layout):
            for number in range(1, self._passes + 1):
                ticket, batch = next(micro_batches)
                if self.first is not None:
                    self._try(ticket, batch)
                self._begin(ticket)
                buffers.begin_pass()
                with _SYNC if number == self._passes else world.no_sync(self.wrapped):
                    try:
                        loss = self.compute(batch)
                    except NoOutput as error:
                        raise error.of("train", ticket.samples) from None
                buffers.end_pass()
                losses.append(loss.detach())
        buffers.end_step(world.total)
        return losses

    def run_by(
        self, compute: Callable[[Batch], Tensor], micro_batches: Iterator[tuple[Ticket, Batch]]
    ) -> Tensor:
        """A step of one micro-batch in one process, by something that makes all of it."""
        ticket, batch = next(micro_batches)
        self._begin(ticket)
        return compute(batch)

    def compute(self, batch: Batch) -> Tensor:
        """Both passes of one micro-batch. Returns its loss."""
        loss = self.forward(batch)
        self._world.watch.beat()  # before the exchange with other processes
        self.backward(loss)
        return loss

    def forward(self, batch: Batch) -> Tensor:
        """The loss of one micro-batch, a scalar with its graph."""
        if self._plain:
            return self._loss(self.wrapped, batch)
        with self._world.autocast():
            return self._loss(self.wrapped, batch)

    def backward(self, loss: Tensor) -> None:
        """Add its share of the step's gradient to the parameters'."""
        self._world.backward(loss, self._share)

    def undo(self) -> None:
        """Forget the gradients, and set the buffers to what they were before the step. Only for
        passes that were made `repeatable`."""
        self.forget()
        self._buffers.undo()

    def forget(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def rehearse(self, ticket: Ticket, batch: Batch) -> tuple[Tensor, list[Tensor | None]]:
        """The loss and the gradients of one micro-batch, in this process alone; of all that,
        nothing stays behind in the model."""
        with self.unchanged(), self._world.no_sync(self.wrapped):
            self._world.seed(self._seeds(ticket))
            draws.begin(self._seed, ticket.step)
            loss = self.compute({name: value.clone() for name, value in batch.items()})
            found = [None if p.grad is None else p.grad.clone() for p in self._parameters]
            return loss.detach().clone(), found

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """The model, without gradients, as it was before: passes move buffers, and perhaps
        parameters, as those of a teacher that follows."""
        put_back = remembered(self._model)
        try:
            yield
        finally:
            self.forget()
            put_back()

    def _begin(self, ticket: Ticket) -> None:
        self._world.watch.beat()
        self._world.seed(self._seeds(ticket))  # for dropout
        draws.begin(self._seed, ticket.step)

    def _try(self, ticket: Ticket, batch: Batch) -> None:
        first, self.first = self.first, None
        if first is not None:
            first(ticket, batch)
