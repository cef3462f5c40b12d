"""Signals: what is asked, and that all processes stop after the same step."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import HANGS, ROOT, eventually, members, write_recipe

from launcher.stop import Asked, Stop

# A step takes 20 ms, so that a signal always finds one running.
SLOW = """
import time

steps = 0

def loss(model, batch):
    global steps
    if model.training:
        steps += 1
        time.sleep(0.02)
        while steps == int(os.environ.get("WAIT_IN_STEP", "0")) and not os.path.exists("go"):
            time.sleep(0.02)
    return losses.cross_entropy(model, batch)
"""
RUN = Path("checkpoints/run")


@pytest.fixture(autouse=True)
def a_terminal_that_can_hang_up() -> Iterator[None]:
    """SIGHUP as it is at first, for runs that a test begins too: under `nohup` it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop(1, lambda: "bye") as taken:
        yield taken


@pytest.mark.parametrize(
    ("number", "asked"),
    [
        (signal.SIGTERM, Asked.STOP),
        (signal.SIGHUP, Asked.STOP),
        (signal.SIGINT, Asked.STOP),
        (signal.SIGUSR1, Asked.SAVE),
    ],
)
def test_a_signal_is_noted_and_obeyed_once(
    stop: Stop, number: signal.Signals, asked: Asked
) -> None:
    assert stop.agreed(1) is Asked.NOTHING
    os.kill(os.getpid(), number)
    assert stop.agreed(2) is asked
    assert stop.agreed(3) is Asked.NOTHING
    assert stop.why == number.name


def test_to_stop_weighs_more_than_to_save(stop: Stop) -> None:
    stop.ask(Asked.STOP, "first")
    stop.ask(Asked.SAVE, "second")
    assert stop.agreed(1) is Asked.STOP
    assert stop.why == "first"


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop(1, str):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_who_was_told_to_stop_is_not_ended_by_the_next_signal() -> None:
    with Stop(1, str):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)


# ── whole runs ──────────────────────────────────────────────────────────────────────────────────


