"""What lies in run folders: states told by the lock, long files read from the end, damage named."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, command, write_recipe

from launcher import held, overview, storage
from launcher.overview import Summary

HOLD = """
import sys
from pathlib import Path
from launcher.held import Lock
lock = Lock(Path(sys.argv[1]))
assert lock.acquire()
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


class Holder:
    """Another process that holds a run's lock."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder.resolve() / ".lock")], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def trained(name: str = "one", *words: str) -> Path:
    assert command(write_recipe(), f"name={name}", *words) == 0
    return Path("checkpoints") / name


def status(folder: Path, **changed: Any) -> None:
    path = folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_finished_run_is_summed_up() -> None:
    folder = trained("one", "lr=0.1", "log_every=1")
    found = overview.summary(folder)
    result = json.loads((folder / "status.json").read_text())["result"]
    assert (found.state, found.step, found.total_steps) == ("finished", 8, 8)
    assert found.monitor == "test/accuracy"
    assert found.best == result["best"]["scores"]["test/accuracy"]
    assert found.best_step == result["best"]["step"]
    assert found.next == "launcher evaluate one"
    assert found.command == "launcher tiny.py name=one lr=0.1 log_every=1"
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert found.seconds == last["seconds"]


def test_the_command_of_a_summary_continues_the_run() -> None:
    path = write_recipe()
    assert command(path, "name=two", "lr=0.1", "width=4", "max_minutes=0.0000001") == 75
    folder = Path("checkpoints/two")
    found = overview.summary(folder)
    assert found.state == "preempted"
    assert found.step < 8
    words = found.command.split()[1:]
    assert command(*[word for word in words if not word.startswith("max_minutes")]) == 0
    assert overview.summary(folder).state == "finished"


def test_a_run_is_running_while_its_lock_is_held_and_dead_when_its_holder_was_killed() -> None:
    folder = trained()
    status(folder, state="running", step=4)
    holder = Holder(folder)
    try:
        assert overview.summary(folder).state == "running"
        assert overview.summary(folder).next == f"wait: process {holder.process.pid} trains"
    finally:
        holder.kill()
    found = overview.summary(folder)
    assert found.state == "dead"
    assert found.next == "the same command continues"


def test_asking_for_a_lock_does_not_take_it() -> None:
    folder = trained()
    lock = folder / ".lock"
    assert held.owner(lock) is None
    asker = f"from launcher import held; from pathlib import Path; p = Path({str(lock)!r})\n"
    # If asking took the lock even for a moment, some of these would find it in use.
    ask = subprocess.Popen(
        [sys.executable, "-c", f"{asker}while True: held.owner(p)"], cwd=Path.cwd(),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        for _ in range(300):
            mine = held.Lock(lock)
            assert mine.acquire()
            mine.release()
    finally:
        ask.kill()
        ask.wait()


def test_a_held_lock_without_a_run_is_one_that_begins_and_an_unheld_one_is_empty() -> None:
    folder = Path("checkpoints/new")
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    assert overview.summary(folder).state == "empty"
    holder = Holder(folder)
    try:
        assert overview.summary(folder).state == "running"
    finally:
        holder.kill()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", b"{", "run.json is damaged"),
        ("run.json", b"[]", "run.json is damaged: it holds no record"),
        ("run.json", b"\xff\xfe", "run.json is damaged"),
        ("run.json", b"[" * 100_000, "run.json is damaged"),
        ("run.json", b'{"hyperparameters": {"lr": 3}, "name": "x"}', "not as a run leaves it"),
        ("run.json", b'{"attempts": [3], "name": "x"}', "not as a run leaves it"),
        ("run.json", None, "has no run.json"),
        ("status.json", b"", "status.json is damaged"),
        ("status.json", None, "status.json is missing"),
        ("status.json", b'{"state": "dancing"}', "names no state: 'dancing'"),
        ("status.json", b'{"state": "finished", "step": "x"}', "not as a run leaves it"),
    ],
)
def test_a_damaged_folder_is_said_to_be_and_does_not_hide_the_others(
    name: str, content: bytes | None, words: str
) -> None:
    folder = trained("broken")
    trained("whole")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    broken, whole = overview.summaries(Path("checkpoints"))
    assert broken.state == "damaged"
    assert words in broken.reason
    assert "move" not in broken.next, "its checkpoints are good"
    assert whole.state == "finished"


@pytest.mark.parametrize("line", ['{"step": NaN}', "[1]", '"x"', '{"step": "a", "test/loss": {}}'])
def test_a_foreign_line_among_the_metrics_is_named_and_harms_nothing(line: str) -> None:
    folder = trained()
    before = overview.summary(folder)
    number = len((folder / "metrics.jsonl").read_text().splitlines()) + 1
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    after = overview.summary(folder)
    assert before.remark == ""
    assert after.remark == f"{folder}/metrics.jsonl, line {number}, is no record of a run"
    assert (after.state, after.step, after.next) == (before.state, before.step, before.next)


def test_a_copied_or_renamed_folder_is_meant_by_its_own_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained().rename("checkpoints/other")
    found = overview.summary(Path("checkpoints/other"))
    assert found.next == "launcher evaluate other"
    assert " name=other" in found.command
    Path("elsewhere").mkdir()
    folder = Path("checkpoints/other").rename("elsewhere/third one")
    assert overview.summary(folder).next == "launcher evaluate 'elsewhere/third one'"
    assert command("evaluate", "elsewhere/third one") == 0
    assert "elsewhere/third one at step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lost", "said"), [("step-*", "no checkpoint is left"), ("recipe.py", "recipe.py is gone")]
)
def test_the_advice_for_a_finished_run_is_one_that_works(lost: str, said: str) -> None:
    folder = trained()
    for path in folder.glob(lost):
        storage.remove(path)
    assert overview.summary(folder).next == f"{said}: launcher report one"
    assert command("evaluate", "one") == 5
    assert command("report", "one") == 0


def test_a_run_json_that_cannot_be_opened_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained()
    (folder / "run.json").unlink()
    (folder / "run.json").mkdir()
    assert overview.summary(folder).state == "damaged"


def test_what_is_no_run_is_not_listed() -> None:
    Path("checkpoints/pictures").mkdir(parents=True)
    Path("checkpoints/pictures/cat.png").touch()
    Path("checkpoints/notes.txt").touch()
    assert overview.summaries(Path("checkpoints")) == []
    assert overview.summaries(Path("nowhere")) == []


def test_a_run_that_trains_shows_its_last_line_and_the_best_of_its_checkpoint() -> None:
    folder = trained()
    document = json.loads((folder / "status.json").read_text())
    best = document.pop("result")["best"]
    (folder / "status.json").write_text(json.dumps(document | {"state": "running", "step": 4}))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "seconds": 5.0, "train/loss": 1.0}\n{"step": 12, "tr')
    found = overview.summary(folder)
    assert found.state == "dead"
    assert found.step == 11
    assert (found.best, found.best_step) == (best["scores"]["test/accuracy"], best["step"])


def test_a_run_of_several_processes_continues_with_several() -> None:
    base = {"recipe": "r.py", "name": "x", "attempts": [{"processes": 2}]}
    assert overview.continuing({**base, "launched_by": "torchrun"}, "x") == (
        "torchrun --nproc_per_node 2 -m launcher r.py name=x"
    )
    assert overview.continuing({**base, "launched_by": "accelerate launch"}, "x").startswith(
        "accelerate launch ... -m launcher r.py"
    )


def test_a_command_is_quoted_and_leaves_out_a_mirror() -> None:
    run = {
        "recipe": "my recipe.py", "name": "x", "attempts": [],
        "hyperparameters": {"widths": {"value": [64, 32], "from": "argument"}},
        "run_settings": {
            "mirror": {"value": "https://user:***@host", "from": "argument"},
            "evaluate_every": {"value": "1 epoch", "from": "config a.yaml:1"},
            "keep": {"value": 2, "from": "default"},
        },
    }  # fmt: skip
    assert overview.continuing(run, "x") == (
        "launcher 'my recipe.py' name=x 'widths=[64,32]' 'evaluate_every=1 epoch'"
    )


def test_a_summary_is_plain_data() -> None:
    assert json.dumps(vars(Summary("a", "b", "dead")))
