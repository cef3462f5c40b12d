"""What a checkpoint could not bring back, found out before anything is lost by it.

A checkpoint holds what a model's `state_dict` names, and an optimizer's tensors and numbers by
parameter. Whatever else training changes would have its first value again in a run that continues,
without a word. What can be told before the first step is refused by `refuse`; the rest shows when
something has changed: `Kept.check` looks after the first step of an attempt and before every save.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher import tensorfile
from launcher.errors import CheckpointError, RecipeError, listed
from launcher.slots import PLAIN, group_values, slots_of
from launcher.together import Together, kind_of

log = logging.getLogger("launcher")


def refuse(model: nn.Module, whose: str = "the model") -> None:
    """Raises RecipeError for a model whose state cannot be saved, or cannot be loaded again."""
    own = {_memory(value) for _, value in _tensors(model)}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise RecipeError(
                f"{whose} keeps {name} as {type(value).__name__}: only tensors can be saved."
            )
        if why := _unwritable(value):
            raise RecipeError(f"{whose} keeps {name} {why}")
        if _memory(value) not in own:
            raise RecipeError(
                f"{whose} gives {name} to its state_dict as a tensor that is none of its "
                f"parameters and buffers: it would be saved and not come back. Keep it as a buffer."
            )


def own_memory(model: nn.Module) -> None:
    """Give memory of their own to parameters and buffers whose elements share one place, as
    `expand` makes them: nothing could be loaded into them. Moving a model to a GPU does the same.
    """
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and _is_expanded(buffer):
                module._buffers[name] = made.setdefault(id(buffer), buffer.clone())
        for parameter in module._parameters.values():
            if parameter is not None and _is_expanded(parameter):
                parameter.data = parameter.detach().clone()


class Kept:
    """What the checkpoints of a run rest on: the tensors that a model has, and that what they leave
    out stays as it is."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | Together) -> None:
        self._model, self._optimizer = model, optimizer
        self._forms = _forms(model)
        self._left_out = {name: value.detach().clone() for name, value in _left_out(model)}
        self._groups = [_copied(odd) for odd in _odd_values(optimizer)]
        self._keys = [set(group) for group in optimizer.param_groups]
        self._said: set[str] = set()

    def check(self) -> None:
        """Raises RecipeError and CheckpointError for what training changed and a checkpoint would
        not bring back. Waits for the device where a model has tensors that are not saved."""
        self.check_forms()
        self._check_left_out()
        self._check_groups()
        self._check_state()

    def check_forms(self, *, left_out: bool = False) -> None:
        """Raises RecipeError when tensors came, went, or changed their shape or dtype; `left_out`
        also for those that are not saved, which matters where a pass is to be undone."""
        now = _forms(self._model)
        if now == self._forms:
            if left_out:
                self._check_tables()
            return
        changed = [
            f"{name} was {self._forms.get(name, 'not there')} and is {now.get(name, 'gone')}"
            for name in sorted(now.keys() | self._forms.keys())
            if now.get(name) != self._forms.get(name)
        ]
        raise RecipeError(
            f"training changed what the model consists of, and no checkpoint would fit the model "
            f"that is built when the run continues: {listed(changed)}. Register buffers in their "
            f"full size from the beginning."
        )

    def _check_tables(self) -> None:
        if changed := [
            name
            for name, value in _left_out(self._model)
            if name not in self._left_out or _form(self._left_out[name]) != _form(value)
        ]:
            raise RecipeError(
                f"a pass changed the shape of {listed(changed)}, so that the next micro-batch of "
                f"the step could not begin with the same: register buffers in their full size."
            )

    def _check_left_out(self) -> None:
        for name, value in _left_out(self._model):
            first = self._left_out.get(name)
            if first is not None and _equal(first, value):
                continue
            if first is None or _form(first) != _form(value):
                # A table that is made when a first batch shows its size, most often.
                self._left_out[name] = value.detach().clone()
                if name not in self._said:
                    self._said.add(name)
                    log.warning(
                        "%s changed its shape in training and is not saved: a continued run begins "
                        "with the one that is built; if it is more than a table that is made anew, "
                        "register it with persistent=True, in its full size", name,
                    )  # fmt: skip
                continue
            raise RecipeError(
                f"training changes {name}, which the model's state_dict leaves out: a continued "
                f"run would begin with its first value again. Register it with persistent=True."
            )

    def _check_groups(self) -> None:
        kind, groups = kind_of(self._optimizer), list(_odd_values(self._optimizer))
        if len(groups) != len(self._groups):
            raise CheckpointError(
                f"{kind} has {len(groups)} parameter groups and had {len(self._groups)} before "
                f"the first step: a continued run would not. Make all of them in the beginning."
            )
        for keys, group in zip(self._keys, self._optimizer.param_groups, strict=True):
            if gone := keys - group.keys():
                raise CheckpointError(
                    f"{kind} takes {listed(sorted(map(str, gone)))} out of a parameter group: a "
                    f"continued run would have it again. Set it to None."
                )
        for first, now in zip(self._groups, groups, strict=True):
            for name, value in now.items():
                if name not in first or not _equal(first[name], value):
                    raise CheckpointError(
                        f"{kind} changes {name} of a parameter group and keeps it as "
                        f"{type(value).__name__}: only numbers and words are saved there, "
                        f"under strings. Keep it in the state of a parameter."
                    )

    def _check_state(self) -> None:
        kind, own = kind_of(self._optimizer), set(map(id, self._model.parameters()))
        parts = self._optimizer
        for one in parts.optimizers if isinstance(parts, Together) else (parts,):
            for key, value in one.state.items():
                if id(key) not in own and value != {}:
                    what = f"state[{key!r}]" if isinstance(key, str | int) else "state"
                    raise CheckpointError(
                        f"{kind} keeps {what} that belongs to no parameter of the model: only the "
                        f"state of parameters is saved. Keep it in the state of a parameter."
                    )
        taken = {_memory(value): name for name, value in _tensors(self._model)}
        for name, value in slots_of(self._model, self._optimizer)[0].items():
            if why := _unwritable(value):
                raise CheckpointError(f"{kind} keeps {name} {why}")
            if value.numel() and taken.setdefault(_memory(value), name) != name:
                raise CheckpointError(
                    f"{kind} keeps {name} in the memory of {taken[_memory(value)]}, and in a "
                    f"continued run each would have its own. Keep a clone()."
                )


