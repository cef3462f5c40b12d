"""What trackers may do to a run: nothing. The letters and numbers are the rows of the matrix of
faults; `wandb_stub.py` is the server."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from conftest import HANGS, ROOT, command, eventually, write_recipe
from faults.machine import Skipped, mounted
from tracked import (
    PATIENT,
    RUN,
    SLOW,
    begin,
    children,
    expected,
    history,
    ids,
    numbers,
    parts,
    patient_recipe,
    said,
    steps,
    stopped,
    train,
    weights,
)
from wandb_stub import KEY, Stub, stub

from launcher import track, wandb_file
from launcher.errors import SettingsError
from launcher.settings import RunSettings


def at(server: str) -> dict[str, str]:
    """The environment of somebody who is logged in at a server."""
    return {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server}


@pytest.fixture
def server() -> Iterator[Stub]:
    with stub() as running:
        yield running


def warnings(words: str) -> list[str]:
    return [line for line in words.splitlines() if line.startswith("warning")]


# ── a run that continues ─────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_killed_again_and_again_it_is_one_run_without_a_hole_or_a_repeat() -> None:
    """G6: the kills come when there are records that no checkpoint holds."""
    patient_recipe(SLOW)
    given = ("epochs=60", "log_every=1", "checkpoint_every=8", "evaluate_every=5")
    draws = random.Random(5)
    for _ in range(3):
        before = len(history())
        Path("go").unlink(missing_ok=True)
        process = begin(*given, env={"PAUSE": "0.1", "AWAITED": "go"})
        eventually(lambda: len(history()) > before)  # noqa: B023
        Path("go").touch()
        time.sleep(draws.uniform(0.5, 1.5))
        process.kill()
        process.communicate()
    train(*given, env={"PAUSE": "0"})
    assert len(ids()) == 1
    assert len(parts()) > 2
    assert numbers(history()) == expected()
    assert len(expected()) == 240


@pytest.mark.slow
def test_an_online_run_continues_behind_what_the_server_has(server: Stub) -> None:
    patient_recipe(SLOW)
    env = at(server.url.replace("//", "//me:canary@"))
    given = ("epochs=5", "log_every=1", "checkpoint_every=3", "wandb_project=pro",
             "wandb_group=gro", "wandb_tags=[a, b]")  # fmt: skip
    stopped(*given, wandb="online", env=env)
    words = train(*given, wandb="auto", env={**env, "WANDB_MODE": "online"})
    assert f"W&B has the run: {server.url}/me/pro/runs/" in words
    assert not warnings(words)
    ((run, rows),) = server.rows.items()
    assert numbers(rows) == expected()
    names = server.names[run]
    assert (names["project"], names["groupName"], names["tags"]) == ("pro", "gro", ["a", "b"])
    assert names["displayName"] == "r"
    assert server.config[run]["launcher"]["value"]["attempts"] == 2
    for path in RUN.rglob("*"):  # H7: nothing of the password and the key
        content = path.read_bytes() if path.is_file() else b""
        assert b"canary" not in content, path
        assert KEY.encode() not in content, path


@pytest.mark.slow
def test_offline_parts_are_sent_by_the_first_attempt_that_is_online(server: Stub) -> None:
    patient_recipe(SLOW)
    given = ("epochs=4", "log_every=1", "checkpoint_every=3")
    stopped(*given)
    (part,) = parts()
    train(*given, wandb="online", env=at(server.url))
    ((_, rows),) = server.rows.items()
    assert numbers(rows) == expected()
    assert part.with_name(f"{part.name}.synced").exists(), "wandb sync would send them again"


@pytest.mark.slow
def test_wandb_sync_of_all_offline_parts_gives_one_whole_run(server: Stub) -> None:
    """The line that the run says, with W&B's own command."""
    patient_recipe(SLOW)
    given = ("epochs=5", "log_every=1", "checkpoint_every=3")
    stopped(*given)
    line = train(*given).splitlines()[-1].partition("this sends the run there: wandb sync ")[2]
    assert len(parts()) == 2
    sync = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *map(str, Path().glob(line))],
        env={**os.environ, **at(server.url)}, capture_output=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert sync.returncode == 0, sync.stderr
    ((_, rows),) = server.rows.items()
    assert numbers(rows) == expected()


@pytest.mark.slow
def test_going_back_to_an_older_checkpoint_begins_another_wandb_run() -> None:
    """What follows may contradict what was sent: here the lines come at other steps."""
    patient_recipe()
    train("log_every=1", "keep=5", "checkpoint_every=2")
    (first,) = ids()
    train("log_every=3", "--resume", "4", "evaluate_every=100")
    kept = json.loads((RUN / "wandb.json").read_text())
    assert kept["earlier"] == [first]
    (path,) = [path for path in parts() if first not in path.name]
    assert numbers(list(wandb_file.history(path))) == expected()


