"""The passes of one step: the gradients they leave, and taking a step back."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import write_recipe
from torch import Tensor

from launcher.build import Parts, build
from launcher.connect import connect
from launcher.data import Batch, feed
from launcher.launch import Launch
from launcher.layers import from_argument
from launcher.passes import Passes
from launcher.plan import Ticket
from launcher.recipe import load
from launcher.settings import resolve_hparams, resolve_run

NORMED = """
def model(hparams, data):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.BatchNorm1d(8),
        torch.nn.Dropout(hparams.dropout), torch.nn.Linear(8, len(data.classes)),
    )
"""


@contextmanager
def built(*given: str, extra: str = NORMED) -> Iterator[Parts]:
    loaded = load(write_recipe(extra))
    hparams, _ = resolve_hparams(loaded.recipe.hparams, map(from_argument, given))
    settings, _ = resolve_run(map(from_argument, ["threads=1"]))
    world = connect(Launch(), hparams, settings)
    try:
        yield build(loaded, hparams, settings, world)
    finally:
        world.close()


def micro_batches(parts: Parts, step: int = 0) -> Iterator[tuple[Ticket, Batch]]:
    return feed(parts.data, parts.plan, parts.world.device, start=step)


def gradients(parts: Parts) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in parts.model.named_parameters()
            if p.grad is not None}  # fmt: skip


def buffers(parts: Parts) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in parts.model.named_buffers()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_gradient_is_the_mean_over_all_micro_batches() -> None:
    with built("micro_batch_size=4") as parts:
        losses = Passes(parts, parts.model).run(micro_batches(parts))
        assert len(losses) == 4
        assert not any(loss.requires_grad for loss in losses)
        found = gradients(parts)
        with torch.enable_grad():
            mean = torch.stack([
                parts.recipe.loss(parts.model, batch)
                for _, (_, batch) in zip(range(4), micro_batches(parts), strict=False)
            ]).mean()  # fmt: skip
        own = dict(parts.model.named_parameters())
        wanted = torch.autograd.grad(mean, list(own.values()))
    for name, gradient in zip(own, wanted, strict=True):
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("micro_batch_size", [4, 16])
def test_a_step_that_was_undone_can_be_repeated_to_the_bit(micro_batch_size: int) -> None:
    with built(f"micro_batch_size={micro_batch_size}", "dropout=0.5") as parts:
        before = buffers(parts)
        passes = Passes(parts, parts.model, repeatable=True)
        passes.run(micro_batches(parts))
        first, after = gradients(parts), buffers(parts)
        assert not equal(before, after)
        passes.undo()
        assert not gradients(parts)
        assert equal(buffers(parts), before)
        passes.run(micro_batches(parts))
        assert equal(gradients(parts), first)
        assert equal(buffers(parts), after)


def test_a_step_that_failed_between_its_passes_can_be_undone() -> None:
    with built("micro_batch_size=4") as parts:
        before = buffers(parts)
        passes = Passes(parts, parts.model, repeatable=True)
        backward, calls = passes.backward, 0

        def full(loss: Tensor) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise torch.OutOfMemoryError("full")
            backward(loss)

        passes.backward = full  # type: ignore[method-assign]
        with pytest.raises(torch.OutOfMemoryError):
            passes.run(micro_batches(parts))
        assert gradients(parts)
        passes.undo()
        assert not gradients(parts)
        assert equal(buffers(parts), before)
        passes.backward = backward  # type: ignore[method-assign]
        passes.run(micro_batches(parts))
        again = gradients(parts)
    with built("micro_batch_size=4") as parts:
        Passes(parts, parts.model).run(micro_batches(parts))
        assert equal(gradients(parts), again)


def test_other_dropout_is_drawn_in_another_step() -> None:
    """A negative control of the seeds: the same samples in a step of another number."""
    with built("dropout=0.5") as parts:
        ticket, batch = next(micro_batches(parts))
        passes = Passes(parts, parts.model)
        found = []
        for step in (0, 0, 1):
            parts.model.zero_grad()
            passes.run(iter([(ticket._replace(step=step), batch)]))
            found.append(gradients(parts))
        assert equal(found[0], found[1])
        assert not equal(found[0], found[2])


def test_a_piece_of_a_pass_can_be_replaced() -> None:
    with built("micro_batch_size=8") as parts:
        passes, seen = Passes(parts, parts.model), []
        forward = passes.forward

        def noted(batch: Batch) -> Tensor:
            seen.append(len(batch["label"]))
            return forward(batch)

        passes.forward = noted  # type: ignore[method-assign]
        passes.run(micro_batches(parts))
    assert seen == [8, 8]
