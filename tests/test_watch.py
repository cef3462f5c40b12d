"""A run that stands still is ended; one that works, waits to begin, or was suspended is not."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest
from conftest import HANGS, ROOT, eventually, write_recipe

from launcher import watch as watch_module
from launcher.errors import DistributedError
from launcher.peers import Failure, Peers
from launcher.watch import GRACE, Watch

RUN = Path("checkpoints/run")
LOOK = watch_module._LOOK


class Clock:
    """Time that passes by half a second from look to look, so that a test takes none.

    The watch's thread is held between two looks until `look` lets it go on.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.ended = False
        self._turn = threading.Condition()
        self._looks = 0
        self._done = 0

    def monotonic(self) -> float:
        return self.now

    def wait(self, event: threading.Event) -> bool:
        """Of the watch's thread: the end of a look, and the beginning of the next."""
        with self._turn:
            self._done += 1
            self._turn.notify_all()
            while self._looks < self._done and not event.is_set():
                self._turn.wait(0.01)
            return event.is_set()

    def pass_by(self, seconds: float, *, at_once: bool = False) -> None:
        """Let time pass, with all the looks that belong to it; at once: as for a process that was
        stopped, with one look at its end."""
        looks = 1 if at_once else round(seconds / LOOK)
        for _ in range(looks):
            self.now += seconds / looks
            with self._turn:
                self._looks += 1
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._done > self._looks or self.ended, 10)

    def end(self) -> None:
        """Of the watch's thread: it looks no more."""
        with self._turn:
            self.ended = True
            self._turn.notify_all()


class Ended(BaseException):
    """Ends the watch's thread, as `_exit` would end the process."""


class FakePeers:
    """What the store would say."""

    def __init__(self) -> None:
        self.note: Failure | None = None
        self.late: dict[int, str] = {}
        self.left: list[tuple[str, int]] = []
        self.shown: list[tuple[int, int]] = []
        self.gone = False

    def show(self, beats: int, step: int) -> None:
        if self.gone:
            raise RuntimeError("Broken pipe")
        self.shown.append((beats, step))

    def failure(self) -> Failure | None:
        return self.note

    def behind(self, beats: int) -> dict[int, str]:
        if self.gone:
            raise RuntimeError("Broken pipe")
        return self.late

    def fail(self, error: BaseException, code: int, frames: str) -> None:
        self.left.append((str(error), code))


class Watched:
    """A watch with a clock of its own, and what it did instead of ending this process."""

    def __init__(self, timeout: float, process: int, peers: FakePeers | None) -> None:
        self.codes: list[int] = []
        self.noted: list[tuple[type[BaseException], int]] = []
        self.watch = Watch(timeout, process, cast(Peers | None, peers))
        self.watch.on_end = lambda error, code: self.noted.append((type(error), code))


Make = Callable[..., Watched]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return clock.wait(self)

    class Thread(threading.Thread):
        def run(self) -> None:
            with suppress(Ended):
                super().run()
            clock.end()

    made: list[Watched] = []

    def leave(code: int) -> NoReturn:
        made[-1].codes.append(code)
        raise Ended

    monkeypatch.setattr(watch_module, "threading", SimpleNamespace(Event=Event, Thread=Thread))
    monkeypatch.setattr(watch_module, "time", clock)
    monkeypatch.setattr(watch_module, "_exit", leave)

    def make(timeout: float = 10.0, process: int = 0, peers: FakePeers | None = None) -> Watched:
        made.append(Watched(timeout, process, peers))
        return made[-1]

    yield make
    for each in made:
        each.watch.stop()


# ── alone ───────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_stands_still_is_ended_with_stacks_and_a_reason(
    make: Make, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    watched = make()
    watched.watch.begin_step(4)
    clock.pass_by(10)
    assert watched.codes == []
    clock.pass_by(1)
    assert watched.codes == [9]
    assert watched.noted == [(DistributedError, 9)]
    said = capfd.readouterr().err
    assert "most recent call first" in said
    assert "test_watch.py" in said, "the stacks of all threads, also of the one that hangs"
    assert "the run did nothing for 10 s, in step 5." in said
    assert "timeout= gives more time" in said


