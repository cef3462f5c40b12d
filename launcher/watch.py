"""A thread that ends a run which has come to a stand: nothing else would, and a machine would stay
taken by a run that does nothing.

The loop beats after every part of a step. When no beat comes for `timeout` seconds, the stacks of
all threads are written to standard error and the process ends with code 9, saying who is waited
for. With several processes the thread also shows them that this one lives, and ends it when another
one has failed and this one hangs in an exchange with it.
"""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from os import _exit
from typing import Final

from launcher.errors import DistributedError, LauncherError, listed
from launcher.peers import Failure, Peers

_LOOK: Final = 0.5
"""Seconds between two looks."""
GRACE: Final = 3.0
"""Seconds that a process has to end by itself, after another one has failed or an exchange with it
has timed out."""


class Watch:
    """Watches this process from its making until `stop`."""

    def __init__(self, timeout: float, process: int = 0, peers: Peers | None = None) -> None:
        """`timeout` in seconds; `peers` where there are several processes."""
        self.timeout = timeout
        self.peers = peers
        self.on_end: Callable[[BaseException, int], None] = lambda error, code: None
        """What to note before this process is ended."""
        self.step = 0
        self._process = process
        self._beats = 0
        self._pulses = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    def begin_step(self, step: int) -> None:
        """Training is at a step, counted from 0; from the first one on, standing still is noticed.
        Every process counts its beats from the same number."""
        self.step = step
        self._beats = (step + 1) << 20

    def beat(self) -> None:
        """A part of a step is done, the same in every process. Costs an addition."""
        self._beats += 1

    def pulse(self) -> None:
        """Something else was done, of which processes have different numbers."""
        self._pulses += 1

    def stop(self) -> None:
        """Watch no more."""
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def waited_for(self) -> str:
        """Who has not come to the exchange that this process waits in; nothing if it is alone."""
        return listed(f"process {n} ({where})" for n, where in self._behind().items())

    def _slow(self) -> str:
        """The same, for the first of those who wait: one warning is enough."""
        first = set(range(self._process)) <= self._behind().keys()
        return self.waited_for() if first else ""

    def _behind(self) -> dict[int, str]:
        if self.peers is not None:
            with suppress(RuntimeError, OSError):  # the store may be gone with the launcher
                return self.peers.behind(self._beats)
        return {}

    def _look(self) -> None:
        moved, warned, failed_at = (0, 0), False, 0.0
        since = looked = time.monotonic()
        while not self._ended.wait(_LOOK):
            now = time.monotonic()
            # Of code that holds the interpreter for ever, and this thread with it: it is shown, and
            # not ended, since a run that was suspended for so long looks the same when it wakes.
            faulthandler.dump_traceback_later(self.timeout + 30, exit=False, file=2)
            suspended = now - looked > 10 * _LOOK
            looked = now
            if moved != (self._beats, self._pulses) or suspended or not self._beats:
                moved, since = (self._beats, self._pulses), now
            failure = self._exchange()
            if failure is not None and failure.process != self._process:
                failed_at = failed_at or now
                if now - failed_at > GRACE:
                    self._end(failure.error(), failure.code, stacks=False)
            elif now - since > self.timeout + GRACE * (self.peers is not None):
                self._end(DistributedError(self._stuck(now - since)), DistributedError.code)
            elif now - since > self.timeout / 4 and not warned and (who := self._slow()):
                warned = True
                self._say(f"warning: {who} is slow: the others wait since {now - since:.0f} s")

    def _exchange(self) -> Failure | None:
        if self.peers is None:
            return None
        with suppress(RuntimeError, OSError):
            self.peers.show(self._beats, self.step)
            return self.peers.failure()
        return None

    def _stuck(self, seconds: float) -> str:
        advice = (
            "The stacks of all threads are above. The same command continues from the last "
            "checkpoint; timeout= gives more time."
        )
        if who := self.waited_for():
            return f"{who} did not answer for {seconds:.0f} s. {advice}"
        me = f"process {self._process}" if self.peers is not None else "the run"
        return f"{me} did nothing for {seconds:.0f} s, in step {self.step + 1}. {advice}"

    def _end(self, error: LauncherError, code: int, stacks: bool = True) -> None:
        if stacks:
            faulthandler.dump_traceback(file=2, all_threads=True)
        with suppress(Exception):  # nothing may keep this process alive
            if self.peers is not None and stacks:
                self.peers.fail(error, code, "")
        if stacks or self._process == 0:
            self._say(f"{error.frames}{error}")
        with suppress(Exception):
            self.on_end(error, code)
        _exit(code)

    @staticmethod
    def _say(text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
