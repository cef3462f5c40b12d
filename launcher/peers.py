"""What the processes of a run tell each other beside training: that they live, and why one failed.

When a process dies, the others only learn that a connection was closed. So each keeps an entry in
the store through which they met: where it runs and how far it is. The first to fail leaves a note
there. Whoever loses its peers reads the note, or finds who is gone.

The entries are JSON, and nothing in them is ever executed. One that none of us wrote counts as
none: whoever reaches the store must not be able to end the thread that reads it.
"""

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar, get_origin

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from launcher.answers import PatientStore
from launcher.errors import LauncherError

Entry = TypeVar("Entry")
_FAILURE: Final = "failure"
_MOST_TEXT: Final = 20_000
GONE_AFTER: Final = 5.0
"""Seconds without a sign of life after which a process on another machine counts as gone."""


@dataclass(frozen=True)
class Failure:
    """Why a process ended: what its refusal says, for the others to show."""

    process: int
    code: int
    title: str
    problems: list[str]
    frames: str

    def error(self) -> LauncherError:
        """The refusal of the other process, as one of this process."""
        error = LauncherError(*self.problems)
        error.code, error.title = self.code, self.title
        error.frames, error.process = self.frames, self.process
        return error


@dataclass(frozen=True)
class Sign:
    """A process as it last showed itself."""

    pid: int
    host: str
    beats: int
    """Parts of steps that it has done: the one with the fewest is waited for."""
    step: int
    number: int
    """Of the sign: one that stays the same is no sign of life."""


class Peers:
    """This process's view of all. Only for several processes that have met."""

    def __init__(self, process: int, processes: int) -> None:
        """Raises RuntimeError (of torch) when the store cannot be reached."""
        self.process, self.processes = process, processes
        # A connection of our own: torch's may be waiting in another thread.
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            wait_for_workers=False, timeout=timedelta(seconds=10),
        )  # fmt: skip
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PatientStore(PrefixStore(f"launcher/{restart}", store))
        self._number = 0
        self.hosts: dict[int, str] = {}
        """The machine of each process, once `meet` has asked."""

    def meet(self) -> None:
        """Note where each process is, after an exchange with all: each has shown itself before."""
        self.hosts = {number: sign.host for number, sign in self.signs().items()}

    def elsewhere(self) -> str | None:
        """The machine through which all met, if that is another one."""
        host = self.hosts.get(0)
        return None if host == socket.gethostname() else host

    def show(self, beats: int, step: int) -> None:
        """Leave a sign of life."""
        self._number += 1
        sign = Sign(os.getpid(), socket.gethostname(), beats, step, self._number)
        self._store.set(f"sign/{self.process}", json.dumps(asdict(sign)))

    def fail(self, error: BaseException, code: int, frames: str) -> None:
        """Leave the note on why this process ends, unless another one was first."""
        failure = Failure(
            self.process, code, getattr(error, "title", "bug"),
            [str(text)[:_MOST_TEXT] for text in getattr(error, "problems", (repr(error),))],
            frames[-_MOST_TEXT:],
        )  # fmt: skip
        self._store.compare_set(_FAILURE, "", json.dumps(asdict(failure)))

    def failure(self) -> Failure | None:
        """The note of the process that failed first, if there is one."""
        return self._read(_FAILURE, Failure)

    def wait_for_failure(self, seconds: float) -> Failure | None:
        """The same, given some time, but not for a process that is gone and left none."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._gone_here():
            if failure := self.failure():
                return failure
            time.sleep(0.05)
        return self.failure()

    def signs(self) -> dict[int, Sign]:
        """Every process that has shown itself."""
        found = {number: self._read(f"sign/{number}", Sign) for number in range(self.processes)}
        return {number: sign for number, sign in found.items() if sign is not None}

    def gone(self) -> dict[int, str]:
        """The processes that live no more, with where they were. Takes some seconds for those on
        other machines."""
        here = socket.gethostname()
        before = self.signs()
        gone = self._gone_here()
        if gone or all(sign.host == here for sign in before.values()):
            return gone
        time.sleep(GONE_AFTER)
        after = self.signs()
        return {n: _where(sign) for n, sign in after.items()
                if before.get(n) == sign and n != self.process}  # fmt: skip

    def _gone_here(self) -> dict[int, str]:
        return {n: _where(sign) for n, sign in self.signs().items()
                if sign.host == socket.gethostname() and not _lives(sign.pid)}  # fmt: skip

    def behind(self, beats: int) -> dict[int, str]:
        """The processes that have done less than this one: the others wait for them."""
        return {n: _where(sign) for n, sign in self.signs().items()
                if n != self.process and sign.beats < beats}  # fmt: skip

    def _read(self, key: str, kind: type[Entry]) -> Entry | None:
        if self._store.check([key]):
            with suppress(ValueError, TypeError, RecursionError):  # it is not ours
                return _checked(kind(**json.loads(self._store.get(key))))
        return None


def _checked(entry: Entry) -> Entry:
    """Raises TypeError or ValueError for values that none of us would write."""
    for field in fields(entry):  # type: ignore[arg-type]
        value = getattr(entry, field.name)
        if type(value) is not (get_origin(field.type) or field.type):
            raise TypeError(field.name)
    if isinstance(entry, Failure):
        if not entry.problems or not all(isinstance(text, str) for text in entry.problems):
            raise TypeError("problems")
        if not 0 < entry.code < 256:  # to end with 0 would look like a run that finished
            raise ValueError("code")
    return entry


def _where(sign: Sign) -> str:
    return f"pid {sign.pid} on {sign.host}, last seen in step {sign.step + 1}"


def _lives(pid: int) -> bool:
    """Whether a process of this machine is there and more than an entry that waits for its parent
    to look."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()  # not Linux: nobody can tell
    except OSError:
        return True
    return about.rpartition(")")[2].split()[0] not in "ZX"
