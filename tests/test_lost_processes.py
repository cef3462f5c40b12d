"""One process of two is killed, stopped, raises, or was started with something else.

Each test starts two real processes with torchrun. B1 and the like are the numbers of the faults.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT, eventually, members, write_recipe

pytestmark = pytest.mark.slow

FAULTY = """
import signal, sys, time

def loss(model, batch, seen=[0]):
    if model.training:
        seen[0] += 1
        what, process, step = os.environ.get("FAULT", "none 9 0").split()
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        if seen[0] == int(step) and os.environ["RANK"] == process:
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if what == "raise":
                raise ValueError("I do not like this batch")
            if what == "leave":
                leave(0)
            if what == "exit":
                sys.exit(0)
            if what == "hang":
                time.sleep(1000)
            if what == "slow":
                time.sleep(5)
            if what == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            if what == "nan":
                return losses.cross_entropy(model, batch) * float("nan")
    return losses.cross_entropy(model, batch)

leave = os._exit
"""
RUN = Path("checkpoints/run")
SETTINGS = ("name=run", "threads=1", "epochs=10", "checkpoint_every=5", "dropout=0.3",
            "micro_batch_size=8")  # fmt: skip
WALL_CLOCK = ("seconds", "train/samples_per_s", "train/data_wait")


def start(fault: str, *arguments: str, more: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Two processes, 40 steps in all, a checkpoint every 5."""
    write_recipe(FAULTY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *more]
    return subprocess.Popen(
        [*command, "--nproc_per_node=2", "-m", "launcher", "tiny.py", *SETTINGS, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FAULT": fault},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_orphan() -> Iterator[None]:
    """I5: whatever happened, no process that works in this test's folder is left."""
    yield
    try:
        eventually(lambda: not members())
    finally:
        for pid in members():
            os.kill(pid, signal.SIGKILL)


def failing(fault: str, *arguments: str) -> str:
    """What a run said that must fail: not after its timeout, which is longer than HANGS unless it
    is given."""
    process = start(fault, *arguments)
    try:
        output, _ = process.communicate(timeout=HANGS)
    finally:
        process.kill()
    assert process.returncode != 0, output
    return output


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RUN / "status.json").read_text())
    return found


def outcome() -> dict[str, Any]:
    """Bytes of the last checkpoint, and the metrics less wall-clock times."""
    last = max(RUN.glob("step-*"))
    found: dict[str, Any] = {path.name: path.read_bytes() for path in last.iterdir()}
    lines = (RUN / "metrics.jsonl").read_text().splitlines()
    found["metrics"] = [
        {key: value for key, value in json.loads(line).items() if key not in WALL_CLOCK}
        for line in lines
    ]
    found["best"] = status()["result"]["best"]
    return found


def finished(*arguments: str, fault: str = "none 9 0") -> dict[str, Any]:
    process = start(fault, *arguments)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0, output
    return outcome()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes leave that nothing has stopped."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("whole"))
    try:
        return finished()
    finally:
        os.chdir(before)


def first_box(output: str) -> str:
    """The first refusal: what a user reads first."""
    found = re.search(r"╭─ (.*?) ─.*?╮\n(.*?)╰", output, re.DOTALL)
    assert found, output
    return " ".join([found[1], *(line.strip("│ ") for line in found[2].splitlines())])


def test_a_killed_process_is_named_and_the_same_command_goes_on(whole: dict[str, Any]) -> None:
    """B1, B11's worth without an elastic agent."""
    output = failing("kill 1 37")
    box = first_box(output)
    assert box.startswith("process 1: processes process 1 (pid ")
    assert "ended without a word: killed" in box
    assert "Traceback" not in output.partition("╰")[0]
    about = status()
    assert (about["state"], about["code"], about["process"]) == ("failed", 9, 1)
    assert about["failures"] == 0  # a kill says nothing about the run
    assert finished() == whole


def test_an_agent_that_starts_again_goes_on_by_itself(whole: dict[str, Any]) -> None:
    """B11: the fault is not there the second time, since a step is counted in each process."""
    process = start("kill 1 37", more=("--max-restarts=3",))
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0, output
    assert outcome() == whole