def start(*arguments: str, by: tuple[str, ...] = (), recipe: str = SLOW) -> subprocess.Popen[str]:
    """A run of 800 slow steps (16 s) in a process group of its own."""
    write_recipe(recipe)
    command = [sys.executable, "-m", *by, *(["-m"] if by else []), "launcher", "tiny.py"]
    settings = ["name=run", "threads=1", "epochs=200", "log_every=7", "checkpoint_every=1000"]
    return subprocess.Popen(
        [*command, *settings, "evaluate_every=1000", *arguments], text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def status() -> dict[str, object]:
    path = RUN / "status.json"
    document: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
    return document


def training() -> bool:
    """Whether the first line of metrics is written."""
    path = RUN / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


def trainers() -> list[int]:
    """Those of them that train, and do not only launch."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in members()}
    return [pid for pid, line in lines.items() if line[line.index(b"-m") + 1] == b"launcher"]


def end(run: subprocess.Popen[str]) -> str:
    output, _ = run.communicate(timeout=HANGS)
    eventually(lambda: not members())
    return output


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, by: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        started.append(start(*arguments, by=by))
        return started[-1]

    yield begin
    for process in started:
        for pid in members():
            os.kill(pid, signal.SIGKILL)
        process.communicate()


Begin = Callable[..., subprocess.Popen[str]]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
CPU_2 = str(ROOT / "configs" / "machines" / "cpu_2.yaml")
CPU = str(ROOT / "configs" / "machines" / "cpu.yaml")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_ends_with_75(run: Begin, number: signal.Signals) -> None:
    process = run()
    eventually(training)
    process.send_signal(number)
    output = end(process)
    assert process.returncode == 75, output
    assert f"{number.name}: stopped after step" in output
    about = status()
    assert (about["state"], about["code"]) == ("preempted", 75)
    assert about["step"] == about["last_committed_step"]
    assert (RUN / f"step-{about['step']:012d}" / "COMMIT").exists()


def test_a_signal_that_is_sent_again_and_again_ends_with_75_too(run: Begin) -> None:
    process = run()
    eventually(training)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.002)
    output = end(process)
    assert process.returncode == 75, output
    assert status()["state"] == "preempted"


def test_a_second_interrupt_ends_at_once_with_130(
    run: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAIT_IN_STEP", "2")
    process = run("log_every=1", "checkpoint_every=1")
    eventually(lambda: status().get("last_committed_step") == 1)
    process.send_signal(signal.SIGINT)
    time.sleep(1)  # two that come at once may be one
    process.send_signal(signal.SIGINT)
    output = end(process)
    assert process.returncode == 130, output
    assert "the last committed step is 1" in output


@pytest.mark.slow
def test_sigusr1_saves_and_goes_on(run: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIT_IN_STEP", "60")
    process = run("epochs=20")
    eventually(training)
    process.send_signal(signal.SIGUSR1)
    eventually(lambda: status().get("last_committed_step"))
    assert status()["state"] == "running"
    Path("go").touch()
    output = end(process)
    assert process.returncode == 0, output
    assert status()["state"] == "finished"


def test_max_minutes_stops_in_good_order(run: Begin) -> None:
    process = run("max_minutes=0.01")
    output = end(process)
    assert process.returncode == 75, output
    assert "max_minutes=0.01 are over" in output
    assert status()["state"] == "preempted"


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(run: Begin) -> None:
    """Only one of them gets the signal."""
    process = run(by=TORCHRUN)
    eventually(training)
    victim = max(trainers())
    os.kill(victim, signal.SIGTERM)
    before = len((RUN / "metrics.jsonl").read_text().splitlines()) * 7
    output = end(process)
    about = status()
    assert (about["state"], about["code"]) == ("preempted", 75), output
    step = about["last_committed_step"]
    assert isinstance(step, int)
    assert step == about["step"]
    assert step <= before + 7 + 8 + 4  # read late by at most a line, obeyed within 8 steps


@pytest.mark.slow
def test_sigterm_to_the_agent_reaches_both_processes(run: Begin) -> None:
    process = run(by=TORCHRUN)
    eventually(training)
    process.send_signal(signal.SIGTERM)
    output = end(process)
    assert status()["state"] == "preempted", output


def test_of_two_processes_that_stop_one_says_so(run: Begin) -> None:
    process = run("max_minutes=0.01", by=TORCHRUN)
    output = end(process)
    assert status()["state"] == "preempted", output
    assert "max_minutes=0.01 are over: stopped after step" in output
    assert "process 1: " not in output
    assert "another process was asked" not in output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("machine", [CPU, CPU_2])
def test_no_process_outlives_its_launcher(run: Begin, number: signal.Signals, machine: str) -> None:
    process = run(by=("accelerate.commands.launch", "--config_file", machine))
    eventually(training)
    process.send_signal(number)
    output = end(process)
    assert status()["state"] == "preempted", output


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(run: Begin, tmp_path: Path) -> None:
    def bytes_of_last() -> dict[str, bytes]:
        last = max(RUN.glob("step-*"))
        return {path.name: path.read_bytes() for path in last.iterdir()}

    process = run("epochs=20")
    end(process)
    expected = bytes_of_last()
    RUN.rename("whole")
    process = run("epochs=20")
    eventually(training)
    process.send_signal(signal.SIGTERM)
    end(process)
    assert process.returncode == 75
    process = run("epochs=20")
    end(process)
    assert process.returncode == 0
    assert bytes_of_last() == expected


@pytest.mark.slow
def test_checkpoints_by_the_clock_keep_two_processes_together(run: Begin) -> None:
    """Only the main process's clock counts: two clocks would part them at a collective."""
    process = run("epochs=20", "checkpoint_minutes=0.0003", "keep=40", by=TORCHRUN)
    output = end(process)
    assert process.returncode == 0, output
    assert status()["state"] == "finished"
    assert len(list(RUN.glob("step-*"))) > 2


SLOW_DISK = """
from launcher import storage

class Slow(storage.Disk):
    # A second for every file of a checkpoint that is made durable.
    def fsync(self, descriptor):
        if ".tmp-0" in os.readlink(f"/proc/self/fd/{descriptor}"):
            time.sleep(1)
        super().fsync(descriptor)

if os.environ.get("SLOW_DISK"):
    storage.disk = Slow()
"""


@pytest.mark.slow
def test_a_signal_during_a_save_lets_it_end_and_saves_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A10."""
    monkeypatch.setenv("SLOW_DISK", "1")
    process = start("checkpoint_every=20", recipe=SLOW + SLOW_DISK)
    eventually(lambda: list(RUN.glob(".tmp-*/model.safetensors")))
    process.send_signal(signal.SIGTERM)
    output = end(process)
    assert process.returncode == 75, output
    committed = [int(step) for step in re.findall(r"checkpoint step=(\d+) committed", output)]
    assert committed == sorted(set(committed))
    assert committed[-1] == status()["step"] == status()["last_committed_step"]


@pytest.mark.slow
def test_a_kill_soon_after_a_signal_leaves_the_checkpoint_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A11: the grace was too short for a slow disk. The next start clears up."""
    process = start("checkpoint_every=1000", recipe=SLOW + SLOW_DISK)
    eventually(training)
    process.send_signal(signal.SIGTERM)
    end(process)
    first = status()["last_committed_step"]
    written = (RUN / "metrics.jsonl").stat().st_size
    monkeypatch.setenv("SLOW_DISK", "1")
    process = start("checkpoint_every=1000", recipe=SLOW + SLOW_DISK)
    eventually(lambda: (RUN / "metrics.jsonl").stat().st_size > written)
    process.send_signal(signal.SIGTERM)
    eventually(lambda: list(RUN.glob(".tmp-*/model.safetensors")))
    process.kill()
    end(process)
    assert status()["last_committed_step"] == first
    monkeypatch.delenv("SLOW_DISK")
    process = start("max_minutes=0.01", recipe=SLOW + SLOW_DISK)
    output = end(process)
    assert process.returncode == 75, output
    assert f"continues at step {first} of" in output
    assert not list(RUN.glob(".t*"))


def test_a_run_that_outlives_its_terminal_does_not_hear_that_it_closed() -> None:
    """As `nohup` starts it; without that SIGHUP is taken."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, taken in ((signal.SIG_IGN, False), (signal.SIG_DFL, True)):
            signal.signal(signal.SIGHUP, handler)
            with Stop(1, str) as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert (stop.agreed(1) is Asked.STOP) is taken
            # As it was, or since the process has been told to end.
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
