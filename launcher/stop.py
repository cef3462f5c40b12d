"""Signals, and agreeing on them across processes.

A handler only notes what was asked. The loop looks once per step; several processes tell each other
through an integer on the host, started at one step and read some steps later, so that nobody waits
and all of them stop, or save, after the same step.

    SIGTERM, SIGINT, SIGHUP   save and leave with code 75: the same command continues
    SIGINT a second time      leave at once with code 130
    SIGUSR1                   save and go on

Before a run takes signals so, they are obeyed as in `launcher.early`.
"""

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum
from os import _exit
from types import FrameType
from typing import Final

import torch
import torch.distributed as dist

from launcher import early
from launcher.errors import INTERRUPTED

EVERY: Final = 4
"""Steps between two questions: a signal is obeyed after at most twice as many."""


class Asked(IntEnum):
    """What somebody wants, in the order of its weight."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class Stop:
    """Takes the signals of this process for as long as it is entered."""

    def __init__(self, processes: int, farewell: Callable[[], str], timeout: float = 600.0) -> None:
        """`farewell` gives the last words when a second SIGINT ends the process; `timeout` is in
        seconds, for an answer of the other processes."""
        self._asked = Asked.NOTHING
        self._why = ""
        self._interrupts = 0
        self.signalled = False
        """Whether a signal asked for the end, which the run may have come to without obeying it."""
        self._farewell = farewell
        self._before: dict[signal.Signals, object] = {}
        # A group of its own on the host: the question must not queue behind gradients.
        self._group: dist.ProcessGroup | None = None
        if processes > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))  # type: ignore[assignment]
        self._value = torch.zeros(1, dtype=torch.int32)
        self._pending: dist.Work | None = None

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # as `nohup` has it: the run is to outlive its terminal
                before = signal.signal(number, self._note)
                self._before[number] = signal.SIG_DFL if before is early.noticed else before
            early.give_way()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # One of several processes is about to end, and says why: a launcher that has lost
            # another one sends SIGTERM in just that moment. And who was told to stop ends as it
            # said, with code 75, however often that is said again.
            ends = self._group is not None or self.signalled
            last_words = ends and number in (signal.SIGTERM, signal.SIGHUP)
            signal.signal(number, signal.SIG_IGN if last_words else handler)  # type: ignore[arg-type]
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os.write(2, f"\n{self._farewell()}\n".encode())
                _exit(INTERRUPTED)
        asked = Asked.SAVE if number == signal.SIGUSR1 else Asked.STOP
        self.signalled |= asked is Asked.STOP
        self.ask(asked, signal.Signals(number).name)

    def ask(self, what: Asked, why: str) -> None:
        """Ask for something in this process; it happens when all have agreed."""
        if what > self._asked:
            self._asked, self._why = what, why

    @property
    def why(self) -> str:
        """What asked this process, or that it was another one."""
        return self._why or "another process was asked"

    def agreed(self, step: int) -> Asked:
        """What all processes do after this step: the same answer in each, at the same step."""
        if self._group is None:
            return self._take()
        if step % EVERY:
            return Asked.NOTHING
        answer = self._finish()
        self._value[0] = int(self._take())
        self._pending = dist.all_reduce(
            self._value, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return answer

    def drain(self) -> None:
        """Wait for the last question, at the end of a run, so that no process asks in vain."""
        self._finish()

    def _take(self) -> Asked:
        asked, self._asked = self._asked, Asked.NOTHING
        return asked

    def _finish(self) -> Asked:
        if self._pending is None:
            return Asked.NOTHING
        self._pending.wait()
        self._pending = None
        return Asked(int(self._value))
