"""Whose fault it was, and that no recipe ends a run in silence."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
import torch
from conftest import HANGS, ROOT, command, write_recipe
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from launcher import explain
from launcher.errors import (
    DistributedError,
    LauncherError,
    NonFiniteError,
    Preempted,
    RecipeError,
    StorageError,
)
from launcher.explain import cause, exit_code, no_silent_exit
from launcher.peers import Peers
from launcher.strategy import RefusedElsewhere, World

RUN = Path("checkpoints/r")
LEAVES = """
import sys

def loss(model, batch):
    global passes
    passes += model.training
    if passes == 3:
        {statement}
    return losses.cross_entropy(model, batch)


passes = 0
"""


@pytest.fixture(autouse=True)
def these_tests_do_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is tested here, pytest itself would end with code 0, and look like success."""
    here, leave = os.getpid(), os._exit

    def refuse(code: int) -> NoReturn:
        if os.getpid() != here:
            leave(code)
        pytest.fail(f"os._exit({code}) would have ended these tests")

    monkeypatch.setattr(os, "_exit", refuse)


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RUN / "status.json").read_text())
    return found


# ── leaving in the middle ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("os._exit(0)", "os._exit(0)"),
        ("os._exit(3)", "os._exit(3)"),
        ("sys.exit(0)", "exit(0)"),
        ("sys.exit()", "exit(None)"),
        ("quit()", "exit(None)"),
        ("raise SystemExit('bye')", "exit(bye)"),
    ],
)
def test_a_recipe_that_leaves_in_the_middle_has_not_finished(
    statement: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """F5: with code 0 it would look like a run that reached its end."""
    path = write_recipe(LEAVES.format(statement=statement))
    assert command(path, "name=r", "threads=1") == 3
    assert (status()["state"], status()["code"]) == ("failed", 3)
    assert said in status()["reason"]
    assert said in capsys.readouterr().err
    assert status()["step"] == 2


def test_a_whole_process_that_leaves_in_the_middle_ends_with_3() -> None:
    write_recipe(LEAVES.format(statement="os._exit(0)"))
    ran = subprocess.run(
        [sys.executable, "-m", "launcher", "tiny.py", "name=r", "threads=1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert "os._exit(0)" in ran.stderr
    assert status()["state"] == "failed"


@pytest.mark.parametrize(
    ("top", "statement"),
    [("os._exit(0)", "pass"), ("from os import _exit", "_exit(0)")],
    ids=["while it is read", "by a name taken while it was read"],
)
def test_a_recipe_cannot_take_the_way_out_before_it_is_closed(top: str, statement: str) -> None:
    """The recipe runs before there is a run: `from os import _exit` would keep the real one."""
    write_recipe(f"{top}\n{LEAVES.format(statement=statement)}")
    ran = subprocess.run(
        [sys.executable, "-m", "launcher", "tiny.py", "name=r", "threads=1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert "os._exit(0)" in ran.stderr


def test_a_forked_childs_way_out_is_its_own() -> None:
    with no_silent_exit():
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        _, waited = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(waited) == 7


def test_a_run_whose_recipe_forks_ends_well() -> None:
    statement = "os.waitpid(pid, 0) if (pid := os.fork()) else os._exit(5)"
    assert command(write_recipe(LEAVES.format(statement=statement)), "name=r", "threads=1") == 0
    assert status()["state"] == "finished"


def test_the_way_out_is_given_back() -> None:
    before = os._exit
    with pytest.raises(RecipeError, match=r"os\._exit\(4\)"), no_silent_exit():
        os._exit(4)
    assert os._exit is before


# ── a status that cannot be written ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("statement", "code"), [("1 / 0", 3), ("raise KeyboardInterrupt", 130)])
def test_what_ended_a_run_is_said_also_when_it_cannot_be_noted(
    statement: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that is gone must not hide the mistake in the recipe."""
    # Compiled: of a KeyboardInterrupt in a text, Python makes its own exit code in the end, 130.
    code_of_it = f"compile({statement!r}, 'it', 'exec')"
    breaks = f"(__import__('shutil').rmtree('checkpoints'), exec({code_of_it}))"
    path = write_recipe(LEAVES.format(statement=breaks))
    assert command(path, "name=r", "threads=1") == code
    if code == 3:
        assert "ZeroDivisionError" in capsys.readouterr().err


# ── one of several processes ────────────────────────────────────────────────────────────────────


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[World]]:
    """Three processes that have met, with as much of a World as `cause` looks at."""
    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10)
    )
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(explain, "_PATIENCE", 0.05)

    def world(number: int) -> World:
        peers = Peers(number, 3)
        peers.show(1, 0)
        watch = SimpleNamespace(peers=peers, timeout=600.0, waited_for=lambda: "")
        return cast(World, SimpleNamespace(process=number, is_main=number == 0, watch=watch))

    yield [world(number) for number in range(3)]
    del store


def peers_of(world: World) -> Peers:
    assert world.watch.peers is not None
    return world.watch.peers


LOST = DistributedError("another process is gone or does not answer: gloo")


def test_one_process_alone_speaks_for_itself() -> None:
    world = cast(World, SimpleNamespace(watch=SimpleNamespace(peers=None)))
    error = RecipeError("mine")
    assert cause(world, error) is error


def test_the_main_process_says_what_another_one_met(three: list[World]) -> None:
    elsewhere = cause(three[2], NonFiniteError("the loss"))
    assert isinstance(elsewhere, RefusedElsewhere)
    assert exit_code(elsewhere) == 6
    main = cause(three[0], LOST)
    assert isinstance(main, LauncherError)
    assert (main.code, main.process, str(main)) == (6, 2, "the loss")
    other = cause(three[1], LOST)
    assert isinstance(other, RefusedElsewhere)
    assert exit_code(other) == 6


def test_the_main_process_that_failed_first_says_its_own(three: list[World]) -> None:
    error = RecipeError("mine")
    assert cause(three[0], error) is error
    assert isinstance(cause(three[1], LOST), RefusedElsewhere)
    found = peers_of(three[2]).failure()
    assert found is not None
    assert (found.process, found.code) == (0, 3)


def test_what_followed_is_not_the_cause(three: list[World]) -> None:
    """The main process's disk fails after process 1 has failed: that was first."""
    cause(three[1], RecipeError("first"))
    main = cause(three[0], StorageError("second"))
    assert (str(main), exit_code(main)) == ("first", 3)


def test_a_bug_comes_with_its_traceback(three: list[World]) -> None:
    try:
        torch.ones(2)[5]
    except IndexError as error:
        cause(three[1], error)
    main = cause(three[0], LOST)
    assert isinstance(main, LauncherError)
    assert (main.code, main.title) == (70, "bug")
    assert "Traceback" in main.frames
    assert "test_explain.py" in main.frames


@pytest.mark.parametrize(
    "reason", [Preempted("75"), KeyboardInterrupt(), RefusedElsewhere(3)], ids=lambda r: repr(r)
)
def test_what_is_no_failure_leaves_no_note(three: list[World], reason: BaseException) -> None:
    assert cause(three[1], reason) is reason
    assert peers_of(three[0]).failure() is None


def test_a_process_that_is_gone_without_a_word_is_named(three: list[World]) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    about = {"pid": child.pid, "beats": 1, "step": 6, "number": 1}
    host = peers_of(three[0]).signs()[0].host
    store = peers_of(three[0])._store
    store.set("sign/1", json.dumps(about | {"host": host}))
    found = cause(three[0], LOST)
    assert isinstance(found, DistributedError)
    assert str(found).startswith(
        f"process 1 (pid {child.pid} on {host}, last seen in step 7) ended without a word"
    )
    assert found.process == 1


def test_a_process_that_is_late_is_named_with_the_timeout(three: list[World]) -> None:
    three[0].watch.waited_for = lambda: "process 2 (there)"  # type: ignore[method-assign]
    text = "process 2 (there) did not answer within timeout=600 seconds."
    assert text in str(cause(three[0], LOST))


def test_a_lost_process_of_which_nobody_knows_anything_is_told_as_it_is(
    three: list[World],
) -> None:
    assert cause(three[0], LOST) is LOST


def test_a_store_that_is_gone_hides_nothing(
    three: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError("Broken pipe")

    monkeypatch.setattr(Peers, "fail", gone)
    monkeypatch.setattr(Peers, "wait_for_failure", gone)
    error = RecipeError("mine")
    assert cause(three[1], error) is error
    assert cause(three[0], LOST) is LOST
