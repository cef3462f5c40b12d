"""Pickles that do something when they are opened, and a witness of all that Python runs."""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FORBIDDEN = ("pickle.find_class", "exec", "os.system", "os.exec", "os.posix_spawn",
             "subprocess.Popen", "ctypes.dlopen", "marshal.loads")  # fmt: skip
"""The audit events that no loading of a checkpoint may raise."""

EXTRA_NAMES = ("model.pt", "optimizer.bin", "custom_checkpoint_0.pkl", "random_states_0.pkl",
               "pytorch_model.bin", "scheduler.bin")  # fmt: skip
"""Names under which other programs keep pickles."""


class Armed:
    """An object whose unpickling makes a folder, in one of several ways."""

    def __init__(self, action: Callable[..., Any], *given: Any) -> None:
        self._made_by = action, given

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._made_by


def pickles(marker: Path) -> dict[str, bytes]:
    """Each way to run something, as a bare pickle and as `torch.save` writes it."""
    actions = {
        "os.mkdir": Armed(os.mkdir, str(marker)),
        "os.system": Armed(os.system, f"mkdir {marker}"),
        "exec": Armed(exec, f"import os; os.mkdir({str(marker)!r})"),
        "subprocess": Armed(subprocess.call, ["mkdir", str(marker)]),
    }
    found = {}
    for name, armed in actions.items():
        found[f"{name}, bare"] = pickle.dumps(armed)
        whole = io.BytesIO()
        torch.save({"state": armed}, whole)
        found[f"{name}, torch.save"] = whole.getvalue()
    return found


class Witness:
    """An audit hook. It cannot be taken away again, so whoever makes one is a forked child."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._watching = False
        sys.addaudithook(self._note)

    def _note(self, event: str, given: tuple[Any, ...]) -> None:
        if self._watching and event in FORBIDDEN:
            self.seen.append(event)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what is forbidden, from nothing."""
        self.seen.clear()
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
