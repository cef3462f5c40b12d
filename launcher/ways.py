"""Other ways to compute a pass than operation by operation: compiled, or as a CUDA graph.

Whether a model allows it shows only when it is tried. So it is tried once, on the first
micro-batch, beside the plain way and under two seeds; both must give the same loss and gradients.
What fails or differs is left, with one line that says why. The trial leaves no trace in the model,
and processes agree on what it found.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from launcher import draws, generators, graphs, layout
from launcher.build import Parts
from launcher.data import Batch
from launcher.errors import listed
from launcher.passes import Passes
from launcher.plan import Ticket

TOLERANCE: Final = {"no": 1e-3, "bf16": 5e-2}
"""By precision: the distance of two losses, and of two gradients over all parameters, relative to
the plain one. Kernels that are fused or chosen otherwise round otherwise."""

_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_OF_TORCH: Final = frozenset(vars(nn.Module()))
_NO_CODE: Final = (lambda: None).__code__

Outcome = tuple[Tensor, list[Tensor | None]]
Try = Callable[[Ticket, Batch], None]


def to_try(
    parts: Parts, passes: Passes, say: Callable[[str], None], record: graphs.Record = graphs.record
) -> Try | None:
    """What to call with the first micro-batch, or None where the plain way is meant."""
    mode, trials = parts.settings.compile, list[Trial]()
    if mode != "off":
        trials.append(Trial(parts, passes, say, f"compile={mode}", _compiled(parts, passes)))
    if records(parts):
        trials.append(Trial(parts, passes, say, "graphs=auto", _captured(parts, passes, record)))

    def one_after_another(ticket: Ticket, batch: Batch) -> None:
        for trial in trials:
            trial(ticket, batch)

    return one_after_another if trials else None


def records(parts: Parts) -> bool:
    """Whether passes are to be recorded, if they can be; the compiler's other modes do it
    themselves."""
    world, settings = parts.world, parts.settings
    asked = settings.graphs == "auto" and settings.compile in ("off", "default")
    alone = world.kind == "one process" and world.device.type == "cuda"
    small = layout.size(parts.model) <= layout.LARGE
    return asked and alone and small and world.precision in TOLERANCE


class Trial:
    """Tries one way, once."""

    def __init__(
        self, parts: Parts, passes: Passes, say: Callable[[str], None], name: str,
        begin: Callable[[Batch], Callable[[], None]],
    ) -> None:  # fmt: skip
        """`begin` puts the way in its place, and returns what takes it away again."""
        self._world, self._passes, self._say = parts.world, passes, say
        self._name, self._begin = name, begin
        self._tolerance = TOLERANCE.get(parts.world.precision, 5e-2)

    def __call__(self, ticket: Ticket, batch: Batch) -> None:
        """Leave the way in its place if it can be taken, on every process."""
        tickets = (ticket, ticket._replace(step=ticket.step + 1))
        plain = [self._passes.rehearse(each, batch) for each in tickets]
        end: Callable[[], None] = lambda: None  # noqa: E731
        why = ""
        try:
            with self._passes.unchanged():  # recording computes, too
                end = self._begin(batch)
            found = [self._passes.rehearse(each, batch) for each in tickets]
            why = next(filter(None, map(self._difference, plain, found)), "")
        except RuntimeError as error:  # the compiler's and CUDA's; a model's own comes again
            why = brief(error)
        if self._anywhere(bool(why)):
            end()
            self._passes.forget()
            self._say(f"{self._name} is left out: {why or 'another process cannot take it'}")

    def _difference(self, plain: Outcome, found: Outcome) -> str:
        pairs = list(zip(plain[1], found[1], strict=True))
        if any((one is None) is not (other is None) for one, other in pairs):
            # Zeros are not nothing: weights would decay.
            return "the loss gives not all parameters a gradient"
        # Over all parameters: the gradient of one may be nothing but rounding.
        gradients = [(a, b) for a, b in pairs if a is not None and b is not None]
        for group in ([(plain[0], found[0])], gradients):
            apart = _length([other - one for one, other in group])
            if not apart <= self._tolerance * _length([one for one, _ in group]):
                return "it computes something else than the model does"
        return ""

    def _anywhere(self, failed: bool) -> bool:
        if self._world.total is None:
            return failed
        flag = torch.tensor(float(failed), device=self._world.device)
        return bool(self._world.total(flag).item())


def _compiled(parts: Parts, passes: Passes) -> Callable[[Batch], Callable[[], None]]:
    """The whole model, for training only: evaluations have other shapes and modes, and would be
    compiled once more. Names of weights are those of the model itself."""
    mode = None if parts.settings.compile == "default" else parts.settings.compile

    def begin(batch: Batch) -> Callable[[], None]:
        from torch import _inductor as inductor  # a second that other runs need not wait for

        plain = passes.wrapped
        # Dropout by torch's generators, or it would leave out other units than in a plain run.
        inductor.config.fallback_random = True
        passes.wrapped = torch.compile(plain, mode=mode, dynamic=False)  # type: ignore[assignment]

        def end() -> None:
            passes.wrapped = plain

        return end

    return begin


def _captured(
    parts: Parts, passes: Passes, record: graphs.Record
) -> Callable[[Batch], Callable[[], None]]:
    def begin(batch: Batch) -> Callable[[], None]:
        if any(getattr(part, name) for part in parts.model.modules() for name in _HOOKS):
            raise RuntimeError("hooks of the model would not be called")
        compute, forget, before = passes.compute, passes.forget, draws.asked
        parameters = list(parts.model.parameters())
        kept, buffers = kept_in_python(parts), list(parts.model.buffers())
        graph = graphs.Graph(compute, parameters, batch, record)
        if draws.asked != before:
            forget()
            raise RuntimeError("the network draws how it is built in each step")
        now = kept_in_python(parts)
        if drawn := generators.drawn(kept, now):
            forget()
            raise RuntimeError(f"the network or the loss draws from {drawn}")
        if now != kept:
            forget()
            raise RuntimeError("the network or the loss changes a number of Python's in each step")
        if list(map(id, parts.model.buffers())) != list(map(id, buffers)):
            forget()  # a recording goes on reading the tensor that was there
            raise RuntimeError("the network puts new tensors in the places of its buffers")
        passes.compute, passes.forget = graph, graph.forget  # type: ignore[method-assign]

        def end() -> None:
            passes.compute, passes.forget = compute, forget  # type: ignore[method-assign]

        return end

    return begin


def kept_in_python(parts: Parts) -> dict[str, object]:
    """Numbers, words and lengths of lists that lie in the modules of the model, in the optimizer
    and beside the loss, and the states of the generators that are not torch's: a recording would
    not change them, nor see that something else did."""
    loss: Any = parts.recipe.loss
    while isinstance(loss, partial):
        loss = loss.func
    cells = getattr(loss, "__closure__", None) or ()
    enclosed = zip(getattr(loss, "__code__", _NO_CODE).co_freevars, cells, strict=False)
    spaces = {f"{name}." if name else "": vars(m) for name, m in parts.model.named_modules()}
    spaces["recipe.optimizer: "] = {
        name: value
        for name, value in vars(parts.optimizer).items()
        if name[0] != "_" and name not in ("state", "param_groups", "defaults")  # `Kept` has those
    }
    spaces["recipe.loss: "] = getattr(loss, "__globals__", {})
    spaces["recipe.loss: its "] = {name: cell.cell_contents for name, cell in enclosed}
    return generators.states() | {
        f"{space}{name}": len(value) if isinstance(value, list | dict | set) else value
        for space, values in spaces.items()
        for name, value in values.items()
        if isinstance(value, bool | int | float | str | list | dict | set | None)
    }


def changed_in_python(before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """What to say when a step changed what `kept_in_python` gives."""
    if remark := generators.remark(before, now):
        yield remark
    counted = sorted(
        name
        for name, value in now.items()
        if (name not in before or before[name] != value)
        and name not in generators.NAMES
        and not (name.split(".")[-1] in _OF_TORCH or name.endswith("__"))
    )
    if counted:
        yield (
            f"a step changes what is kept in Python and not in checkpoints: {listed(counted)}. A "
            f"continued run begins with the first value; a buffer would keep what training counts"
        )


def _length(parts: list[Tensor]) -> float:
    """Euclidean, over all of some tensors."""
    return float(torch.stack([part.double().norm() for part in parts]).norm())


def brief(error: BaseException) -> str:
    """An error's kind and first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
