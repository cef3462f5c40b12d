"""Ending with the process that began this one."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

# The words of a process whose parent is killed before it asks to be told, and of one that is killed
# after.
ORPHAN = """
import os, signal, time
from functools import partial
from launcher.loader import _begin_worker
from launcher.parent import die_with_parent

parent = os.getpid()
begin = {begin}
reader, writer = os.pipe()
if os.fork() == 0:
    if {before}:
        while os.getppid() == parent:
            time.sleep(0.01)
    os.write(1, b"begins\\n")
    begin()
    os.write(writer, b"x")
    if not {before}:
        time.sleep({hangs})
    os.write(1, b"lives on\\n")
    os._exit(0)
if not {before}:
    os.read(reader, 1)
os.kill(parent, signal.SIGKILL)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux alone")
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "begin",
    ["partial(_begin_worker, parent, 0)", "partial(die_with_parent, parent=parent)"],
    ids=["a loader process", "a run"],
)
def test_a_process_ends_though_its_parent_died_before_it_began(begin: str, before: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN.format(begin=begin, before=before, hangs=60)],
        stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "begins\n", "its end of the pipe is closed, and it said no more"