def _unwritable(value: Tensor) -> str:
    """Why the file of a checkpoint cannot hold a tensor; an empty text for one that it can."""
    if value.layout is not torch.strided:
        return "as a sparse tensor, which a checkpoint cannot hold: keep it dense."
    if value.dtype not in tensorfile.NAMES:
        return f"as {value.dtype}, which a checkpoint cannot hold: use another dtype."
    return ""


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that lie in memory as a whole, each under every name."""
    for named in (model.named_parameters, model.named_buffers):
        for name, value in named(remove_duplicate=False):
            if value.layout is torch.strided:
                yield name, value


def _left_out(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that the model's state_dict leaves out."""
    saved = {_memory(value) for value in model.state_dict().values()}
    return ((name, value) for name, value in _tensors(model) if _memory(value) not in saved)


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _is_expanded(value: Tensor) -> bool:
    if value.layout is not torch.strided:
        return False
    pairs = zip(value.shape, value.stride(), strict=True)
    return any(stride == 0 and size > 1 for size, stride in pairs)


def _form(value: Tensor) -> str:
    return f"{value.dtype} {tuple(value.shape)}"


def _forms(model: nn.Module) -> dict[str, str]:
    return {name: _form(value) for name, value in model.state_dict().items()}


def _odd_values(optimizer: Optimizer | Together) -> Iterator[dict[str, Any]]:
    """What is in each parameter group besides that which is saved, or made anew by the recipe."""
    for group, plain in zip(optimizer.param_groups, group_values(optimizer), strict=True):
        yield {k: v for k, v in group.items() if k not in plain and k not in ("params", "lr")}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list | tuple) else value


def _equal(first: Any, now: Any) -> bool:
    """Whether a value is what its copy was; of objects only whether they are the same ones."""
    if isinstance(first, Tensor):
        return isinstance(now, Tensor) and _form(first) == _form(now) and _same_numbers(first, now)
    if isinstance(first, Mapping) and isinstance(now, Mapping):
        return first.keys() == now.keys() and all(_equal(first[key], now[key]) for key in first)
    if isinstance(first, list) and isinstance(now, list | tuple):
        return len(first) == len(now) and all(map(_equal, first, now))
    if isinstance(first, PLAIN):
        return bool(first == now) or (first != first and now != now)
    return first is now


def _same_numbers(first: Tensor, now: Tensor) -> bool:
    """NaN is NaN."""
    if first.equal(now):
        return True
    return bool(((first == now) | ((first != first) & (now != now))).all())
