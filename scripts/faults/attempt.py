"""One start of a training command, what it said, and how it is killed.

Most attempts are forks of the nursery; some are new interpreters, by `python -m launcher` or by
torchrun, so that nothing rests on the nursery alone. A process belongs to an attempt when it works
in the attempt's folder: torchrun gives each worker a session of its own, so a process group is not
enough to find them.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from faults.nursery import Nursery, environment

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


@dataclass(frozen=True)
class Command:
    """What to start: a function of a module with arguments, in a number of processes."""

    call: str
    arguments: list[str]
    processes: int = 1


class Attempt:
    """A started command. Use as a context: leaving it ends what is left of it."""

    def __init__(self, nursery: Nursery, command: Command, folder: Path, *, fresh: bool) -> None:
        self.folder = folder
        self.fresh = fresh
        self.said = b""
        self.codes: dict[int, int] = {}
        self.victim: int | None = None
        """The rank that was killed alone."""
        self._nursery = nursery
        self._output, theirs = os.pipe()
        os.set_blocking(self._output, False)
        self._interpreter: subprocess.Popen[bytes] | None = None
        try:
            if fresh:
                self._interpreter = _interpreter(command, folder, theirs)
                self.processes = [self._interpreter.pid]
            else:
                self.processes = _forks(nursery, command, folder, theirs)
        finally:
            os.close(theirs)
        self._ends = {os.pidfd_open(pid): pid for pid in self.processes}

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.watch(time.monotonic() + 30)
        os.close(self._output)
        for end in self._ends:
            os.close(end)

    def watch(self, until: float) -> bool:
        """Read what it says until it has ended (True) or the time is over."""
        while len(self.codes) < len(self.processes):
            if (wait := until - time.monotonic()) <= 0:
                return False
            waiting = [end for end, pid in self._ends.items() if pid not in self.codes]
            ready, _, _ = select.select([self._output, *waiting], [], [], wait)
            self._read()
            for end in ready:
                if end in self._ends:
                    self.codes[self._ends[end]] = self._reap(self._ends[end])
                elif len(ready) == 1:
                    time.sleep(0.001)  # its end of the pipe is closed, and it ends in a moment
        self._read()
        return True

    def kill(self, rank: int | None = None) -> bool:
        """SIGKILL to everything, at once, or to the process of one rank only; False when that one
        is not there yet."""
        if rank is not None:
            victim = self.worker(rank)
            if victim is None or not _sent(victim):
                return False
            self.victim = rank
            return True
        alive = [pid for pid in self.processes if pid not in self.codes]
        for pid in alive:  # the agent first, or it would tell its workers
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.processes[0], signal.SIGKILL)
            _sent(pid)
        for pid in members(self.folder):
            _sent(pid)
        return bool(alive)

    def worker(self, rank: int) -> int | None:
        """The process of one rank."""
        if not self.fresh:
            return self.processes[rank]
        for pid in members(self.folder):
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"RANK=%d" % rank in variables:
                return pid
        return None

    @property
    def killed(self) -> bool:
        """Whether a kill met it, and not its end."""
        codes = self.codes.values()
        return -signal.SIGKILL in codes or (self.victim is not None and any(codes))

    @property
    def lines(self) -> list[str]:
        """The whole lines it has said so far."""
        return self.said[: self.said.rfind(b"\n") + 1].decode(errors="replace").splitlines()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._output, 1 << 16):
                self.said += chunk

    def _reap(self, pid: int) -> int:
        return self._nursery.reap(pid) if self._interpreter is None else self._interpreter.wait()


def members(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(path / "cwd") == str(folder):
                found.append(int(path.name))
    return found


def gone(folder: Path, seconds: float) -> bool:
    """Whether no process works in the folder, at the latest after some seconds."""
    until = time.monotonic() + seconds
    while members(folder):
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def _sent(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _forks(nursery: Nursery, command: Command, folder: Path, output: int) -> list[int]:
    port = _free_port()
    found: list[int] = []
    for rank in range(command.processes):
        several = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(command.processes),
            "LOCAL_WORLD_SIZE": str(command.processes), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
        found.append(
            nursery.fork(
                command.call, command.arguments, folder, output, found[0] if found else 0,
                several if command.processes > 1 else {},
            )
        )  # fmt: skip
    return found


def _interpreter(command: Command, folder: Path, output: int) -> subprocess.Popen[bytes]:
    by = TORCHRUN if command.processes > 1 else ()
    return subprocess.Popen(
        [sys.executable, "-m", *by, command.call.partition(".")[0], *command.arguments],
        cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, stdout=output,
        stderr=output, start_new_session=True,
    )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
