"""What happens where standard output or standard error takes nothing."""

import errno
import io
import os
import subprocess
import sys

import pytest
from conftest import ROOT, write_recipe

from launcher import screen
from launcher.errors import StorageError
from launcher.screen import Screen

TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm"}


def launch(
    arguments: list[str], to: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command, in a shell that has its say of where its output goes."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {to}', sys.executable, *arguments], text=True, check=False,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


# ── nobody listens ──────────────────────────────────────────────────────────────────────────────


def exit_code_when_nobody_listens(code: str) -> int:
    """Of a Python program whose output and errors go to a closed pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        return subprocess.call(
            [sys.executable, "-c", code], stdout=writer, stderr=writer, env=environment
        )
    finally:
        os.close(writer)


def test_a_refusal_that_nobody_reads_keeps_its_exit_code() -> None:
    """`launcher ... 2>&1 | head -1`"""
    assert (
        exit_code_when_nobody_listens(
            "import os; from launcher.errors import CheckpointError"
            "\nfrom launcher.screen import refuse\nrefuse(CheckpointError('no')); os._exit(5)"
        )
        == 5
    )


def test_a_run_that_nobody_watches_goes_on() -> None:
    """`launcher ... | head -1`: training is not over when the reader is."""
    assert (
        exit_code_when_nobody_listens(
            "import os; from launcher.screen import Screen"
            "\nshows = Screen(shown=True); shows.line('a'); shows.facts('b', {'c': 1})"
            "; shows.start(1, 0, 1); shows.stop(); os._exit(9)"
        )
        == 9
    )


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────

WARNING = (
    "warning: nothing more is shown, standard output could not be written: No space left on "
    "device\n"
)


class Full(io.StringIO):
    """A file on a disk that is full, or broken."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, words: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("environment", [{}, TERMINAL], ids=["a file", "a terminal"])
def test_a_run_goes_on_where_the_disk_under_its_log_is_full(environment: dict[str, str]) -> None:
    path = write_recipe()
    done = launch(["-m", "launcher", str(path), "name=r"], ">/dev/full", **environment)
    assert (done.returncode, done.stderr) == (0, WARNING)


@pytest.mark.parametrize("environment", [{}, TERMINAL], ids=["a file", "a terminal"])
def test_a_run_goes_on_where_the_disk_becomes_full(environment: dict[str, str]) -> None:
    """The warning comes once, whichever thread meets the disk first."""
    code = """
import os, sys, time
from launcher.screen import Screen
shows = Screen(shown=True)
shows.facts("begin", {"a": 1})
shows.start(9, 0, 3)
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
time.sleep(1)
shows.line("lost")
shows.stop()
shows.facts("end", {"b": 1})
sys.stdout.flush()
"""
    done = launch(["-c", code], **environment)
    assert (done.returncode, done.stderr) == (0, WARNING)
    assert "begin" in done.stdout


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_any_error_of_standard_output_is_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(sys, "stdout", Full(number))
    Screen(shown=True).line("lost")
    assert os.strerror(number) in capsys.readouterr().err
    words = f"the output could not be written: {os.strerror(number)}"
    with pytest.raises(StorageError, match=words):
        screen.text("a")
    with pytest.raises(StorageError, match=words):
        screen.table("a", ("b",), [("c",)])


@pytest.mark.parametrize("arguments", [["--help"], ["runs"], ["runs", "--json"], ["completion"]])
def test_what_is_asked_for_and_cannot_be_written_ends_with_code_7(arguments: list[str]) -> None:
    done = launch(["-m", "launcher", *arguments], ">/dev/full")
    assert done.returncode == 7
    assert "│ the output could not be written: No space left on device\n" in done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_a_full_disk_under_standard_error_keeps_the_exit_code() -> None:
    assert launch(["-m", "launcher", "none.py"], "2>/dev/full").returncode == 2


def test_what_a_recipe_has_printed_does_not_change_the_exit_code() -> None:
    """It is written when Python ends, which would end with 120."""
    code = "from launcher import cli\nprint('lost')\nraise SystemExit(cli.guarded(lambda: 0))"
    assert launch(["-c", code], ">/dev/full", PYTHONUNBUFFERED="").returncode == 0


# ── a stream that was closed ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_takes_what_it_is_given(closed: str) -> None:
    assert launch(["-m", "launcher", "runs"], closed).returncode == 0
    assert launch(["-m", "launcher", "none.py"], closed).returncode == 2


def test_no_other_file_gets_the_number_of_a_closed_stream() -> None:
    """What a library or another program writes to standard output would be in that file."""
    code = """
import os, subprocess, sys
from launcher import cli
cli.guarded(lambda: 0)
with open("checkpoint", "w"):
    os.write(1, b"from a library")
    subprocess.run(["echo", "from another program"], check=True)
"""
    assert launch(["-c", code], ">&-").returncode == 0
    with open("checkpoint") as file:
        assert file.read() == ""
