"""A signal before the first step: what is told to whoever sent it, and who obeys it after."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from conftest import HANGS, ROOT, command, write_recipe

from launcher import early
from launcher.stop import Stop

# The command, which gets a signal as soon as it imports something.
AT_IMPORT = """
import os, runpy, signal, sys, time

class Send:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[0]:
            os.kill(os.getpid(), signal.Signals[os.environ["SEND"]])
            time.sleep(60)

name, sys.argv = sys.argv[1], sys.argv[1:]
sys.meta_path.insert(0, Send())
runpy.run_module(os.environ.get("RUN", "launcher"), run_name="__main__")
"""
# What waits where Python calls no handler, as for another process.
WAITS = """
import ctypes

def data(hparams):
    lock, take = ctypes.create_string_buffer(256), ctypes.CDLL(None).pthread_mutex_lock
    take(lock)
    print("waits", flush=True)
    take(lock)
"""
SAYS = "before the first step of this attempt: nothing was lost, and the same command begins or"


@pytest.fixture(autouse=True)
def as_at_first() -> Iterator[None]:
    """SIGHUP is not ignored, though it is under `nohup`; and no test leaves a handler."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    early.give_way()
    signal.signal(signal.SIGHUP, before)


def at_import(
    name: str, *arguments: str, send: str = "SIGTERM"
) -> subprocess.CompletedProcess[str]:
    """The command, to which a signal is sent when it is about to import `name`."""
    return subprocess.run(
        [sys.executable, "-c", AT_IMPORT, name, *arguments], timeout=HANGS, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SEND": send}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "send"),
    [("launcher.cli", "SIGTERM"), ("launcher.cli", "SIGHUP"), ("accelerate", "SIGTERM")],
)
def test_a_command_that_trains_says_that_it_can_be_run_again(name: str, send: str) -> None:
    write_recipe()
    ended = at_import(name, "tiny.py", send=send)
    assert (ended.returncode, ended.stdout) == (75, "")
    assert ended.stderr == f"stopped by {send} {SAYS} continues the run\n"


def test_a_loop_of_ones_own_says_so_too() -> None:
    script = Path("loop.py")
    script.write_text("from launcher import own_loop, Hparams\nimport sys\n"
                      "def train(loop): import absent\n"
                      "sys.exit(own_loop.run(train, Hparams))\n")  # fmt: skip
    os.environ["RUN"] = "loop"
    try:
        ended = at_import("absent", "threads=1", "epochs=1", "batch_size=1")
    finally:
        del os.environ["RUN"]
    assert ended.returncode == 75, ended.stderr
    assert SAYS in ended.stderr


def test_who_waits_outside_of_python_leaves_too() -> None:
    write_recipe(WAITS)
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", "tiny.py", "threads=1"], text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RANK": "0"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=HANGS)
    assert process.returncode == 75
    assert SAYS in err


@pytest.mark.parametrize(
    ("name", "verb"), [("launcher.runs_verb", "runs"), ("launcher.show", "show")]
)
def test_a_command_that_does_not_train_is_ended_as_ever(name: str, verb: str) -> None:
    write_recipe()
    ended = at_import(name, verb, *(["tiny.py"] if verb == "show" else []))
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, "")


def test_sighup_is_ignored_where_it_was() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    early.take()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is early.noticed
    early.give_way()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_run_that_has_its_signals_leaves_none_to_what_was_before() -> None:
    early.take()
    with Stop(1, str) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signalled
    early.give_way()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # as it was told to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    early.take()
    with Stop(1, str):
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(("module", "word", "code"), [("cli", "_refuse", 2), ("run", "cause", 3)])
def test_who_has_failed_has_not_been_stopped(
    module: str, word: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of several processes waits before it says why, and the launcher ends it meanwhile."""
    write_recipe("def data(hparams): raise ValueError")
    seen = []
    home = import_module(f"launcher.{module}")
    says = getattr(home, word)

    def say(*given: object) -> object:
        seen.append(signal.getsignal(signal.SIGTERM))
        return says(*given)

    monkeypatch.setattr(home, word, say)
    early.take()
    assert command("tiny.py", "threads=1", *(["epochs=x"] if code == 2 else [])) == code
    assert seen == [signal.SIG_DFL]


def test_a_child_is_ended_by_its_signal_and_its_parent_is_not() -> None:
    early.take()
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
