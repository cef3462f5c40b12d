"""A process beside training that passes a run's records on: `python -m launcher.follower`.

It reads the run folder and feeds one tracker, which may be slow, hang or fail: the training process
started it, and does not wait for it before the run's end. Only what a checkpoint has made durable
is passed on, so that no record is taken back when the run is killed and continues; the last step
goes with the outcome, when the run has finished. Each new attempt asks the tracker which step it
has and goes on behind that.
"""

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from launcher import held
from launcher.documents import read_json
from launcher.order import FINISHED, GONE, STOPPED, Order

LOOK: Final = 0.5
"""Seconds between two looks at the run folder."""
LAST_BREATH: Final = 10.0
"""Seconds to live after the training process is gone."""


class Sink(Protocol):
    """A tracker. What it raises ends its follower, and nothing else."""

    last: int
    """The last step that it has, -1 for none."""

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """All numbers of a step, later than `last`."""

    def outcome(self, document: Mapping[str, Any]) -> None:
        """What outcome.json holds about the last step."""

    def finish(self, *, finished: bool) -> str | None:
        """Bring everything to its place; a sentence for the user, or nothing."""


class Told:
    """What the training process says, on a pipe: the order, then how the run ended. Its silent end
    counts as `GONE`, after which this process lives for some seconds only, whatever it waits for.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._from = descriptor
        self._rest = b""
        self.order = Order(**json.loads(self._line() or b"{}"))
        self.word = ""
        self._news = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, seconds: float) -> str:
        """How the run ended, as soon as that is known; nothing while it goes on."""
        self._news.wait(seconds)
        return self.word

    def _listen(self) -> None:
        while (line := self._line()) is not None:
            self.word = line.decode()
            self._news.set()
        self.word = self.word or GONE
        self._news.set()
        threading.Event().wait(LAST_BREATH)
        end_all()

    def _line(self) -> bytes | None:
        """The next line; None when the training process is gone."""
        parent = self.order.parent if hasattr(self, "order") else os.getppid()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], LOOK)
            data = os.read(self._from, 1 << 16) if ready else b""
            # Something that training forked may hold the other end longer than it lives.
            if (ready and not data) or os.getppid() != parent:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line


class Rows:
    """The records of a run by step, read on as metrics.jsonl grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._waiting: dict[int, dict[str, float]] = {}

    def up_to(self, step: int) -> Iterator[tuple[int, dict[str, float]]]:
        """The steps that are new, up to one that is durable, each with all its numbers: a line of
        training and one of evaluation are one row. What is not finite is nan."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            values = {k: float("nan") if v is None else v for k, v in record.items() if k != "step"}
            self._waiting.setdefault(record["step"], {}).update(values)
        for ready in sorted(self._waiting):
            if ready <= step:
                yield ready, self._waiting.pop(ready)


def follow(order: Order, sink: Sink, told: Told) -> str | None:
    """Pass on what is durable, until the run ends; the tracker's last words."""
    folder = Path(order.folder)
    rows = Rows(folder / "metrics.jsonl")
    new = 0
    while True:
        word = told.wait(LOOK)
        if word == GONE:  # the folder may be another process's by now, which has a follower too
            break
        durable = read_json(folder / "status.json").get("last_committed_step") or 0
        # The newest row waits for the outcome, which belongs to it when the run ends there.
        last = {"": durable - 1, STOPPED: durable, FINISHED: order.total_steps}[word]
        for step, values in rows.up_to(last):
            if step > sink.last:
                sink.row(step, values)
                sink.last = new = step
        if word:
            break
    try:
        outcome = read_json(folder / "outcome.json") if word == FINISHED and new else {}
        if outcome.get("format") == 1 and outcome.get("step") == new:
            sink.outcome(outcome)
    finally:  # the numbers are worth more than the pictures
        words = sink.finish(finished=word == FINISHED)
    return words


def end_all() -> None:
    """End this process and what its tracker has started: they are a group of their own."""
    os.killpg(0, signal.SIGKILL)


def _sink(order: Order) -> Sink:
    if order.tracker == "tensorboard":
        from launcher.tensorboard_run import TensorboardRun

        return TensorboardRun(order)
    from launcher.wandb_run import WandbRun

    return WandbRun(order)


def main() -> None:
    """Follow the run that standard input names; sentences for the user go to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for training, which then tells us
    os.nice(19)
    speak = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # trackers are not asked
    told = Told()
    order = told.order
    try:
        # That of an attempt which was killed may still be at work.
        held.Lock(Path(order.folder) / f".{order.tracker}.lock").acquire(wait=True)
        words = follow(order, _sink(order), told)
        code = 0
    except Exception as error:  # the end of this process: nothing goes on with what is broken
        reason = " ".join(f"{error}".split()).rstrip(".") or type(error).__name__
        words = f"warning: {order.tracker} has stopped: {reason}. metrics.jsonl is complete."
        code = 1
    if words:
        os.write(speak, words.encode() + b"\n")
    sys.stderr.flush()
    os._exit(code)  # without waiting for what a broken tracker has left


if __name__ == "__main__":
    main()
