"""Ending with the process that began this one, which may be killed and then ends nobody."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(number: signal.Signals = signal.SIGTERM, parent: int | None = None) -> None:
    """Ask Linux for a signal when the process that began this one is gone; `parent` is its number,
    for whoever knows it from before: it may be gone already.

    `accelerate launch` with one process does not pass SIGTERM on, a killed agent leaves its
    processes training, unseen, and a killed run its loader processes.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), number)
