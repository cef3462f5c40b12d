"""`micro_batch_size=auto`: the largest micro-batch that fits into memory.

It is found before the first step, by the passes of that step over its own samples, the whole batch
of a process first. When memory runs out in one process, all halve together and try again: here no
process waits for another one in the middle of a pass, as it would in an exchange of gradients. What
the passes leave is taken back, so that training begins as if the size had been given.
"""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from launcher import draws, layout, rng
from launcher.build import Parts, computed
from launcher.data import feed
from launcher.passes import Passes
from launcher.plan import Seeds
from launcher.recipe import out_of_memory

log = logging.getLogger("launcher")
_BESIDE = 3
"""Times the parameters' bytes that training takes beside the passes: two for an optimizer such as
Adam, one for the exchange of gradients. They are occupied during the trial."""


def fitted(parts: Parts, step: int = 0) -> Parts:
    """The same parts, for the largest micro-batch, of those that halving gives, that fits in every
    process: with the threads and the layout that a restart, which knows the size, chooses. A
    collective.

    Raises torch's error when memory runs out with one sample.
    """
    while True:
        error = _tried(parts, step)
        full = torch.tensor([error is not None], dtype=torch.int64, device=parts.world.device)
        if parts.world.total is not None:
            full = parts.world.total(full)
        if not int(full):
            return parts
        size = parts.plan.micro_batch_size
        if size == 1:
            raise error or MemoryError("another process is full with one sample")
        parts = _in_parts_of(parts, size // 2)
        if parts.world.is_main:
            log.info(
                "out of memory with micro-batches of %d: trying %d", size,
                parts.plan.micro_batch_size,
            )  # fmt: skip


def _in_parts_of(parts: Parts, most: int) -> Parts:
    """The same parts, as `build` makes them for micro-batches of at most `most` samples: fewer than
    now, so that what was large may be small."""
    plan = parts.plan.in_parts_of(most)
    world, chosen = computed(parts.settings, parts.world, parts.model, plan)
    if chosen != "native":  # else it is as before, or what the first batch asked for
        return replace(parts, plan=plan, world=world)
    layout.restore(parts.moved)
    return replace(parts, plan=plan, world=world, layout=chosen, moved=[])


def _tried(parts: Parts, step: int) -> Exception | None:
    """What the passes of one step raise for want of memory; the model is left as it was."""
    world, plan = parts.world, parts.plan
    passes = Passes(parts, parts.model)  # the bare model: nothing is exchanged
    seeds, augment = Seeds(plan), Seeds(plan, rng.AUGMENT)
    batches = feed(
        parts.data, plan, world.device, start=step, process=world.process,
        before=lambda ticket: world.seed(augment(ticket)),
    )  # fmt: skip
    try:
        with passes.unchanged():
            beside = _beside(parts)
            for _ in range(plan.accumulation):
                world.watch.pulse()
                ticket, batch = next(batches)
                world.seed(seeds(ticket))
                draws.begin(plan.seed, ticket.step)
                passes.backward(passes.forward(batch))
            if world.device.type == "cuda":  # an error of the device shows where it is waited for
                torch.cuda.synchronize(world.device)
            del beside
        return None
    except Exception as error:
        if not out_of_memory(error):
            raise
        error.__traceback__ = None  # it holds what the passes had made
        return error
    finally:
        if world.device.type == "cuda":
            torch.cuda.empty_cache()


def _beside(parts: Parts) -> list[Tensor]:
    """Memory of the device that training will take for something else."""
    if parts.world.device.type == "cpu":
        return []
    trained = [p for p in parts.model.parameters() if p.requires_grad]
    return [torch.empty_like(p) for p in trained for _ in range(_BESIDE)]
