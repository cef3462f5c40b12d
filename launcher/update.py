"""The update of one step: its passes, the check of the gradient, and the optimizer.

Operation by operation, or, where a small network on a GPU would wait for the host, as one CUDA
graph: what is left to the host is to hand over the batch, the seed and the learning rates. The
graph is recorded when a first step has made the optimizer's state. Steps whose gradient's norm is
asked for are still made by parts, with the same kernels in the same order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from launcher import graphs, rng, ways
from launcher.build import Parts
from launcher.data import Batch
from launcher.guard import Guard
from launcher.meter import Meter
from launcher.passes import Passes
from launcher.plan import Ticket

_RECORDABLE: Final = (SGD, Adam, AdamW)
"""Optimizers whose fused form reads the learning rate and the count of steps from the device."""
_HOOKS: Final = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")

MicroBatches = Iterator[tuple[Ticket, Batch]]


class Update:
    """Makes one step after another."""

    def __init__(
        self, parts: Parts, passes: Passes, guard: Guard, stepper: Optimizer, meter: Meter,
        say: Callable[[str], None], record: graphs.Record = graphs.record_once,
    ) -> None:  # fmt: skip
        """`stepper` is the optimizer as `World.prepare` gave it; `say` shows one line."""
        self._world, self._optimizer = parts.world, parts.optimizer
        self.passes, self.guard, self.stepper, self._meter = passes, guard, stepper, meter
        self._say, self._record = say, record
        self._whole: _Whole | None = None
        self._draws, self._seed = may_draw(parts.optimizer), parts.plan.seed
        alone = parts.plan.accumulation == 1 and ways.records(parts)
        self._to_record = alone and recordable(parts.optimizer)
        if self._to_record:
            rates_on(parts.world.device, parts.optimizer)

    def __call__(self, step: int, micro_batches: MicroBatches, *, norm: bool) -> Tensor | None:
        """One step. Returns the gradient's norm, a scalar on the device, if it is asked for.

        Raises NonFiniteError and RecipeError as `Guard.before_update` does.
        """
        if self._whole is not None and not norm:
            self.guard.begin(step)
            self._meter.add(self.passes.run_by(self.replay, micro_batches))
            return None
        for loss in self.passes.run(micro_batches):
            self._meter.add(loss)
        length = self.guard.before_update(step, norm=norm)
        if self._draws:
            self._world.seed_alike(rng.fold(self._seed, rng.UPDATE, step) >> 1)
        self.stepper.step()
        self.guard.after_update(step, skipped=self._world.skipped())
        self.passes.forget()
        if self._to_record:
            self._to_record = False
            self._begin_replays(step)
        return length if norm else None

    def replay(self, batch: Batch) -> Tensor:
        """A step as it was recorded. Returns its loss, in a place that the next step overwrites."""
        assert self._whole is not None
        return self._whole(batch)

    def _begin_replays(self, step: int) -> None:
        graph = self.passes.compute
        if not isinstance(graph, graphs.Graph):
            return  # passes that cannot be recorded, or need not be
        try:
            self._whole = _Whole(graph, self.guard, self._optimizer, step, self._record)
        except RuntimeError as error:
            self._say(f"graphs=auto: the optimizer stays outside of the graph: {ways.brief(error)}")


class _Whole:
    """A step as one graph."""

    def __init__(
        self, graph: graphs.Graph, guard: Guard, optimizer: Optimizer, step: int,
        record: graphs.Record,
    ) -> None:  # fmt: skip
        """`graph` holds the passes. Raises RuntimeError for what cannot be recorded."""

        def everything() -> Tensor:
            with graph.fresh() as loss:
                guard.before_update(step, norm=False)
                optimizer.step()
            return loss

        self._graph = graph
        with _capturable(optimizer):
            self._play, self._loss = record(everything)

    def __call__(self, batch: Batch) -> Tensor:
        self._graph.take(batch)
        self._play()
        return self._loss


def recordable(optimizer: Optimizer) -> bool:
    """Whether a recorded step of the optimizer would do what each step does: it is one of torch's
    own in its fused form, and no hook of somebody else wants to be called."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return type(optimizer) in _RECORDABLE and fused and not _hooked(optimizer)


def may_draw(optimizer: Optimizer) -> bool:
    """Whether an update may draw random numbers, as Langevin dynamics do and differential privacy
    does: none of torch's own optimizers draws any. Torch's generator holds the seed of a
    micro-batch then, another one in each process."""
    kind = type(optimizer)
    return getattr(torch.optim, kind.__name__, None) is not kind or _hooked(optimizer)


def _hooked(optimizer: Optimizer) -> bool:
    return any(getattr(optimizer, name, None) for name in _HOOKS)


def rates_on(device: torch.device, optimizer: Optimizer) -> None:
    """Keep the learning rates on a device, where a recording reads them: a number would be part of
    it. All steps read them there, since they are float32 there."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)


@contextmanager
def _capturable(optimizer: Optimizer) -> Iterator[None]:
    """Some optimizers refuse to be recorded without this mark, which says nothing else when they
    are fused; afterwards it is what it was, since checkpoints note what changes."""
    marked: list[dict[str, Any]] = [g for g in optimizer.param_groups if "capturable" in g]
    before = [group["capturable"] for group in marked]
    try:
        for group in marked:
            group["capturable"] = True
        yield
    finally:
        for group, value in zip(marked, before, strict=True):
            group["capturable"] = value