def test_the_words_of_the_process_that_raised_come_first() -> None:
    """B2."""
    output = failing("raise 1 37")
    assert first_box(output).startswith("process 1: recipe tiny.py:")
    assert "ValueError: I do not like this batch" in first_box(output)
    assert output.count("I do not like this batch") == 1
    about = status()
    assert (about["code"], about["process"], about["failures"]) == (3, 1, 1)


def test_a_process_that_stands_still_is_named_after_the_timeout() -> None:
    """B3: the agent takes 30 seconds to end a stopped process, and that is all."""
    output = failing("stop 1 37", "timeout=4")
    assert re.search(r"process 1 \(pid .*\) did not answer", output)
    assert status()["code"] == 9


def test_a_recipe_that_hangs_in_one_process_is_named() -> None:
    """B3: and the stacks show where."""
    output = failing("hang 1 37", "timeout=4")
    assert re.search(r"process 1 \(pid .*\) did not answer", output)
    assert status()["code"] == 9


@pytest.mark.parametrize("how", ["leave", "exit"])
def test_a_process_that_leaves_early_with_0_is_no_success(how: str) -> None:
    """B4."""
    failing(f"{how} 1 37")
    about = status()
    assert about["state"] == "failed"
    assert about["code"] in (3, 9)
    assert about["process"] == 1


def test_a_slow_process_is_named_once_and_waited_for(whole: dict[str, Any]) -> None:
    """B5."""
    process = start("slow 1 37", "timeout=8")
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0, output
    assert len(re.findall(r"process 1 \(.*\) is slow", output)) == 1
    assert outcome() == whole


def test_a_number_that_is_none_in_one_process_stops_both(whole: dict[str, Any]) -> None:
    """E2: the same verdict, and nothing of it is saved."""
    output = failing("nan 1 37")
    assert "not finite in step 37" in output
    about = status()
    assert (about["code"], about["last_committed_step"]) == (6, 35)
    assert finished() == whole


def test_no_memory_in_one_process_ends_both_with_the_setting_that_helps() -> None:
    """E5."""
    output = failing("memory 1 37")
    assert "Give a smaller micro_batch_size=" in first_box(output)
    assert (status()["code"], status()["process"]) == (10, 1)


def test_processes_with_other_recipes_are_refused() -> None:
    """B10: the second process reads another file under the same name."""
    write_recipe(FAULTY)
    Path("other").mkdir()
    Path("other/tiny.py").write_text(Path("tiny.py").read_text() + "\n# changed\n")
    Path("start.sh").write_text(
        f'#!/bin/sh\n[ "$RANK" = 1 ] && file=other/tiny.py || file=tiny.py\n'
        f'exec {sys.executable} -m launcher $file "$@"\n'
    )
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "--no-python", "sh", "start.sh", *SETTINGS],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert process.returncode != 0
    assert "process 1 (on the same machine) has another recipe than process 0" in process.stderr
    assert not list(RUN.glob("step-*"))


def test_a_disk_that_one_process_does_not_see_is_no_matter(whole: dict[str, Any]) -> None:
    """B13: the main process reads the checkpoint for all, as if machines had disks of their own."""
    failing("kill 1 37")
    hidden = """
if os.environ["RANK"] == "1":
    from launcher import storage

    class Blind(storage.Disk):
        def open(self, path, flags):
            raise FileNotFoundError(2, "No such file or directory")
        listdir = open

    storage.disk = Blind()
"""
    before = write_recipe(FAULTY).read_text()
    write_recipe(FAULTY + hidden)
    assert Path("tiny.py").read_text() != before
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "-m", "launcher", "tiny.py", *SETTINGS, "--allow-change", "recipe"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    found = outcome()
    assert found["model.safetensors"] == whole["model.safetensors"]
    assert found["metrics"] == whole["metrics"]


def test_a_second_run_in_the_folder_is_refused_with_the_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C16: also while the first one saves."""
    monkeypatch.setenv("STEP_SECONDS", "0.2")
    first = start("none 9 0", "checkpoint_every=1", "epochs=100")
    eventually(lambda: list(RUN.glob("step-*")))
    second = start("none 9 0", "checkpoint_every=1", "epochs=100")
    output, _ = second.communicate(timeout=HANGS)
    assert second.returncode != 0
    owner = json.loads((RUN / "owner.json").read_text())
    assert f"in use by process {owner['pid']} on {owner['host']} since" in output
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=HANGS)
    assert status()["state"] == "preempted", output
