"""A step as one recording: the same weights as by parts, whatever stops it, and no trace in files.

What records here plays a function back by calling it, so that everything but CUDA's own recording
is tried without a GPU.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import command, noted, write_recipe
from safetensors.torch import load_file
from test_passes import NORMED, built, micro_batches
from test_ways import played
from torch import Tensor, nn

from launcher import graphs, train, ways
from launcher.build import Parts
from launcher.guard import Guard
from launcher.meter import Meter
from launcher.passes import Passes
from launcher.update import Update, may_draw, rates_on, recordable

ADAM = NORMED + (
    "\ndef optimizer(hparams, model):\n"
    "    return torch.optim.AdamW(model.parameters(), lr=hparams.lr, fused=True)\n"
)
Played = tuple[Callable[[], None], Tensor]


def later(function: Callable[[], Tensor]) -> Played:
    """As `graphs.record_once`: nothing is computed before it is played back."""
    result = torch.zeros(())
    return lambda: (result.copy_(function().detach()), None)[1], result


def forgetful(function: Callable[[], Tensor]) -> Played:
    """A recording that does nothing: the weights stay what they are."""
    return lambda: None, torch.zeros(())


def refused(function: Callable[[], Tensor]) -> Played:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


@contextmanager
def updating(
    *given: str, extra: str = NORMED, record: graphs.Record | None = later
) -> Iterator[tuple[Parts, Update, list[str]]]:
    """An update whose passes are recorded, and with them, unless `record` is None, all of it."""
    with built(*given, extra=extra) as parts, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "records", lambda parts: True)
        said: list[str] = []
        passes = Passes(parts, parts.model)
        passes.first = ways.to_try(parts, passes, said.append, played)
        parameters = list(parts.model.parameters())
        guard = Guard(parts.world, parts.plan, parts.optimizer, parameters, parts.hparams.grad_clip)
        meter = Meter(parts.world.device)
        if record is None:
            patch.setattr(ways, "records", lambda parts: False)
            rates_on(parts.world.device, parts.optimizer)
        update = Update(
            parts, passes, guard, parts.optimizer, meter, said.append, record or refused
        )
        yield parts, update, said


def trained(steps: int = 6, norms: tuple[int, ...] = (3,), **how: Any) -> dict[str, Tensor]:
    """The weights, momenta and the sum of losses after some steps."""
    given = how.pop("given", ())
    with updating(*given, **how) as (parts, update, _):
        feed = micro_batches(parts)
        for step in range(steps):
            train.set_rates(parts, 1 - step / 10)
            length = update(step, feed, norm=step in norms)
            assert (length is not None) is (step in norms)
        state = {
            f"{number}/{slot}": value
            for number, slots in enumerate(parts.optimizer.state.values())
            for slot, value in slots.items()
        }
        sums, count = update._meter.losses()
        return {**parts.model.state_dict(), **state, "loss": torch.tensor([*sums, count])}


@pytest.mark.parametrize("extra", [NORMED, ADAM])
@pytest.mark.parametrize("given", [(), ("dropout=0.5", "grad_clip=0.3")])
def test_a_recorded_step_does_what_its_parts_do(extra: str, given: tuple[str, ...]) -> None:
    recorded = trained(extra=extra, given=given)
    by_parts = trained(extra=extra, given=given, record=None)
    assert recorded.keys() == by_parts.keys()
    for name, value in by_parts.items():
        assert torch.equal(recorded[name], value), name


def test_the_recording_is_what_makes_the_steps() -> None:
    """The control of the test above: one that does nothing leaves the weights behind."""
    forgotten, by_parts = trained(record=forgetful), trained(record=None)
    assert not torch.equal(forgotten["1.weight"], by_parts["1.weight"])


def test_learning_rates_are_read_where_the_recording_reads_them() -> None:
    with updating() as (parts, update, _):
        (rate,) = [group["lr"] for group in parts.optimizer.param_groups]
        feed = micro_batches(parts)
        for step, factor in enumerate((1.0, 0.5)):
            train.set_rates(parts, factor)
            update(step, feed, norm=False)
        assert rate is parts.optimizer.param_groups[0]["lr"]
        before = {name: value.clone() for name, value in parts.model.named_parameters()}
        train.set_rates(parts, 0.0)
        update(2, feed, norm=False)
        for name, value in parts.model.named_parameters():
            assert torch.equal(value, before[name])


def test_what_cannot_be_recorded_goes_on_by_parts_with_one_line() -> None:
    with updating(record=refused) as (parts, update, said):
        feed = micro_batches(parts)
        for step in range(3):
            update(step, feed, norm=False)
        assert update._whole is None
        assert isinstance(update.passes.compute, graphs.Graph)
    assert said == [
        "graphs=auto: the optimizer stays outside of the graph: RuntimeError: operation not "
        "permitted when stream is capturing"
    ]


def test_several_passes_in_a_step_are_recorded_one_by_one() -> None:
    with updating("micro_batch_size=4") as (parts, update, said):
        feed = micro_batches(parts)
        for step in range(2):
            update(step, feed, norm=False)
        assert update._whole is None
        assert isinstance(update.passes.compute, graphs.Graph)
        assert not said
        assert isinstance(parts.optimizer.param_groups[0]["lr"], float)


def test_a_model_with_hooks_is_not_recorded() -> None:
    """A recording would not call them."""
    calls: list[nn.Module] = []
    with updating() as (parts, update, said):
        parts.model.register_forward_hook(lambda module, *_: calls.append(module))
        feed = micro_batches(parts)
        for step in range(3):
            update(step, feed, norm=False)
        assert said == ["graphs=auto is left out: RuntimeError: hooks of the model would not be "
                        "called"]  # fmt: skip
        assert len(calls) == 3 + 2  # the trial computes twice


def test_only_optimizers_whose_recorded_step_is_every_step_are_recorded() -> None:
    weight = [nn.Parameter(torch.ones(2))]
    assert recordable(torch.optim.SGD(weight, lr=0.1, fused=True))
    assert recordable(torch.optim.AdamW(weight, lr=0.1, fused=True))
    assert not recordable(torch.optim.SGD(weight, lr=0.1))
    assert not recordable(torch.optim.Adam(weight, lr=0.1, foreach=True))
    assert not recordable(torch.optim.RMSprop(weight, lr=0.1))

    class Own(torch.optim.SGD):
        pass

    assert not recordable(Own(weight, lr=0.1, fused=True))
    hooked = torch.optim.SGD(weight, lr=0.1, fused=True)
    handle = hooked.register_step_post_hook(lambda *_: None)
    assert not recordable(hooked)
    handle.remove()
    assert recordable(hooked)


NOISY = (
    NORMED
    + """
