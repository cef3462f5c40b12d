"""torch's compiler, left out of runs that compile nothing: importing it takes a second.

Torch imports it as soon as an optimizer is made, to tell it what not to trace, and Accelerate to
ask whether a model was compiled. Until something else of it is wanted, a stand-in gives the answers
that are right while nothing is compiled; then the module itself is imported and takes its place.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import torch

_NAME: Final = "torch._dynamo"


class _Compiled:
    """What no model is an instance of."""


class _StandIn(ModuleType):
    """Stands in `sys.modules` for the compiler until it is needed."""

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.eval_frame = SimpleNamespace(OptimizedModule=_Compiled)

    def graph_break(self, msg: str = "") -> None:
        """A mark for the compiler, and nothing without it."""

    def disable(
        self, fn: Callable[..., Any], recursive: bool = True, *, wrapping: bool = True
    ) -> Callable[..., Any]:
        """The function as it is: nothing traces it."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # somebody looks at all modules
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        remove()
        return getattr(importlib.import_module(_NAME), name)


def leave_out() -> None:
    """Keep the compiler from being imported by what does not need it. To be called before the
    optimizer is made, and only where the run compiles nothing."""
    if _NAME not in sys.modules:
        sys.modules[_NAME] = torch._dynamo = _StandIn()


def remove() -> None:
    """Make way for the compiler itself; nothing to do where it is there."""
    if isinstance(sys.modules.get(_NAME), _StandIn):
        del sys.modules[_NAME], torch._dynamo
