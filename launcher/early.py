"""Before the first step: a signal that asks for the end ends the process at once, with code 75.

From its first step on a run saves before it leaves (`launcher.stop`). Until then, while torch is
imported, data are fetched and the model is built, there is nothing to save, and what is left half
done is what a kill would leave. It takes a thread to leave: the main one may wait within torch for
another process, where Python calls no handler.
"""

import os
import signal
import threading
from contextlib import suppress
from os import _exit
from types import FrameType
from typing import Final

from launcher.errors import Preempted

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
_writing: int | None = None
"""Where Python writes the numbers of signals; a thread reads them."""


def take() -> None:
    """Obey SIGTERM and SIGHUP in this way until `give_way`, if nobody else does or ignores them."""
    global _writing
    if _writing is not None or threading.current_thread() is not threading.main_thread():
        return
    reading, _writing = os.pipe()
    os.set_blocking(_writing, False)
    signal.set_wakeup_fd(_writing, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, noticed)
    threading.Thread(target=_listen, args=(reading,), name="early", daemon=True).start()


def noticed(number: int, frame: FrameType | None) -> None:
    """The handler: Python notices the signal, and the thread acts."""


def give_way() -> None:
    """Signals are somebody else's from now on: his who has put another handler in this one's place,
    or the system's."""
    global _writing
    if _writing is None:
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is noticed:
            signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.close(_writing)
    _writing = None


# A child that was forked meanwhile is ended by what is sent to it, and must not end its parent.
os.register_at_fork(after_in_child=give_way)


def _listen(reading: int) -> None:
    while number := os.read(reading, 1):
        if number[0] in _SIGNALS:
            _leave(signal.Signals(number[0]).name)
    os.close(reading)


def _leave(name: str) -> None:
    process = os.environ.get("RANK", "0")
    who = "" if process == "0" else f"process {process}: "
    words = (
        f"{who}stopped by {name} before the first step of this attempt: nothing was lost, and the "
        f"same command begins or continues the run\n"
    )
    with suppress(OSError):  # nobody reads
        os.write(2, words.encode())
    _exit(Preempted.code)