class Noisy(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        self.drawn = torch.rand(3)

def optimizer(hparams, model):
    return Noisy(model.parameters(), lr=hparams.lr)
"""
)


def test_what_an_update_draws_depends_on_the_seed_and_the_step_alone() -> None:
    """Not on the micro-batch that was last, which is another one in each process."""
    drawn: list[list[Tensor]] = []
    for given in (["micro_batch_size=4"], ["micro_batch_size=16"], ["seed=2"]):
        with updating(*given, "dropout=0.5", extra=NOISY, record=None) as (parts, update, _):
            feed, optimizer, found = micro_batches(parts), cast(Any, parts.optimizer), []
            for step in range(2):
                update(step, feed, norm=False)
                found.append(optimizer.drawn)
            drawn.append(found)
    assert all(torch.equal(*pair) for pair in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(*drawn[0])
    assert not torch.equal(drawn[0][0], drawn[2][0])


def test_only_an_update_that_may_draw_is_seeded() -> None:
    weight = [nn.Parameter(torch.ones(2))]
    for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop):
        assert not may_draw(kind(weight, lr=0.1))

    class SGD(torch.optim.SGD):
        pass

    assert may_draw(SGD(weight, lr=0.1))
    hooked = torch.optim.SGD(weight, lr=0.1)
    hooked.register_step_pre_hook(lambda *_: None)
    assert may_draw(hooked)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whole runs record; the length of each batch that was replayed."""
    replayed: list[int] = []
    to_try, replay = ways.to_try, Update.replay

    def noting(self: Update, batch: dict[str, Tensor]) -> Tensor:
        replayed.append(len(batch["label"]))
        return replay(self, batch)

    monkeypatch.setattr(ways, "records", lambda parts: True)
    monkeypatch.setattr(
        ways, "to_try", lambda parts, passes, say: to_try(parts, passes, say, played)
    )
    monkeypatch.setattr(Update, "replay", noting)
    monkeypatch.setattr(train, "Update", partial(Update, record=later))
    return replayed


@pytest.mark.parametrize("extra", [NORMED, ADAM])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(extra: str, recording: list[int]) -> None:
    path = write_recipe(extra)
    given = ("threads=1", "dropout=0.5", "log_every=3", "batch_size=4")
    assert command(path, "name=whole", "epochs=3", *given) == 0
    assert len(recording) == 48 - 1 - 16  # the first step, and each third has a norm
    whole = load_file(max(Path("checkpoints/whole").glob("step-*")) / "model.safetensors")
    for minutes in (1e-9, None):
        stop = () if minutes is None else (f"max_minutes={minutes}",)
        code = command(path, "name=r", "epochs=3", *given, *stop)
        assert code == (0 if minutes is None else 75)
    found = max(Path("checkpoints/r").glob("step-*"))
    parted = load_file(found / "model.safetensors")
    for name, value in whole.items():
        assert torch.equal(parted[name], value), name
    assert [line["train/lr"] for line in noted() if "train/lr" in line] == [
        line["train/lr"] for line in noted("whole") if "train/lr" in line
    ]
    assert json.loads((found / "state.json").read_text())["groups"] == [{}]
