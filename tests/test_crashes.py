"""Checkpoints on a disk that fails, stops, loses power or changes what it holds.

The disks, and the judging, are those of `scripts/torture.py`; here each of its modes is done once,
in short. The letters and numbers in the docstrings are the rows of the matrix of faults.
"""

import errno
import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults import calls, damage, sides
from faults.calls import JOBS, Job, save
from faults.crashes import Fault, FaultyDisk, RecordingDisk, using
from faults.loaders import AccelerateLoader, LauncherLoader
from faults.power_cuts import power_cuts
from faults.rows import ACCELERATE, Row
from faults.subjects import AccelerateSubject, LauncherSubject
from torture import main

from launcher import checkpoint
from launcher.errors import CheckpointError, StorageError

RUN = Path("run")
PARTS = (*checkpoint.FILES, "manifest.json", "COMMIT")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """A forked child has none of its parent's threads; the fixture of all tests gives them back."""
    torch.set_num_threads(1)


def held(row: Row, least: int) -> None:
    """A row of the torture without a violation, of which enough was done."""
    assert row.violations == 0, (row.what, row.found)
    assert row.count >= least, row


def named(job: Job) -> str:
    return job.name


def newest_step(run: Path = RUN) -> tuple[int, dict[int, str]]:
    found, skipped = checkpoint.newest(run)
    assert found is not None
    assert found.state["at"] == found.step
    return found.step, skipped


# ── calls ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("job", JOBS, ids=named)
def test_a_process_killed_at_any_call_leaves_a_whole_checkpoint(job: Job, after: bool) -> None:
    """A2, C27, with real processes and a real SIGKILL."""
    held(calls.killed(job, after=after), 20)


@pytest.mark.parametrize("job", JOBS, ids=named)
def test_a_call_that_fails_leaves_a_whole_checkpoint(job: Job) -> None:
    """C4, C6, C27: also when the removal of what was begun fails, and is left to the next start."""
    faults = [Fault(errno.EROFS, lasting=True), Fault(errno.EIO, after=True), Fault(short=True)]
    for fault in faults:
        count, wrong = calls.failed(job, fault)
        assert (wrong, count >= 20) == (Counter(), True), fault


@pytest.mark.slow
def test_each_error_at_each_call_leaves_a_whole_checkpoint() -> None:
    for row in calls.errors(JOBS[0]):
        held(row, 40)


def test_an_fsync_that_failed_is_never_tried_again_on_the_same_file() -> None:
    """C4: after the error the kernel may take the lost pages for clean. A new save is a new folder.

    An fsync that fails before any name is new leaves nothing of it; after the last rename the
    checkpoint is there under its name, though nobody was told.
    """
    save(RUN, 10)
    for number in itertools.count(1):
        disk = FaultyDisk(number, Fault(errno.EIO), ["fsync"])
        opened = FaultyDisk(0, Fault(), ["open"])
        disk.open = opened.open  # type: ignore[method-assign]
        with using(disk):
            if not disk.struck and number > 20:
                break
            try:
                save(RUN, 20)
            except StorageError:
                pass
            else:
                break
        files = [path for _, path in opened.calls if not path.endswith((RUN.name, "."))]
        synced = [path for path in files if ".tmp-" in path]
        assert len(synced) == len(set(synced)), "a file was opened, and so synced, twice"
        assert checkpoint.steps(RUN) in ([10], [10, 20])
        assert not list(RUN.glob(".tmp-*"))
        newest_step()
        shutil.rmtree(RUN / "step-000000000020", ignore_errors=True)
    assert number > 7, "every file, the two folders"
    assert newest_step() == (20, {})


@pytest.mark.parametrize("fault", [Fault(errno.EIO), Fault(short=True)], ids=["EIO", "short read"])
def test_a_checkpoint_that_cannot_be_read_is_passed_over_for_the_next_older(fault: Fault) -> None:
    """C5."""
    save(RUN, 10)
    save(RUN, 20)
    found: Counter[int] = Counter()
    for number in itertools.count(1):
        disk = FaultyDisk(number, fault, ["open", "read"])
        with using(disk):
            step, skipped = newest_step()
        if not disk.struck:
            break
        found[step] += 1
        assert list(skipped) == ([20] if step == 10 else [])
    assert found[10] >= 5
    assert newest_step() == (20, {})


# ── power ────────────────────────────────────────────────────────────────────────────────────────