def test_nothing_is_demanded_before_the_first_step(make: Make, clock: Clock) -> None:
    """Data may be loaded, a model compiled: nobody knows for how long."""
    watched = make()
    clock.pass_by(100)
    assert watched.codes == []
    watched.watch.begin_step(0)
    clock.pass_by(9)
    assert watched.codes == []
    clock.pass_by(2)
    assert watched.codes == [9]


@pytest.mark.parametrize("sign", ["beat", "pulse", "begin_step"])
def test_any_sign_of_progress_starts_the_time_anew(make: Make, clock: Clock, sign: str) -> None:
    watched = make()
    watched.watch.begin_step(0)
    for step in range(1, 6):
        clock.pass_by(9)
        getattr(watched.watch, sign)(*([step] if sign == "begin_step" else []))
    clock.pass_by(9)
    assert watched.codes == []


def test_a_process_that_was_suspended_has_all_its_time_again(make: Make, clock: Clock) -> None:
    watched = make()
    watched.watch.begin_step(0)
    clock.pass_by(8)
    clock.pass_by(10_000, at_once=True)
    assert watched.codes == []
    clock.pass_by(9)
    assert watched.codes == []
    clock.pass_by(2)
    assert watched.codes == [9]


def test_a_watch_that_was_stopped_ends_nothing(make: Make, clock: Clock) -> None:
    watched = make()
    watched.watch.begin_step(0)
    watched.watch.stop()
    assert clock.ended
    clock.now += 1000
    assert watched.codes == []
    watched.watch.stop()  # again


def test_a_note_that_cannot_be_written_keeps_nobody_alive(make: Make, clock: Clock) -> None:
    def broken(error: BaseException, code: int) -> None:
        raise OSError("the disk is gone")

    watched = make()
    watched.watch.on_end = broken
    watched.watch.begin_step(0)
    clock.pass_by(11)
    assert watched.codes == [9]


def test_beats_of_a_step_are_counted_from_the_same_number_in_every_process() -> None:
    """One that continued at step 7 is not behind one that began there."""
    one, other = Watch(100), Watch(100)
    one.begin_step(6)
    for _ in range(1000):
        one.beat()
    one.begin_step(7)
    other.begin_step(7)
    assert one._beats == other._beats
    assert one._beats > other._beats - 1 > 1000
    one.stop()
    other.stop()


# ── with others ─────────────────────────────────────────────────────────────────────────────────


def test_a_sign_of_life_is_shown_at_every_look(make: Make, clock: Clock) -> None:
    peers = FakePeers()
    watched = make(peers=peers)
    clock.pass_by(1)
    watched.watch.begin_step(3)
    clock.pass_by(1)
    watched.watch.beat()
    clock.pass_by(0.5)
    assert [step for _, step in peers.shown] == [0, 0, 3, 3, 3]
    beats = [beats for beats, _ in peers.shown]
    assert beats[0] == 0
    assert beats[4] == beats[3] + 1