# ── trackers that fail ───────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_server_that_fails_costs_nothing_but_one_warning(server: Stub) -> None:
    """G1: it refuses, never answers, fails, or knows nobody. Training does not wait for it, and
    the run is whole offline."""
    patient_recipe(SLOW)
    given = ("epochs=5", "log_every=1")
    with ExitStack() as held:
        hole, broken, closed = (held.enter_context(stub()) for _ in range(3))
        hole.delay = 600.0
        broken.status, closed.status = 500, 401
        urls = {"refused": "http://127.0.0.1:9", "hole": hole.url, "500": broken.url,
                "401": closed.url}  # fmt: skip
        runs = {
            name: begin(*given, name=name, wandb="online", env=at(url))
            for name, url in urls.items()
        }
        train(*given, wandb="off")
        for name, process in runs.items():
            words = said(process)
            (warning,) = warnings(words)
            assert "W&B could not be reached" in warning, words
            assert "wandb sync checkpoints" in warning, words
            run = Path("checkpoints") / name
            assert numbers(history(run)) == expected(run), words
            assert weights(run) == weights()
        assert hole.asked
        assert broken.asked
        assert closed.asked


@pytest.mark.slow
def test_a_full_disk_for_wandb_is_one_warning() -> None:
    """G2. The client itself would say nothing."""
    patient_recipe(SLOW)
    train("epochs=30", "log_every=1", wandb="off")
    place = Path("place")
    try:
        with mounted(place, "size=3m"):
            env = {"WANDB_DIR": str(place), "AWAITED": "place/filler"}
            process = begin("epochs=30", "log_every=1", name="full", env=env)
            run = Path("checkpoints/full")
            eventually(lambda: list(place.glob("wandb/*/*.wandb")) and steps(run) >= 10)
            (place / "filler").write_bytes(b"x" * 2_300_000)
            words = said(process)
    except Skipped as why:
        pytest.skip(str(why))
    (warning,) = warnings(words)
    assert "wandb has stopped: there is no room left in place" in warning
    assert weights(run) == weights()
    assert len(expected(run)) == 120


def test_a_wandb_folder_that_cannot_be_written_is_one_warning() -> None:
    """G2: the client would take a temporary folder instead, which nobody finds."""
    patient_recipe()
    place = Path("place")
    place.touch()
    words = train(env={"WANDB_DIR": str(place)})
    (warning,) = warnings(words)
    assert "wandb has stopped: could not make the folder place" in warning
    assert len(expected()) == 8


