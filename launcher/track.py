"""Trackers, as training sees them: processes that it starts, and waits for when it has ended.

A follower (see `follower.py`) reads the run folder by itself. The loop does nothing for it, so that
a tracker which is slow, hangs or fails cannot change a run; one line says what it met.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal

from launcher import login
from launcher.errors import SettingsError
from launcher.order import FINISHED, STOPPED, Order
from launcher.request import Request
from launcher.settings import RunSettings

PATIENCE = 60.0
"""Seconds that a finished run waits for its trackers."""
HURRY = 5.0
"""Seconds that a run waits which was stopped or failed, and continues another time; and one that
finished while somebody asked for its end."""
_QUIET = 3.0
"""Seconds of waiting about which nothing is said."""


class Tracker:
    """The followers of a run; none until `start`. Entered, it is left when the run has ended."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` shows a line to the user, from any thread."""
        self.finished = False
        """Whether the run reached its end: set by whoever knows."""
        self.hurried: Callable[[], bool] = lambda: False
        """Whether somebody asked for the end when no step was left that would have obeyed."""
        self._say = say
        self._mode: login.Mode = "off"
        self._why = ""
        self._tensorboard = False
        self._followers: list[_Follower] = []

    def decide(self, settings: RunSettings) -> None:
        """Which trackers there will be. Raises SettingsError for one that cannot be."""
        self._mode, self._why = login.mode(settings.wandb)
        if settings.tensorboard and find_spec("tensorboard") is None:
            raise SettingsError(
                "tensorboard=true: it is not installed. pip install tensorboard, or leave it out."
            )
        self._tensorboard = settings.tensorboard

    def shown(self, request: Request) -> dict[str, str]:
        """Rows for the start banner."""
        rows = {"wandb": {
            "online": f"online ({self._why})",
            "offline": f"offline ({self._why}): {_sync(request, 'offline-run-*')}",
            "off": f"off ({self._why})",
        }[self._mode]}  # fmt: skip
        if self._tensorboard:
            rows["tensorboard"] = f"tensorboard --logdir {request.label / 'tensorboard'}"
        return rows

    def start(self, request: Request, step: int, total_steps: int) -> None:
        """Begin to follow a run whose folder is ours, from the step it is at."""
        settings = request.settings
        online: Literal["online", "offline"] = "online" if self._mode == "online" else "offline"
        order = Order(
            tracker="wandb", folder=str(request.folder), name=request.name, from_step=step,
            total_steps=total_steps, parent=os.getpid(), patience=PATIENCE, mode=online,
            project=settings.wandb_project, entity=settings.wandb_entity,
            group=settings.wandb_group, tags=settings.wandb_tags, artifact=settings.wandb_artifact,
        )  # fmt: skip
        if self._mode != "off":
            self._follow(order, f"This sends what W&B lacks: {_sync(request, '*run-*')}")
        if self._tensorboard:
            self._follow(dataclasses.replace(order, tracker="tensorboard"))

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not self._followers:
            return
        begun = time.monotonic()
        patient = self.finished and not self.hurried() and kind is not KeyboardInterrupt
        patience = PATIENCE if patient else HURRY
        try:
            with _interruptible():
                for follower in self._followers:
                    follower.tell(FINISHED if self.finished else STOPPED)
                for follower in self._followers:
                    if not follower.ends_within(begun + _QUIET - time.monotonic()) and patient:
                        self._say(
                            f"waiting for {follower.tracker}, {PATIENCE:.0f} s at most; Ctrl-C "
                            f"ends that"
                        )
                    follower.ends_within(begun + patience - time.monotonic())
        except KeyboardInterrupt:
            pass  # whoever waits has had enough; what the run ended with stands
        for follower in self._followers:
            follower.close()

    def _follow(self, order: Order, hint: str = "") -> None:
        try:
            self._followers.append(_Follower(order, self._say, hint))
        except OSError as error:  # no process can be had
            self._say(f"warning: {order.tracker} was not started: {error}. Training goes on.")


class _Follower:
    """One follower's process."""

    def __init__(self, order: Order, say: Callable[[str], None], hint: str = "") -> None:
        """`hint` is what to do when it does not end in time. Raises OSError."""
        self.tracker = order.tracker
        self._closing = False
        self._hint = hint
        self._say = say
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.follower"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            # A group of its own gets no Ctrl-C and can be ended whole. A session of its own would
            # take a share of the processor beside training's, whatever its priority.
            env=_environment(), process_group=0,
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, name="tracker", daemon=True)
        self._listener.start()
        self.tell(json.dumps(dataclasses.asdict(order)))

    def tell(self, words: str) -> None:
        """A line, to a process that may be gone."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(words.encode() + b"\n")
            self._process.stdin.flush()

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; whether it came."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End it, with all that it has started, if it has not ended by itself."""
        self._closing = True
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._say(
                f"warning: {self.tracker} did not end in time. metrics.jsonl is complete. "
                f"{self._hint}".rstrip()
            )
        self._listener.join(1.0)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._say(line.decode(errors="replace").rstrip())
        code = self._process.wait()
        if code < 0 and not self._closing:
            self._say(
                f"warning: {self.tracker} has stopped: something ended it with signal {-code}. "
                f"metrics.jsonl is complete."
            )


def _sync(request: Request, folders: str) -> str:
    """The command that sends W&B what lies in the run's folder."""
    return f"wandb sync {Path(os.environ.get('WANDB_DIR') or request.label) / 'wandb' / folders}"


def _environment() -> dict[str, str]:
    """For a follower: our own, the way to this package, and no password in W&B's address."""
    found = dict(os.environ)
    home = str(Path(__file__).resolve().parent.parent)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [home, found.get("PYTHONPATH")]))
    if address := found.get("WANDB_BASE_URL"):
        found["WANDB_BASE_URL"] = login.without_user(address)
    return found


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a SIGTERM end the waiting as a Ctrl-C does: the run has ended, and well."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
