"""Compiled passes and recorded ones: the same results, no trace of the trial, and one line if not.

What records here plays a function back by calling it again, so that everything but CUDA's own
recording is tried without a GPU.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command, write_recipe
from safetensors.torch import load_file
from test_passes import NORMED, buffers, built, equal, gradients, micro_batches
from torch import Tensor

from launcher import graphs, train, ways
from launcher.build import Parts
from launcher.passes import Passes

MARKED = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def played(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """As `graphs.record`, by calling the function again."""
    result = function().detach()
    return lambda: (result.copy_(function().detach()), None)[1], result


def frozen(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A recording that forgets to compute anew: its gradients stay away."""
    return lambda: None, function().detach()


def refused(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


@contextmanager
def tried(
    record: graphs.Record, *given: str, extra: str = NORMED
) -> Iterator[tuple[Parts, Passes, list[str]]]:
    with built(*given, extra=extra) as parts:
        passes, said = Passes(parts, parts.model), list[str]()
        begin = ways._captured(parts, passes, record)
        passes.first = ways.Trial(parts, passes, said.append, "graphs=auto", begin)
        yield parts, passes, said


@pytest.mark.parametrize("micro_batch_size", [4, 16])
def test_recorded_passes_leave_the_same_gradients_step_by_step(micro_batch_size: int) -> None:
    given = (f"micro_batch_size={micro_batch_size}", "dropout=0.5")
    found: list[list[dict[str, Tensor]]] = []
    for record in (played, None):
        with tried(record or refused, *given) as (parts, passes, said):
            feed, after = micro_batches(parts), []
            for _ in range(3):
                passes.run(feed)
                after += [gradients(parts), buffers(parts)]
                passes.forget()
            found.append(after)
            assert isinstance(passes.compute, graphs.Graph) is (record is played)
            assert len(said) == (0 if record else 1)
    assert all(map(equal, *found))


def test_a_recorded_pass_returns_a_loss_of_its_own() -> None:
    """The next pass writes to the same place."""
    with tried(played, "micro_batch_size=4") as (parts, passes, _):
        losses = passes.run(micro_batches(parts))
    assert len({loss.item() for loss in losses}) == len(losses) == 4


def test_gradients_of_a_recorded_pass_stay_where_they_are() -> None:
    with tried(played, "micro_batch_size=4") as (parts, passes, _):
        feed, places = micro_batches(parts), []
        for _ in range(2):
            passes.run(feed)
            places.append(
                [p.grad.data_ptr() for p in parts.model.parameters() if p.grad is not None]
            )
            passes.forget()
            assert all(p.grad is not None and not p.grad.any() for p in parts.model.parameters())
    assert places[0] == places[1]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (frozen, "it computes something else than the model does"),
        (refused, "RuntimeError: operation not permitted when stream is capturing"),
    ],
)
def test_a_recording_that_fails_or_differs_is_left_with_one_line(
    record: graphs.Record, why: str
) -> None:
    with tried(record, "micro_batch_size=4") as (parts, passes, said):
        passes.run(micro_batches(parts))
        found = gradients(parts)
        assert said == [f"graphs=auto is left out: {why}"]
        assert not isinstance(passes.compute, graphs.Graph)
    with built("micro_batch_size=4", extra=NORMED) as parts:
        Passes(parts, parts.model).run(micro_batches(parts))
        assert equal(gradients(parts), found)


def test_a_network_that_draws_how_it_is_built_is_not_recorded() -> None:
    extra = NORMED + (
        "\ndef loss(model, batch):\n    from launcher import draws\n"
        "    return losses.cross_entropy(model, batch) * (1 + draws.uniform())\n"
    )
    with tried(played, extra=extra) as (parts, passes, said):
        passes.run(micro_batches(parts))
    assert said == [
        "graphs=auto is left out: RuntimeError: the network draws how it is built in each step"
    ]


def test_a_network_that_replaces_its_buffers_is_not_recorded() -> None:
    extra = NORMED + (
        "\ndef loss(model, batch):\n    found = losses.cross_entropy(model, batch)\n"
        "    if model.training:\n        model[2].running_mean = model[2].running_mean + 1\n"
        "    return found\n"
    )
    with tried(played, extra=extra) as (parts, passes, said):
        passes.run(micro_batches(parts))
    assert said == [
        "graphs=auto is left out: RuntimeError: the network puts new tensors in the places of its "
        "buffers"
    ]


@pytest.mark.parametrize(
    "loss",
    [
        "calls = 0\ndef loss(model, batch):\n    global calls\n    calls += 1\n",
        "calls = []\ndef loss(model, batch):\n    calls.append(0)\n",
        "def loss(model, batch):\n    model[0].calls = getattr(model[0], 'calls', 0) + 1\n",
    ],
)
def test_a_recipe_that_counts_in_python_is_not_recorded(loss: str) -> None:
    extra = f"{NORMED}\n{loss}    return losses.cross_entropy(model, batch)\n"
    with tried(played, extra=extra) as (parts, passes, said):
        passes.run(micro_batches(parts))
    assert said == [
        "graphs=auto is left out: RuntimeError: the network or the loss changes a number of "
        "Python's in each step"
    ]