def test_a_power_cut_at_any_instant_leaves_what_was_acknowledged_and_nothing_torn() -> None:
    """A3: every state, and each fsync that is left out is missed by some state."""
    whole, controls = calls.power(0, None)
    held(whole, 1000)
    held(controls, 20)


def test_the_states_of_a_power_cut_are_those_of_the_model(tmp_path: Path) -> None:
    """By hand: one file in one folder, nothing synced, then the file, then the name."""
    root = tmp_path / "recorded"
    root.mkdir()
    disk = RecordingDisk(root)
    file = disk.open(root / "a", os.O_WRONLY | os.O_CREAT)
    disk.write(file, memoryview(b"12"))
    disk.fsync(file)
    disk.close(file)
    folder = disk.open(root, os.O_RDONLY)
    disk.fsync(folder)
    disk.close(folder)
    states: dict[int, set[object]] = {}
    for left in power_cuts(disk.operations):
        states.setdefault(left.after, set()).add(left.tree)
    nothing: object = ()
    assert states == {
        0: {nothing},
        1: {nothing, (("a", ()),)},
        2: {nothing, (("a", b""),)},
        3: {nothing, *((("a", data),) for data in (b"", b"1", b"12", b"\0\0"))},
        4: {nothing, (("a", b"12"),)},
        5: {(("a", b"12"),)},
    }


# ── damage ───────────────────────────────────────────────────────────────────────────────────────


def test_every_flipped_bit_every_cut_and_every_blank_block_is_refused(tmp_path: Path) -> None:
    """C8, C9, C10."""
    loader = LauncherLoader(tmp_path, 0)
    files = {path.name: path.read_bytes() for path in loader.folder.iterdir()}
    damages = damage.flipped(files, 1000, random.Random(0))
    damages += damage.cut_and_blanked(files)
    said: list[bytes] = []
    damage._load_each(loader, damages, said.append)
    assert Counter(said) == {b"r": len(damages)}
    assert {one.name for one in damages} == {*PARTS}
    assert loader.load() == "same"


def test_any_part_of_a_checkpoint_is_none() -> None:
    """C11, C24: a copy that was interrupted, in whatever order its files came."""
    save(RUN, 10)
    save(RUN, 20)
    whole = checkpoint.folder_of(RUN, 20).rename("whole")
    for size in range(len(PARTS)):
        for names in itertools.combinations(PARTS, size):
            part = checkpoint.folder_of(RUN, 20)
            part.mkdir()
            for name in names:
                shutil.copy(whole / name, part)
            step, skipped = newest_step()
            assert (step, list(skipped)) == (10, [20]), names
            shutil.rmtree(part)
    shutil.copytree(whole, checkpoint.folder_of(RUN, 20))
    assert newest_step() == (20, {})


def test_a_file_that_is_not_of_a_checkpoint_is_never_opened() -> None:
    """C11: it does no harm, so a note or a .DS_Store costs nobody a checkpoint."""
    save(RUN, 10)
    (checkpoint.folder_of(RUN, 10) / "notes.txt").write_text("good one")
    (checkpoint.folder_of(RUN, 10) / "model.pt").mkdir()
    disk = FaultyDisk(0, Fault(), ["open"])
    with using(disk):
        assert newest_step() == (10, {})
    assert {Path(path).name for _, path in disk.calls} == {*PARTS}


def test_all_but_one_may_be_damaged() -> None:
    """C14: each in its own way, each with its reason, and each kept as evidence."""
    for step in range(10, 60, 10):
        save(RUN, step)
    damages: list[Callable[[Path], object]] = [
        lambda folder: (folder / "COMMIT").unlink(),
        lambda folder: os.truncate(folder / "state.json", 3),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
        lambda folder: (folder / "manifest.json").write_text("{}"),
    ]
    for step, hurt in zip((20, 30, 40, 50), damages, strict=True):
        hurt(checkpoint.folder_of(RUN, step))
    step, skipped = newest_step()
    assert (step, list(skipped)) == (10, [50, 40, 30, 20])
    for step in skipped:
        checkpoint.set_aside(RUN, step)
    checkpoint.tidy(RUN)
    assert newest_step() == (10, {})
    assert len(list(RUN.glob(".bad-step-*"))) == 4


# ── what lies about ──────────────────────────────────────────────────────────────────────────────


