"""Children that are forked, say bytes through a pipe, and may be killed at any instant.

Forked and not started: the child has torch and all else imported, and lives within milliseconds.
"""

import os
import signal
import traceback
import warnings
from collections.abc import Callable

Say = Callable[[bytes], None]


class Child:
    """A child process at its work. Whoever makes one waits for it."""

    def __init__(self, work: Callable[[Say], None]) -> None:
        self._heard, speaks = os.pipe()
        with warnings.catch_warnings():  # Python 3.12 warns of threads, which torch's pools are
            warnings.simplefilter("ignore", DeprecationWarning)
            self.number = os.fork()
        if self.number == 0:
            _live(self._heard, speaks, work)
        os.close(speaks)

    def hear(self, size: int) -> bytes:
        """What the child says next: `size` bytes, or fewer when it has ended."""
        said = b""
        while len(said) < size and (more := os.read(self._heard, size - len(said))):
            said += more
        return said

    def kill(self) -> None:
        """SIGKILL, which nobody can catch."""
        os.kill(self.number, signal.SIGKILL)

    def wait(self) -> tuple[int, bytes]:
        """The exit code, negative for a signal, and all that the child said and nobody heard."""
        said = b""
        while more := os.read(self._heard, 1 << 16):
            said += more
        os.close(self._heard)
        _, status = os.waitpid(self.number, 0)
        return os.waitstatus_to_exitcode(status), said


def _live(heard: int, speaks: int, work: Callable[[Say], None]) -> None:
    code = 1
    try:
        os.close(heard)
        work(lambda said: _say(speaks, said))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # no cleaning up of what belongs to the parent


def _say(speaks: int, said: bytes) -> None:
    rest = memoryview(said)
    while rest:
        rest = rest[os.write(speaks, rest) :]