def meanwhile(do: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=do)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("whom", ["launcher.follower", "wandb-core"])
def test_a_tracker_that_dies_or_hangs_changes_nothing(
    whom: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """G3. The weights are those of a run without a tracker, bit by bit."""
    monkeypatch.setattr(track, "PATIENCE", 4.0)
    recipe = write_recipe(SLOW)
    given = ("epochs=20", "log_every=1", "threads=1")
    assert command(recipe, *given, "name=off", "wandb=off") == 0
    hit: list[int] = []

    def strike() -> None:
        try:
            eventually(lambda: list(RUN.glob("wandb/*/*.wandb")) and steps() >= 10)
            for pid in [pid for pid, words in children(os.getpid()).items() if whom in words]:
                with suppress(ProcessLookupError):  # one that was to become another process
                    os.kill(pid, number)
                    hit.append(pid)
        finally:  # or the run would wait for it without an end
            Path("struck").touch()

    thread = meanwhile(strike)
    monkeypatch.setenv("AWAITED", "struck")
    assert command(recipe, *given, "name=r", "wandb=offline") == 0
    thread.join()
    for pid in hit:  # W&B's service is a session of its own: stopped, it would stay for ever
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert len(hit) == 1
    words = capfd.readouterr().out
    assert len(warnings(words)) == 1, words
    assert len(expected()) == 80
    assert weights() == weights(Path("checkpoints/off"))
    assert not [words for words in children(os.getpid()).values() if "wandb" in words]


@pytest.mark.slow
def test_a_slow_server_does_not_slow_training_and_the_rest_is_left_to_wandb_sync(
    server: Stub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """G4: a minute for an answer, once it has begun."""

    def slow_down() -> None:
        eventually(lambda: server.names)
        server.delay = 60.0
        Path("slow").touch()

    thread = meanwhile(slow_down)
    monkeypatch.setattr(track, "PATIENCE", 14.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    recipe = write_recipe(SLOW)
    given = ("epochs=10", "log_every=1", "threads=1")
    took = {}
    for name, mode in (("off", "off"), ("r", "online")):
        if mode == "online":
            monkeypatch.setenv("AWAITED", "slow")
        assert command(recipe, *given, f"name={name}", f"wandb={mode}") == 0
        rows = expected(Path("checkpoints") / name)
        took[name] = rows[-1]["seconds"] - rows[12]["seconds"]
    thread.join()
    assert took["r"] < took["off"] + 30.0, "less than one answer"
    words = capfd.readouterr().out
    assert "waiting for wandb, 14 s at most; Ctrl-C ends that" in words
    assert re.search(r"wandb sync \S*checkpoints/r/wandb/\*?run-", words), words
    assert weights() == weights(Path("checkpoints/off"))
    there = numbers(history())  # on disk, but perhaps the last, to which the pictures belong
    assert there == expected()[: len(there)]
    assert len(there) >= len(expected()) - 1


# It writes its report when it is told.
REPORTS_LATE = """
import time
from pathlib import Path
from launcher import report

write = report.write

def write_when_told(folder):
    Path("reporting").touch()
    while not Path("go").exists():
        time.sleep(0.02)
    write(folder)

report.write = write_when_told
"""


def finished_without_its_tracker() -> subprocess.Popen[str]:
    """A run that has finished and writes its report, while its tracker stands still."""
    patient_recipe(REPORTS_LATE)
    process = begin()
    eventually(Path("reporting").exists)
    follower, *_ = [pid for pid, words in children(process.pid).items() if "follower" in words]
    os.kill(follower, signal.SIGSTOP)
    assert json.loads((RUN / "status.json").read_text())["state"] == "finished"
    return process


@pytest.mark.slow
def test_a_ctrl_c_ends_the_waiting_of_a_finished_run() -> None:
    process = finished_without_its_tracker()
    Path("go").touch()
    assert process.stdout is not None
    assert any(line.startswith("waiting for wandb, 1000 s") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert "wandb did not end in time" in said(process)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_the_last_step_and_the_waiting_is_not_lost(number: signal.Signals) -> None:
    process = finished_without_its_tracker()
    process.send_signal(number)
    Path("go").touch()
    words = said(process)
    assert "wandb did not end in time" in words
    assert "waiting for wandb" not in words


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused_and_begins_no_tracker() -> None:
    """G7."""
    write_recipe(SLOW)
    process = begin("epochs=1000")
    eventually(lambda: parts() or process.poll() is not None)
    assert "in use" in said(begin("epochs=1000"), 8)
    assert len(parts()) == 1
    process.send_signal(signal.SIGTERM)
    said(process, 75)


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_no_secret_reaches_a_file_a_tracker_or_the_screen(tmp_path: Path) -> None:
    """H7: planted in the environment, the command line and a config; nor does the command line."""
    path = write_recipe(PATIENT)
    fields = 'width: int = 8\n    api_key: str = ""\n    hub_token: str = ""\n'
    path.write_text(path.read_text().replace("width: int = 8\n", fields))
    config = tmp_path.with_name(f"{tmp_path.name}-hf-home") / "secret.yaml"
    config.write_text("hub_token: canary-of-a-config\n")
    names = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY")
    env = {name: f"canary-of-{name.lower()}-0123456789abcdef0123456789" for name in names}
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", "tiny.py", "threads=1", "wandb=offline",
         "tensorboard=true", "--config", str(config), "api_key=canary-of-argv", "lr=0.0625"],
        env={**os.environ, **env, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    words = said(process)
    assert "canary" not in words
    assert "api_key=hidden-" in words, "the run's name tells values apart"
    assert list(tmp_path.rglob("run-*.wandb"))
    assert list(tmp_path.rglob("events.*"))
    for file in tmp_path.rglob("*"):
        assert "canary" not in file.name
        content = file.read_bytes() if file.is_file() else b""
        assert b"canary" not in content, file
        assert b"lr=0.0625 " not in content, "argv"
        assert b"--config" not in content, file


# ── which trackers there are ─────────────────────────────────────────────────────────────────────


def test_a_run_without_trackers_starts_no_process(capsys: pytest.CaptureFixture[str]) -> None:
    """As tests do: WANDB_MODE is disabled."""
    assert command(write_recipe(), "name=r", "threads=1") == 0
    assert "wandb    off (WANDB_MODE is disabled)" in capsys.readouterr().out
    assert not (RUN / "wandb").exists()
    assert not (RUN / ".wandb.lock").exists()


def test_tensorboard_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install tensorboard"):
        track.Tracker(lambda line: None).decide(RunSettings(tensorboard=True))
    track.Tracker(lambda line: None).decide(RunSettings())


def test_a_process_that_cannot_be_had_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(track, "_Follower", refuse)
    assert command(write_recipe(), "name=r", "threads=1", "wandb=offline") == 0
    (warning,) = warnings(capsys.readouterr().out)
    assert "wandb was not started" in warning


class Standing:
    """A follower that does not end."""

    tracker = "wandb"

    def __init__(self) -> None:
        self.waited = 0.0

    def tell(self, words: str) -> None:
        pass

    def ends_within(self, seconds: float) -> bool:
        self.waited = max(self.waited, seconds)
        return False

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("hurried", "error", "most"),
    [
        (False, None, track.PATIENCE),
        (True, None, track.HURRY),
        (False, KeyboardInterrupt, track.HURRY),  # while the run was let go of
    ],
)
def test_a_finished_run_waits_long_unless_somebody_asked_for_its_end(
    hurried: bool, error: type[BaseException] | None, most: float
) -> None:
    lines: list[str] = []
    tracker, follower = track.Tracker(lines.append), Standing()
    tracker._followers = [follower]  # type: ignore[list-item]
    tracker.finished = True
    tracker.hurried = lambda: hurried
    with suppress(KeyboardInterrupt), tracker:
        if error:
            raise error
    assert most - 1 < follower.waited <= most
    assert bool(lines) == (most == track.PATIENCE)