def test_what_a_dead_process_left_is_passed_over_and_then_removed() -> None:
    """C12: even a checkpoint that is whole but for its name, and a half-removed one."""
    for step in (10, 20, 30, 40):
        save(RUN, step)
    checkpoint.folder_of(RUN, 40).rename(RUN / ".tmp-000000000040-0123456789abcdef")
    checkpoint.folder_of(RUN, 30).rename(RUN / ".trash-000000000030-01234567")
    (RUN / ".trash-000000000030-01234567" / "COMMIT").unlink()
    assert newest_step() == (20, {})
    assert len(os.listdir(RUN)) == 4, "only the owner of the lock removes"
    checkpoint.tidy(RUN)
    assert sorted(os.listdir(RUN)) == ["step-000000000010", "step-000000000020"]


def test_ten_thousand_strange_names_change_nothing() -> None:
    """C13."""
    save(RUN, 10)
    for number in range(10_000):
        (RUN / f"step-{number}").touch()
    (RUN / "step-000000000099").write_text("a file")
    (RUN / "step-000000000010 (copy)").mkdir()
    (RUN / "step-000000000098").symlink_to("nowhere")
    assert checkpoint.steps(RUN) == [10]
    assert newest_step() == (10, {})
    save(RUN, 20)
    checkpoint.prune(RUN, keep=1)
    checkpoint.tidy(RUN)
    assert newest_step() == (20, {})
    assert len(os.listdir(RUN)) == 10_004


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_checkpoint_is_private_whatever_the_umask(umask: int) -> None:
    """H11."""
    before = os.umask(umask)
    try:
        save(RUN, 10)
    finally:
        os.umask(before)
    folder = checkpoint.folder_of(RUN, 10)
    assert RUN.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


# ── beside Accelerate ────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_kills_at_drawn_instants_cost_nothing() -> None:
    """A1, and the same of Accelerate is counted, not promised."""
    ours, theirs = sides.kills(0, 15)
    held(ours, 15)
    assert (theirs.subject, theirs.count, theirs.broken) == (ACCELERATE, 15, False)


def test_both_subjects_give_back_what_they_saved(tmp_path: Path) -> None:
    """The control of the comparison: without a kill nothing is amiss on either side."""
    for subject in (
        LauncherSubject(tmp_path / "ours", 4),
        AccelerateSubject(tmp_path / "theirs", 4),
    ):
        assert subject.load() == ("none", 0)
        for step in (1, 2):
            subject.save(step)
            assert subject.load() == ("whole", step)


def test_the_comparison_sees_a_mixture_and_a_missing_file(tmp_path: Path) -> None:
    subject = AccelerateSubject(tmp_path / "run", 4)
    subject.save(1)
    shutil.copytree(subject.folder / "checkpoint_1", tmp_path / "first")
    subject.save(2)
    second = subject.folder / "checkpoint_2"
    (second / "random_states_0.pkl").unlink()
    assert subject.load() == ("without its random state", 2)
    shutil.copy(tmp_path / "first" / "model.safetensors", second)
    assert subject.load() == ("torn", 2)
    (second / "optimizer.bin").unlink()
    assert subject.load() == ("unusable", 0)


def test_the_comparison_sees_a_value_that_was_altered(tmp_path: Path) -> None:
    loader = AccelerateLoader(tmp_path, 0)
    assert loader.load() == "same"
    path = loader.folder / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert loader.load() == "altered"
    path.write_bytes(good[:-1])
    assert loader.load() == "refused"


# ── the entry point ──────────────────────────────────────────────────────────────────────────────


def test_a_broken_promise_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rows(seed: int, count: int | None) -> list[Row]:
        return [Row("calls", f"seed {seed}", count or 0, violations=seed)]

    monkeypatch.setattr(calls, "calls", rows)
    assert main(["calls", "--count", "3"]) == 0
    assert main(["calls", "--count", "3", "--seed", "1", "--json", "rows.json"]) == 1
    assert '"verdict": "BROKEN"' in Path("rows.json").read_text()
    assert main(["calls"]) == 1, "nothing was done"


def test_a_checkpoint_error_is_what_the_judge_expects() -> None:
    """The judge sees a torn one, a missing one, and what is left over."""
    save(RUN, 10)
    assert calls.start(RUN) == calls.Found(10, ())
    (checkpoint.folder_of(RUN, 10) / "COMMIT").unlink()
    with pytest.raises(CheckpointError):
        checkpoint.read(RUN, 10)
    found = calls.start(RUN)
    assert found.step is None
    assert len(calls.broken(found, 10, (10,))) == 4