def test_who_is_waited_for_is_named_and_told_to_the_others(
    make: Make, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    peers = FakePeers()
    peers.late = {1: "pid 7 on here, last seen in step 2"}
    watched = make(process=2, peers=peers)
    watched.watch.begin_step(4)
    clock.pass_by(10 + GRACE)
    assert watched.codes == [], "an exchange has the time of grace to end by itself"
    clock.pass_by(1)
    assert watched.codes == [9]
    said = capfd.readouterr().err
    assert "process 1 (pid 7 on here, last seen in step 2) did not answer for 14 s." in said
    ((note, code),) = peers.left
    assert note.startswith("process 1 (pid 7 on here")
    assert code == 9


def test_the_one_that_is_behind_speaks_of_itself(
    make: Make, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    watched = make(process=1, peers=FakePeers())
    watched.watch.begin_step(4)
    clock.pass_by(14)
    assert watched.codes == [9]
    assert "process 1 did nothing for 14 s, in step 5." in capfd.readouterr().err


def test_the_first_of_those_who_wait_warns_once(
    make: Make, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    peers = FakePeers()
    peers.late = {1: "pid 7 on here, last seen in step 2"}
    watched = make(timeout=40.0, peers=peers)
    watched.watch.begin_step(4)
    clock.pass_by(10)
    assert "slow" not in capfd.readouterr().err
    clock.pass_by(20)
    said = capfd.readouterr().err
    assert said.count("is slow: the others wait since 10 s") == 1
    assert watched.codes == []


def test_the_second_of_those_who_wait_leaves_the_warning_to_the_first(
    make: Make, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    peers = FakePeers()
    peers.late = {1: "somewhere"}
    watched = make(timeout=40.0, process=2, peers=peers)  # process 0 waits too
    watched.watch.begin_step(4)
    clock.pass_by(30)
    assert "slow" not in capfd.readouterr().err


@pytest.mark.parametrize("process", [0, 2])
def test_a_process_that_hangs_with_one_that_failed_is_ended_with_its_words(
    make: Make, clock: Clock, process: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without waiting for the timeout; the main process speaks."""
    peers = FakePeers()
    watched = make(process=process, peers=peers)
    watched.watch.begin_step(0)
    clock.pass_by(1)
    peers.note = Failure(1, 6, "not finite", ["the loss was not finite"], "  a frame\n")
    clock.pass_by(GRACE)
    assert watched.codes == [], "it may end by itself"
    clock.pass_by(1)
    assert watched.codes == [6]
    assert watched.noted[0][1] == 6
    said = capfd.readouterr().err
    assert (said == "  a frame\nthe loss was not finite\n") is (process == 0)
    assert peers.left == [], "the first note stays"


def test_beats_do_not_save_a_process_when_another_one_has_failed(make: Make, clock: Clock) -> None:
    peers = FakePeers()
    watched = make(peers=peers)
    watched.watch.begin_step(0)
    peers.note = Failure(1, 6, "not finite", ["text"], "")
    for _ in range(8):
        watched.watch.pulse()
        clock.pass_by(0.5)
    assert watched.codes == [6]


def test_the_own_note_ends_nothing(make: Make, clock: Clock) -> None:
    """The process ends by itself, and says more than a watch could."""
    peers = FakePeers()
    watched = make(process=1, peers=peers)
    watched.watch.begin_step(0)
    peers.note = Failure(1, 6, "not finite", ["text"], "")
    clock.pass_by(8)
    assert watched.codes == []


def test_a_store_that_is_gone_does_not_end_the_watch(make: Make, clock: Clock) -> None:
    peers = FakePeers()
    peers.gone = True
    watched = make(peers=peers)
    watched.watch.begin_step(0)
    assert watched.watch.waited_for() == ""
    clock.pass_by(14)
    assert watched.codes == [9], "it watches without the store"


# ── whole processes ─────────────────────────────────────────────────────────────────────────────

STANDS_STILL = """
import time
from pathlib import Path

def loss(model, batch):
    global passes
    passes += model.training
    while passes == 3 and not Path("go").exists():
        time.sleep(0.02)
    return losses.cross_entropy(model, batch)

passes = 0
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    """A run whose third step waits for a file."""
    write_recipe(STANDS_STILL)
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", "tiny.py", "name=run", "threads=1",
         "checkpoint_every=2", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_whole_run_that_stands_still_ends_with_code_9_and_a_status() -> None:
    run = started("timeout=6")
    _, said = run.communicate(timeout=HANGS)
    assert run.returncode == 9
    assert "most recent call first" in said
    assert "tiny.py" in said, "the line that hangs is among the stacks"
    assert "the run did nothing for 6 s, in step 3." in said
    about = json.loads((RUN / "status.json").read_text())
    assert (about["state"], about["code"]) == ("failed", 9)
    assert "did nothing for 6 s, in step 3" in about["reason"]
    assert about["last_committed_step"] == 2
    assert about["failures"] == 0, "the next attempt may be on a machine that works"


@pytest.mark.slow
def test_a_whole_run_that_was_suspended_goes_on() -> None:
    """For 9 s, with a timeout of 6, in the middle of a step."""
    run = started("timeout=6")
    path = RUN / "status.json"
    eventually(lambda: path.exists() and json.loads(path.read_text())["last_committed_step"] == 2)
    time.sleep(2)  # the watch looks twice a second: it has seen this step begin,
    run.send_signal(signal.SIGSTOP)
    time.sleep(9)
    run.send_signal(signal.SIGCONT)
    time.sleep(2)  # and sees it stand afterwards
    Path("go").touch()
    _, said = run.communicate(timeout=HANGS)
    assert run.returncode == 0, said