def test_a_parameter_that_gets_no_gradient_is_not_given_zeros() -> None:
    """Its weights would decay."""
    extra = NORMED.replace("return torch.nn.Sequential(", "return Half(") + (
        "\nclass Half(torch.nn.Sequential):\n    def __init__(self, *parts):\n"
        "        super().__init__(*parts)\n"
        "        self.unused = torch.nn.Parameter(torch.ones(3))\n"
    )
    with tried(played, extra=extra) as (parts, passes, said):
        passes.run(micro_batches(parts))
        assert parts.model.get_parameter("unused").grad is None
    assert said == ["graphs=auto is left out: the loss gives not all parameters a gradient"]


def test_a_gradient_of_rounding_alone_does_not_count_and_a_small_one_does() -> None:
    with tried(played) as (_, passes, _):
        trial = passes.first
        assert isinstance(trial, ways.Trial)
    loss, large, rounding = torch.tensor(2.0), torch.ones(4), torch.tensor(1e-9)
    plain: ways.Outcome = (loss, [large, rounding])
    assert trial._difference(plain, (loss, [large, 0 * rounding])) == ""
    for scale_loss, scale in ((1.01, 1.0), (1.0, 1.01), (1.0, math.nan)):
        other: ways.Outcome = (loss * scale_loss, [large * scale, rounding])
        assert "something else" in trial._difference(plain, other)


def test_without_a_gpu_nothing_is_recorded() -> None:
    with built() as parts:
        assert ways.to_try(parts, Passes(parts, parts.model), print) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_trains_as_single_kernels_do() -> None:
    ends = []
    for graph in ("off", "auto"):
        assert command(write_recipe(NORMED), "name=r", "--fresh", f"graphs={graph}") == 0
        ends.append(weights())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-5)


# ── compiled ─────────────────────────────────────────────────────────────────────────────────────


def weights() -> dict[str, Tensor]:
    return load_file(max(Path("checkpoints/r").glob("step-*")) / "model.safetensors")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """torch.compile without code generation; what it was asked to compile."""
    asked: list[Any] = []
    plain = torch.compile

    def traced(model: Any, *, mode: str | None, dynamic: bool) -> Any:
        asked.append((model, mode))
        return plain(model, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", traced)
    return asked


@MARKED
@pytest.mark.parametrize(("setting", "mode"), [("default", None), ("max-autotune", "max-autotune")])
def test_a_compiled_run_learns_the_same_under_the_same_names(
    compiler: list[Any], setting: str, mode: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(NORMED)
    assert command(path, "name=r", "threads=1", "dropout=0.5") == 0
    plain = weights()
    assert command(path, "name=r", "--fresh", "threads=1", f"compile={setting}") == 0
    assert [asked[1] for asked in compiler] == [mode]
    assert "left out" not in capsys.readouterr().out
    assert weights().keys() == plain.keys()
    run = json.loads(Path("checkpoints/r/run.json").read_text())
    assert run["attempts"][0]["compile"] == setting


@MARKED
def test_a_compiled_step_has_the_gradients_of_the_plain_one(compiler: list[Any]) -> None:
    found = []
    for compiled in (False, True):
        with built("micro_batch_size=4") as parts:
            passes, said = Passes(parts, parts.model), list[str]()
            if compiled:
                begin = ways._compiled(parts, passes)
                passes.first = ways.Trial(parts, passes, said.append, "compile=default", begin)
            losses = passes.run(micro_batches(parts))
            assert all(math.isfinite(loss) for loss in losses)
            assert (passes.wrapped is parts.model) is not compiled
            assert not said
            found.append(gradients(parts))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@MARKED
def test_a_model_that_cannot_be_compiled_is_trained_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(model: Any, **_: Any) -> Any:
        def call(*inputs: Tensor) -> Tensor:
            model(*inputs)  # it gets as far as changing the running averages
            raise RuntimeError("no C++ compiler\nwith a long story")

        return call

    path = write_recipe(NORMED)
    assert command(path, "name=r", "threads=1") == 0
    plain = weights()
    monkeypatch.setattr(torch, "compile", broken)
    assert command(path, "name=r", "--fresh", "threads=1", "compile=default") == 0
    out = capsys.readouterr().out
    assert out.count("compile=default is left out: RuntimeError: no C++ compiler") == 1
    assert "long story" not in out
    assert equal(weights(), plain)


@MARKED
def test_an_evaluation_compiles_nothing_more(
    compiler: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[bool] = []
    extra = NORMED + (
        "\ndef metrics(model, batch, score=metrics):\n"
        "    assert not hasattr(model, '_orig_mod')\n    return score(model, batch)\n"
    )
    seen = train.evaluate

    def evaluate(*arguments: Any) -> Any:
        modes.append(arguments[0].model.training)
        return seen(*arguments)

    monkeypatch.setattr(train, "evaluate", evaluate)
    given = ("name=r", "threads=1", "compile=default")
    assert command(write_recipe(extra), *given) == 0
    assert modes == [True, True]
    assert len(compiler) == 1


@MARKED
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
def test_torchs_own_compiler_trains_to_the_same_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With dropout, which it would draw by itself."""
    path = write_recipe(NORMED)
    given = ("name=r", "--fresh", "threads=1", "dropout=0.5")
    assert command(path, *given) == 0
    plain = weights()
    assert command(path, *given, "compile=default") == 0
    assert "left out" not in capsys.readouterr().out
    for name, value in weights().items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-5)
