"""Stop a run anywhere, give the same command again, and it ends with the same bytes."""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command, write_recipe

from launcher import checkpoint, describe, held, login, report, resume, storage, train
from launcher.build import build
from launcher.data import Batch, Data, feed
from launcher.meter import Meter
from launcher.plan import Plan, Seeds, Ticket
from launcher.settings import RunSettings
from launcher.state import State

RUN = Path("checkpoints/r")
WALL_CLOCK = ("seconds", "train/samples_per_s", "train/data_wait")

# Counts the forward passes of an attempt, and stops in the one that the environment names.
STOPPABLE = """
class Stopped(Exception):
    pass


def loss(model, batch):
    global passes
    passes += model.training
    how, _, at = os.environ.get("STOP", "").partition(" ")
    if model.training and at == str(passes):
        raise {"ctrl-c": KeyboardInterrupt, "error": Stopped}[how]
    return losses.cross_entropy(model, batch)


def data(hparams, data=data):
    def augmented(batch, rng):
        return batch | {"image": augment.flip(augment.shift(batch["image"], rng, 1), rng)}

    whole = data(hparams)
    number = int(os.environ.get("DATA", "0"))
    source = sources.synthetic("train", 64, (1, 4, 4), 4, seed=number)
    return Data(train=Split(source, augmented), test=whole.test, prepare=whole.prepare)


passes = 0
"""

# 32 steps of 2 passes, 16 steps an epoch, a line of metrics every 3 steps.
ARGUMENTS = ("name=r", "threads=1", "batch_size=4", "micro_batch_size=2", "dropout=0.5", "lr=0.2")


@pytest.fixture(autouse=True)
def recipe() -> Path:
    return write_recipe(STOPPABLE)


def start(*arguments: object, stop: str = "", code: int | None = None) -> None:
    """The command, stopped in a forward pass (`ctrl-c 7`, `error 7`) or not."""
    os.environ["STOP"] = stop
    expected = {"": 0, "ctrl-c": 130, "error": 3}[stop.partition(" ")[0]] if code is None else code
    try:
        assert command("tiny.py", *ARGUMENTS, *arguments) == expected
    finally:
        del os.environ["STOP"]


def outcome() -> dict[str, Any]:
    """What a run leaves, less wall-clock times: the bytes of checkpoints, the lines of metrics."""
    found: dict[str, Any] = {
        str(path.relative_to(RUN)): path.read_bytes()
        for path in sorted(RUN.glob("step-*/*"))
    }  # fmt: skip
    found["metrics"] = [
        {key: value for key, value in json.loads(line).items() if key not in WALL_CLOCK}
        for line in (RUN / "metrics.jsonl").read_text().splitlines()
    ]
    status = json.loads((RUN / "status.json").read_text())
    found["status"] = {
        key: value for key, value in status.items() if key not in ("updated", "seconds")
    }
    return found


@cache
def uninterrupted(*arguments: str) -> dict[str, Any]:
    """What a run leaves that nothing has stopped."""
    start(*arguments)
    found = outcome()
    shutil.rmtree(RUN)
    return found


def committed() -> int | None:
    """The step of the newest checkpoint."""
    return max(checkpoint.steps(RUN), default=None)


# ── to the last bit ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("every", "stops", "from_steps"),
    [
        ("5", ["ctrl-c 24"], [10]),  # within an epoch and between two lines of metrics
        ("5", ["error 21"], [10]),  # as soon as the checkpoint was written
        ("1 epoch", ["ctrl-c 33"], [16]),  # at an epoch's end
        ("1 epoch", ["error 40"], [16]),
        ("5", ["ctrl-c 5"], [None]),  # before the first checkpoint
        ("7", ["error 63"], [28]),  # in the last step
        ("1", ["ctrl-c 7", "error 1", "ctrl-c 2", "error 30"], [3, 3, 3, 17]),  # again and again
    ],
)
def test_a_run_that_was_stopped_ends_as_if_it_was_not(
    every: str, stops: list[str], from_steps: list[int | None]
) -> None:
    expected = uninterrupted(f"checkpoint_every={every}")
    assert {"step-000000000032/model.safetensors", "step-000000000032/optimizer.safetensors",
            "step-000000000032/state.json"} < expected.keys()  # fmt: skip
    for stop, step in zip(stops, from_steps, strict=True):
        start(f"checkpoint_every={every}", stop=stop)
        assert committed() == step
    start(f"checkpoint_every={every}")
    assert outcome() == expected
    attempts = json.loads((RUN / "run.json").read_text())["attempts"]
    assert [one["from_step"] for one in attempts][-1] == (from_steps[-1] or 0)
    assert json.loads((RUN / "run.json").read_text())["exact"] is True


def test_a_stopped_run_says_why_and_what_it_kept() -> None:
    start("checkpoint_every=5", stop="ctrl-c 24")
    status = outcome()["status"]
    assert (status["state"], status["code"], status["reason"]) == (
        "failed", 130, "KeyboardInterrupt",
    )  # fmt: skip
    assert status["last_committed_step"] == 10


def test_seconds_go_on_over_attempts() -> None:
    start("checkpoint_every=5", stop="ctrl-c 24")
    start("checkpoint_every=5")
    lines = (RUN / "metrics.jsonl").read_text().splitlines()
    times = [json.loads(line)["seconds"] for line in lines]
    assert times == sorted(times)


def test_a_continued_run_says_from_where(capsys: pytest.CaptureFixture[str]) -> None:
    start("checkpoint_every=5", stop="ctrl-c 24")
    capsys.readouterr()
    start("checkpoint_every=5")
    assert "r: continues at step 10 of 32" in capsys.readouterr().out


def test_a_run_that_was_killed_before_its_last_word_is_finished_by_the_same_command() -> None:
    start()
    expected = outcome()
    status = RUN / "status.json"
    status.write_text(status.read_text().replace('"finished"', '"running"'))
    start()
    assert outcome() == expected


class Killed(BaseException):
    pass


class Mortal(storage.Disk):
    """A disk that is gone after n calls, of all or of some kinds: what the process does then
    changes nothing."""

    def __init__(self, last: int, *kinds: str) -> None:
        self.kinds = kinds or tuple(vars(storage.Disk))
        self.calls = 0
        self.last = last
        self.opened: set[int] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in vars(storage.Disk):
            self.calls += name in self.kinds
            if self.calls > self.last:
                raise Killed
        return super().__getattribute__(name)

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        self.opened.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        self.opened.discard(descriptor)
        super().close(descriptor)


def test_a_run_that_was_killed_at_the_disk_ends_as_if_it_was_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = ("epochs=1", "batch_size=16", "checkpoint_every=2")
    whole = Mortal(10**9)
    monkeypatch.setattr(storage, "disk", whole)
    start(*few)
    expected = outcome()
    shutil.rmtree("checkpoints")
    wrong = []
    for last in range(1, whole.calls, 13):
        disk = Mortal(last)
        monkeypatch.setattr(storage, "disk", disk)
        with pytest.raises(Killed):
            start(*few)
        for descriptor in disk.opened:
            os.close(descriptor)
        monkeypatch.setattr(storage, "disk", storage.Disk())
        code = command("tiny.py", *ARGUMENTS, *few)
        if code or outcome() != expected:
            wrong.append((last, code))
        shutil.rmtree("checkpoints")
    assert wrong == []


class Full(storage.Disk):
    """A disk without room for the checkpoints of some steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def mkdir(self, path: Path) -> None:
        if any(path.name.startswith(f".tmp-{step:012d}") for step in self.steps):
            raise OSError(errno.ENOSPC, "No space left on device")
        super().mkdir(path)


def test_a_full_disk_in_the_middle_is_said_and_outlived(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """C1: two misses in a row, and then it goes."""
    expected = uninterrupted("checkpoint_every=5")
    monkeypatch.setattr(storage, "disk", Full(5, 10))
    start("checkpoint_every=5")
    assert outcome() == expected
    shown = capsys.readouterr().out
    for step in (5, 10):
        assert f"the checkpoint of step {step} was not written" in shown
    assert "No space left" in shown
    assert "MB are free" in shown
    assert "step=15 committed" in shown


@pytest.mark.parametrize(("steps", "whole"), [((10, 15, 16), 5), ((32,), 30)])
def test_three_misses_or_the_last_one_end_the_run_and_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...], whole: int
) -> None:
    """C1: loud at the end."""
    expected = uninterrupted("checkpoint_every=5")
    monkeypatch.setattr(storage, "disk", Full(*steps))
    start("checkpoint_every=5", code=7)
    assert committed() == whole
    assert json.loads((RUN / "status.json").read_text())["state"] == "failed"
    monkeypatch.setattr(storage, "disk", storage.Disk())
    start("checkpoint_every=5")
    assert outcome() == expected


def test_what_may_change_bits_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """B12: on other threads or processes the samples are the same, and sums may not be."""
    start("checkpoint_every=5", stop="ctrl-c 24")
    assert json.loads((RUN / "run.json").read_text())["exact"] is True
    start("checkpoint_every=5", "threads=2", stop="ctrl-c 24")
    about = json.loads((RUN / "run.json").read_text())
    assert about["exact"] is False
    assert about["changes"] == ["threads 1 -> 2 at step 10"]
    same = "Samples, order, augmentation and dropout are the same; sums may differ by rounding."
    assert f"exact=false: threads 1 -> 2 at step 10. {same}" in capsys.readouterr().out
    start("checkpoint_every=5")  # what was once inexact stays so, and each change stands once
    about = json.loads((RUN / "run.json").read_text())
    assert about["exact"] is False
    back = f"threads 2 -> 1 at step {about['attempts'][-1]['from_step']}"
    assert about["changes"] == ["threads 1 -> 2 at step 10", back]


# ── negative controls: without each of these the ends differ ────────────────────────────────────


def stopped_and_continued(expected: dict[str, Any]) -> bool:
    start("checkpoint_every=5", stop="ctrl-c 24")
    start("checkpoint_every=5")
    return outcome() == expected


def without_momentum(
    found: checkpoint.Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer,
    restore: Callable[..., None] = checkpoint.restore,
) -> None:  # fmt: skip
    restore(replace(found, optimizer={}), model, optimizer)


def without_weights(
    found: checkpoint.Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer,
    restore: Callable[..., None] = checkpoint.restore,
) -> None:  # fmt: skip
    own = {name: value.clone() for name, value in model.state_dict().items()}
    restore(replace(found, model=own), model, optimizer)


@pytest.mark.parametrize("restore", [without_momentum, without_weights])
def test_a_run_that_forgets_what_it_learned_ends_otherwise(
    restore: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = uninterrupted("checkpoint_every=5")
    monkeypatch.setattr(checkpoint, "restore", restore)
    assert not stopped_and_continued(expected)


def test_a_run_that_continues_with_the_next_samples_ends_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = uninterrupted("checkpoint_every=5")

    def too_far(
        data: Data, plan: Plan, device: torch.device, *, start: int, **rest: Any
    ) -> Iterator[tuple[Ticket, Batch]]:
        right = feed(data, plan, device, start=start, **rest)
        return right if start == 0 else itertools.chain(
            feed(data, plan, device, start=start + 1, **rest), right
        )  # fmt: skip

    monkeypatch.setattr(train, "feed", too_far)
    assert not stopped_and_continued(expected)


def test_a_run_that_seeds_dropout_otherwise_ends_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = uninterrupted("checkpoint_every=5")
    start("checkpoint_every=5", stop="ctrl-c 24")
    seeds = Seeds.__call__
    monkeypatch.setattr(Seeds, "__call__", lambda *of: [n + 1 for n in seeds(*of)])
    start("checkpoint_every=5")
    assert outcome() != expected


def test_a_run_that_forgets_its_losses_writes_other_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = uninterrupted("checkpoint_every=5")
    monkeypatch.setattr(Meter, "restore", lambda meter, sums, count: None)
    assert not stopped_and_continued(expected)


@pytest.mark.parametrize("field", ["step", "loss_sums", "loss_count", "records", "scores", "best"])
def test_a_run_that_forgets_any_part_of_its_state_ends_otherwise(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaler and parameter groups, which nothing changes here, are tested where they change."""
    expected = uninterrupted("checkpoint_every=5")
    start("checkpoint_every=5", stop="ctrl-c 56")
    assert committed() == 25
    whole = resume.restored

    def forgetful(*given: Any) -> State:
        return replace(whole(*given), **{field: getattr(State(), field)})

    monkeypatch.setattr(resume, "restored", forgetful)
    try:
        start("checkpoint_every=5")
    except AssertionError:  # it did not even end
        return
    assert outcome() != expected


# ── a finished run ──────────────────────────────────────────────────────────────────────────────


def everything() -> dict[str, tuple[bytes, int]]:
    """Every file below the current folder, with its content and its time."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path().rglob("*"))
        if path.is_file() and path.name != "tiny.py"
    }


def test_a_finished_run_is_shown_again_and_never_trained_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    start()
    before, first = everything(), capsys.readouterr().out
    start()
    again = capsys.readouterr().out
    assert everything() == before
    assert again == first[first.index("r: finished") :]
    assert "test/accuracy" in again


def test_a_finished_run_is_shown_without_training_whatever_the_run_settings() -> None:
    start()
    before = everything()
    start("log_every=7", "keep=5", "checkpoint_every=1")
    assert everything() == before


def test_a_finished_run_goes_on_to_more_epochs_if_that_is_allowed() -> None:
    start()
    start("epochs=3", "--allow-change", "epochs")
    assert outcome()["status"]["step"] == 48
    assert [line["step"] for line in outcome()["metrics"]][-1] == 48


def missing(page: Path) -> None:
    page.unlink()


def half_written(page: Path) -> None:
    page.rename(page.with_name(f".{page.name}.4711.tmp"))


def of_the_attempt_before(page: Path) -> None:
    """And the clock was set back since."""
    page.write_text("of an attempt that failed")
    os.utime(page, (2**32, 2**32))


@pytest.mark.parametrize("as_left", [missing, half_written, of_the_attempt_before])
def test_a_report_that_a_kill_prevented_is_written_by_the_same_command(
    as_left: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """E18: but not while another process has the folder, which may be about to write it."""
    start()
    before = everything()
    page = RUN / "report.html"
    as_left(page)
    left = everything()
    with monkeypatch.context() as patch:
        patch.setattr(held.Lock, "acquire", lambda self: False)
        start()
    assert everything() == left
    start()
    assert "of an attempt" not in page.read_text()
    after = everything()
    assert {**after, str(page): b""} == {**before, str(page): b""}


def test_a_finished_run_without_its_last_checkpoint_goes_on_from_the_one_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = uninterrupted("checkpoint_every=5")
    start("checkpoint_every=5")
    shutil.rmtree(checkpoint.folder_of(RUN, 32))
    capsys.readouterr()
    start("checkpoint_every=5")
    said = " ".join(capsys.readouterr().out.split())
    last = max(step for step in checkpoint.steps(RUN) if step < 32)
    assert "warning: the checkpoint of step 32 is gone from checkpoints/r: the run goes on" in said
    assert f"continues at step {last} of 32" in said
    assert outcome() == expected


def test_the_weights_that_are_named_are_those_of_the_best(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """N9: as evaluate, predict and export take them."""
    start("lr=0")
    best = json.loads((RUN / "status.json").read_text())["result"]["best"]["step"]
    assert best == 16, "without learning the first evaluation stays the best"
    out = " ".join(capsys.readouterr().out.split())
    name = "checkpoints/r/step-000000000016/model.safetensors"
    assert f"{name}, the best; the last are in step-000000000032" in out
    shutil.rmtree(checkpoint.folder_of(RUN, 16))
    start("lr=0")
    assert "checkpoints/r/step-000000000032/model.safetensors\n" in capsys.readouterr().out


# ── a dry run ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "code", "foreseen"),
    [
        ((), 0, "without --dry-run it continues at step 10"),
        (("--resume", "5"), 0, "without --dry-run it goes back to step 5"),
        (("--fresh",), 0, "without --dry-run it begins at step 0, and what is in the folder is "),
        (("name=other",), 0, "without --dry-run it begins at step 0\n"),
        (("lr=0.3",), 5, "lr was 0.2 and is now 0.3"),
        (("--resume", "7"), 5, "has no checkpoint of that step. It has: 5, 10."),
        (("--resume", "never"), 5, "--resume never: checkpoints/r holds a run."),
    ],
)
def test_a_dry_run_says_what_the_command_would_do(
    arguments: tuple[str, ...], code: int, foreseen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """N15: it said that the run was fresh. After the step, which is what it is for."""
    start("checkpoint_every=5", stop="ctrl-c 24")
    before = everything()
    capsys.readouterr()
    start(*arguments, "--dry-run", code=code)
    out, err = capsys.readouterr()
    assert "dry run: one step and one evaluation" in out
    assert foreseen in out + " ".join(err.replace("│", " ").split())
    assert "fresh" not in out.replace("--fresh", "")
    assert everything() == before


def test_a_dry_run_of_a_finished_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    start()
    before = everything()
    start("--dry-run")
    assert "without --dry-run it shows the result of this run again" in capsys.readouterr().out
    assert everything() == before


def test_a_dry_run_beside_training_says_that_the_folder_is_in_use(
    stopped: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "owner", lambda path: 4711)
    start("--dry-run", code=8)
    assert "the run folder checkpoints/r is in use" in stopped()


def test_a_dry_run_is_refused_a_tracker_that_the_command_would_be(
    stopped: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that the command would begin. Before the step: that is known at once."""
    monkeypatch.setattr(login, "logged_in", lambda environ: False)
    for switch in ("--dry-run", "--resume=auto"):
        start("wandb=online", switch, code=2)
        assert "wandb=online, and nobody is logged in" in stopped()


# ── between a decision and the lock ─────────────────────────────────────────────────────────────


def meanwhile(monkeypatch: pytest.MonkeyPatch, *arguments: str, stop: str = "") -> None:
    """Another command has the folder while the next one builds."""

    def slowly(*given: Any, **also: Any) -> Any:
        monkeypatch.setattr("launcher.run.build", build)
        before = os.environ["STOP"]
        start(*arguments, stop=stop)
        os.environ["STOP"] = before
        return build(*given, **also)

    monkeypatch.setattr("launcher.run.build", slowly)


@pytest.mark.parametrize("stop", ["", "ctrl-c 24"])
def test_what_another_command_began_meanwhile_is_not_continued_with_other_hyperparameters(
    stop: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """E17: it was decided before the folder was locked, and not looked at again."""
    meanwhile(monkeypatch, "checkpoint_every=5", stop=stop)
    start("lr=0.3", "checkpoint_every=5", code=5)
    assert "lr was 0.2 and is now 0.3" in " ".join(capsys.readouterr().err.split())
    assert json.loads((RUN / "run.json").read_text())["identity"]["lr"] == 0.2


def test_what_another_command_finished_meanwhile_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meanwhile(monkeypatch)
    start()
    assert capsys.readouterr().out.count("r: finished at step 32") == 2
    assert len(json.loads((RUN / "run.json").read_text())["attempts"]) == 1


# ── changes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stopped(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """A run stopped after the checkpoint of step 10; gives what is said on standard error."""
    start("checkpoint_every=5", stop="ctrl-c 24")
    capsys.readouterr()
    return lambda: " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_another_hyperparameter_is_refused_with_both_values(stopped: Callable[[], str]) -> None:
    before = everything()
    start("lr=0.3", "momentum=0.5", code=5)
    message = stopped()
    assert "lr was 0.2 and is now 0.3; momentum was 0.9 and is now 0.5" in message
    assert "--allow-change lr --allow-change momentum" in message
    assert "name=" in message
    assert everything() == before


def test_another_recipe_is_refused(stopped: Callable[[], str], recipe: Path) -> None:
    before = everything()
    recipe.write_text(recipe.read_text() + "\n# changed\n")
    start(code=5)
    message = stopped()
    assert "the recipe file is another than it was" in message
    assert "--allow-change recipe" in message
    assert everything() == before
    start("--allow-change", "recipe")
    assert outcome()["status"]["state"] == "finished"
    assert (RUN / "recipe.py").read_bytes() == recipe.read_bytes()


def test_other_data_is_refused(stopped: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "1")
    start(code=5)
    assert "data" in stopped()


def test_other_data_can_be_allowed(
    stopped: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "1")
    start("--allow-change", "data")
    assert outcome()["status"]["state"] == "finished"
    assert json.loads((RUN / "run.json").read_text())["exact"] is False


def test_an_allowed_change_is_made(stopped: Callable[[], str]) -> None:
    start("lr=0.4", "--allow-change", "lr")
    found = [line for line in outcome()["metrics"] if "train/lr" in line]
    assert [line["step"] for line in found if line["train/lr"] > 0.2] != []
    about = json.loads((RUN / "run.json").read_text())
    assert about["identity"]["lr"] == 0.4
    assert about["exact"] is False
    start("lr=0.4")  # from now on this is the run


def test_what_was_changed_is_named_and_nothing_said_to_be_the_same(
    stopped: Callable[[], str], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """N1: dropout was another, and the line said that it was not."""
    recipe.write_text(recipe.read_text() + "\n# changed\n")
    allowed = ("--allow-change", "dropout", "--allow-change", "recipe")
    start("dropout=0.25", "threads=2", *allowed)
    said = (
        "exact=false: the recipe is another at step 10; dropout 0.5 -> 0.25 at step 10; "
        "threads 1 -> 2 at step 10. What is learned is something else from there on."
    )
    assert said in capsys.readouterr().out
    page = (RUN / "report.html").read_text()
    assert "dropout 0.5 -&gt; 0.25 at step 10" in page
    assert "What is learned is something else from there on." in page
    assert "may differ by rounding" not in page


def test_whether_steps_are_recorded_on_a_gpu_is_one_of_the_facts(
    stopped: Callable[[], str],
) -> None:
    """Elsewhere no step is, whatever the setting says."""
    assert describe.graphs(RunSettings(), torch.device("cuda")) == "auto"
    assert describe.graphs(RunSettings(graphs="off"), torch.device("cuda")) == "off"
    start("graphs=off")
    about = json.loads((RUN / "run.json").read_text())
    assert [one["graphs"] for one in about["attempts"]] == ["off", "off"]
    assert about["exact"] is True


def test_only_the_changes_that_are_named_are_allowed(stopped: Callable[[], str]) -> None:
    start("lr=0.4", "momentum=0.5", "--allow-change", "lr", code=5)
    assert "momentum was 0.9 and is now 0.5." in stopped()


def test_an_unknown_key_is_no_change_to_allow(stopped: Callable[[], str]) -> None:
    start("--allow-change", "momentun", code=2)
    assert "there is no such hyperparameter. Did you mean 'momentum'?" in stopped()


def test_run_settings_may_change() -> None:
    expected = uninterrupted("checkpoint_every=5", "keep=2")
    start("checkpoint_every=5", "keep=5", "wandb=off", stop="ctrl-c 24")
    start("checkpoint_every=5", "keep=2")
    assert outcome() == expected


# ── fresh, must, never ──────────────────────────────────────────────────────────────────────────


def test_a_fresh_start_keeps_the_earlier_run_in_an_archive(
    stopped: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = outcome()
    start("--fresh", "lr=0.3")
    (archive,) = RUN.glob("archive-*")
    assert f"the earlier run was moved to {archive}" in capsys.readouterr().out
    assert outcome()["status"]["step"] == 32
    kept = {str(path.relative_to(archive)): path.read_bytes() for path in archive.glob("step-*/*")}
    assert kept == {name: earlier[name] for name in kept}
    assert {path.name for path in archive.iterdir()} == {
        "step-000000000005", "step-000000000010", "recipe.py", "run.json", "status.json",
        "metrics.jsonl",
    }  # fmt: skip
    (attempt,) = json.loads((RUN / "run.json").read_text())["attempts"]
    assert attempt["from_step"] == 0


def test_where_something_must_be_continued_nothing_is_begun(stopped: Callable[[], str]) -> None:
    start("--resume", "must")
    shutil.rmtree(RUN)
    start("--resume", "must", code=5)
    assert "holds no run to continue" in stopped()
    assert not RUN.exists()


def test_where_a_checkpoint_must_be_continued_an_empty_run_is_refused(
    stopped: Callable[[], str],
) -> None:
    for folder in RUN.glob("step-*"):
        shutil.rmtree(folder)
    start("--resume", "must", code=5)
    assert "holds no checkpoint" in stopped()


def test_where_nothing_is_to_be_continued_nothing_is(stopped: Callable[[], str]) -> None:
    before = everything()
    start("--resume", "never", code=5)
    assert "holds a run" in stopped()
    assert everything() == before
    shutil.rmtree(RUN)
    start("--resume", "never")
    assert outcome()["status"]["state"] == "finished"


def test_checkpoints_without_the_account_of_what_they_learned_are_not_continued_in_silence(
    stopped: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """E19: other hyperparameters went on with them, and that was called exact."""
    (RUN / "run.json").unlink()
    before = everything()
    start("lr=0.3", code=5)
    assert "checkpoints/r holds checkpoints and no run.json" in stopped()
    assert everything() == before
    start("lr=0.3", "--resume", "must")
    about = json.loads((RUN / "run.json").read_text())
    assert about["exact"] is False
    assert "exact=false: run.json was lost" in capsys.readouterr().out


def test_checkpoints_that_are_gone_are_said_to_be(
    stopped: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """E20: once, and not of a run that has none yet."""
    for folder in RUN.glob("step-*"):
        shutil.rmtree(folder)
    start("checkpoint_every=5", stop="ctrl-c 3")
    gone = "warning: the checkpoints up to step 10 are gone from checkpoints/r"
    assert gone in capsys.readouterr().out
    assert outcome()["status"]["last_committed_step"] == 0
    start("checkpoint_every=5")
    assert "are gone" not in capsys.readouterr().out


def test_checkpoints_are_not_continued_in_silence_when_they_should_not_be(
    stopped: Callable[[], str],
) -> None:
    (RUN / "run.json").unlink()
    start("--resume", "never", code=5)


def test_a_fresh_start_may_be_the_first() -> None:
    start("--fresh")
    assert outcome()["status"]["state"] == "finished"


# ── damage ──────────────────────────────────────────────────────────────────────────────────────


def damage(step: int, name: str = "model.safetensors") -> None:
    path = checkpoint.folder_of(RUN, step) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_as_if_it_was_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = uninterrupted("checkpoint_every=5")
    start("checkpoint_every=5", stop="ctrl-c 24")
    damage(10)
    capsys.readouterr()
    start("checkpoint_every=5")
    out = capsys.readouterr().out
    assert "set aside: step-000000000010: model.safetensors was changed or cut short." in out
    assert "continues at step 5 of 32" in out
    assert outcome() == expected


def test_a_run_whose_every_checkpoint_is_damaged_is_refused(stopped: Callable[[], str]) -> None:
    for step in (5, 10):
        damage(step)
    before = {path: path.read_bytes() for path in RUN.glob("step-*/*")}
    start("checkpoint_every=5", code=5)
    message = stopped()
    assert "step-000000000005" in message
    assert "step-000000000010" in message
    assert "--fresh" in message
    assert {path: path.read_bytes() for path in RUN.glob("step-*/*")} == before


def test_metrics_that_are_lost_are_refused(stopped: Callable[[], str]) -> None:
    (RUN / "metrics.jsonl").write_bytes(b"")
    start("checkpoint_every=5", code=5)
    assert "metrics.jsonl has 0 lines" in stopped()


@pytest.mark.parametrize("name", ["run.json", "status.json"])
def test_a_damaged_account_is_refused_by_its_name(name: str, stopped: Callable[[], str]) -> None:
    (RUN / name).write_text("{")
    start("checkpoint_every=5", code=5)
    assert f"{name} is damaged" in stopped()


@pytest.mark.parametrize(
    ("name", "changes", "where"),
    [
        ("run.json", {"identity": 3}, "identity"),
        ("run.json", {"attempts": 3}, "attempts"),
        ("run.json", {"attempts": [3]}, "attempts.0"),
        ("run.json", {"attempts": [{"from_step": "x"}]}, "attempts.0.from_step"),
        ("run.json", {"micro_batch_size": "abc"}, "micro_batch_size"),
        ("run.json", {"micro_batch_size": 0}, "micro_batch_size"),
        ("run.json", {"hyperparameters": {"lr": 1}}, "hyperparameters.lr"),
        ("status.json", {"failures": "x"}, "failures"),
        ("status.json", {"last_committed_step": "x"}, "last_committed_step"),
        ("status.json", {"state": "finished"}, "names no result"),
        ("status.json", {"state": "finished", "result": {"best": 3}}, "result"),
        ("status.json", {"state": []}, "state"),
    ],
)
def test_an_account_with_a_value_of_another_type_is_damaged_too(
    name: str, changes: dict[str, Any], where: str, stopped: Callable[[], str]
) -> None:
    """E21: that was called a bug of the launcher."""
    document = json.loads((RUN / name).read_text())
    (RUN / name).write_text(json.dumps(document | changes))
    before = everything()
    start("checkpoint_every=5", code=5)
    said = stopped()
    assert f"{name} is damaged" in said
    assert where in said
    assert everything() == before


@pytest.mark.parametrize("line", ["x", "[]", "{}", '{"seconds": null}', "\ufffe", "[" * 9999])
def test_a_line_of_metrics_that_is_none_is_refused(line: str, stopped: Callable[[], str]) -> None:
    path = RUN / "metrics.jsonl"
    count = len(path.read_text().splitlines())
    path.write_text(f"{line}\n" * count)
    before = outcome()["status"] if line == '{"seconds": null}' else None
    start("checkpoint_every=5", code=5)
    assert "metrics.jsonl is damaged: line" in stopped()
    if before is not None:
        assert outcome()["status"] == before


def test_what_a_crash_left_is_tidied_up(stopped: Callable[[], str]) -> None:
    for name in (".tmp-000000000015-ab", ".trash-000000000005-cd"):
        (RUN / name).mkdir()
        (RUN / name / "model.safetensors").write_bytes(b"half")
    (RUN / ".status.json.4711.tmp").write_bytes(b"half")
    start("checkpoint_every=5")
    assert [path.name for path in RUN.glob(".*")] == [".lock"]


# ── back to a step ──────────────────────────────────────────────────────────────────────────────

KEPT = ("checkpoint_every=5", "keep=9")


@pytest.fixture
def whole() -> dict[str, Any]:
    """What a run leaves that nothing has stopped; asked for before `stopped`."""
    return uninterrupted("checkpoint_every=5")


@pytest.fixture
def finished(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """A finished run with the checkpoints of steps 5, 10, ..., 30, 32 and of the best one, 16 or
    32; gives what is said on both streams."""
    start(*KEPT)
    capsys.readouterr()

    def said() -> str:
        out, err = capsys.readouterr()
        return " ".join((out + err).replace("│", " ").split())

    return said


@pytest.mark.parametrize("step", [5, 20])
def test_a_run_goes_back_to_a_step_and_ends_as_it_did(
    step: int, finished: Callable[[], str]
) -> None:
    expected, there = outcome(), checkpoint.steps(RUN)
    before = {path.relative_to(RUN): path.read_bytes() for path in RUN.glob("step-*/*")}
    lines = (RUN / "metrics.jsonl").read_bytes()
    start(*KEPT, "--resume", step)
    assert outcome() == expected
    (archive,) = RUN.glob("archive-*")
    said = finished()
    assert f"later checkpoints were moved to {archive}" in said
    assert f"continues at step {step} of 32" in said
    later = {checkpoint.folder_of(Path(), other).name for other in there if other > step}
    assert {path.name for path in archive.iterdir()} == {
        *later, "metrics.jsonl", "outcome.json", "report.html",
    }  # fmt: skip
    assert (archive / "metrics.jsonl").read_bytes() == lines
    for path in archive.glob("step-*/*"):
        assert path.read_bytes() == before[path.relative_to(archive)]
    assert json.loads((RUN / "run.json").read_text())["attempts"][-1]["from_step"] == step
    start(*KEPT)  # finished again
    assert len(list(RUN.glob("archive-*"))) == 1


def test_a_run_that_was_stopped_goes_back_too(
    whole: dict[str, Any], stopped: Callable[[], str]
) -> None:
    start("checkpoint_every=5", "--resume", "5")
    assert outcome() == whole


@pytest.mark.filterwarnings("ignore:.*generator object lines")  # closed when the disk is gone
def test_going_back_may_be_killed_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then either command ends as it would have, the one with the change or, where
    nothing of that was begun, the one without. What it leaves is of that past alone."""
    few = ("epochs=1", "batch_size=16", "checkpoint_every=2", "keep=9")
    change = ("lr=0.4", "--allow-change", "lr")
    expected: dict[tuple[str, ...], dict[str, Any]] = {}
    start(*few)
    shutil.copytree(RUN, "finished")
    expected[few] = left()
    whole = Mortal(10**9, "rename", "unlink")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "disk", whole)
        start(*few, *change, "--resume", "2")
    expected[few + change[:1]] = left()
    assert len({one["outcome.json"] for one in expected.values()}) == 2
    wrong = []
    for last in range(whole.calls):
        shutil.rmtree(RUN)
        shutil.copytree("finished", RUN)
        disk = Mortal(last, "rename", "unlink")
        with monkeypatch.context() as patch, suppress(Killed):
            patch.setattr(storage, "disk", disk)
            command("tiny.py", *ARGUMENTS, *few, *change, "--resume", "2")
        for descriptor in disk.opened:
            os.close(descriptor)
        ended = [given for given in expected if command("tiny.py", *ARGUMENTS, *given) == 0]
        if len(ended) != 1 or left() != expected[ended[0]]:
            wrong.append((last, ended))
    assert wrong == []


def left() -> dict[str, Any]:
    """What a run leaves, its outcome, and whether its report is made from its status."""
    found = outcome()
    found["outcome.json"] = (RUN / "outcome.json").read_bytes()
    found["report.html"] = report.is_current(RUN)
    return found


def test_a_change_that_is_allowed_begins_at_the_step_that_was_asked_for(
    finished: Callable[[], str],
) -> None:
    before = outcome()["metrics"]
    start(*KEPT, "--resume", "20", "lr=0.4", "--allow-change", "lr")
    rates = {line["step"]: line["train/lr"] for line in outcome()["metrics"] if "train/lr" in line}
    for line in before:
        if "train/lr" in line:
            factor = 2 if line["step"] > 20 else 1
            assert rates[line["step"]] == pytest.approx(factor * line["train/lr"])


def test_the_newest_step_is_continued_without_an_archive(
    whole: dict[str, Any], stopped: Callable[[], str]
) -> None:
    start("checkpoint_every=5", "--resume", "10")
    assert outcome() == whole
    assert not list(RUN.glob("archive-*"))


@pytest.mark.parametrize("step", ["0", "7", "999999999999", "00000011"])
def test_a_step_without_a_checkpoint_is_refused_with_those_there(
    step: str, stopped: Callable[[], str]
) -> None:
    before = everything()
    start("--resume", step, code=5)
    said = stopped()
    assert f"--resume {int(step)}: checkpoints/r has no checkpoint of that step." in said
    assert "It has: 5, 10." in said
    assert {k: v for k, v in everything().items() if "owner.json" not in k} == {
        k: v for k, v in before.items() if "owner.json" not in k
    }


def test_a_step_of_a_run_without_checkpoints_is_refused(stopped: Callable[[], str]) -> None:
    for folder in RUN.glob("step-*"):
        shutil.rmtree(folder)
    start("--resume", "5", code=5)
    assert "It has: none." in stopped()


@pytest.mark.parametrize(
    "word", ["-1", "-999", "1000000000000", "9" * 5000, "1.5", "1e3", "0x10", "٣", "²", "", " 5"]
)
def test_what_is_no_step_is_refused_before_anything(word: str, stopped: Callable[[], str]) -> None:
    before = everything()
    start(f"--resume={word}", code=2)
    assert "give auto, must, never or the step of a checkpoint." in stopped()
    assert everything() == before


def test_a_negative_step_as_a_word_of_its_own_is_refused_too(stopped: Callable[[], str]) -> None:
    start("--resume", "-5", code=2)


def test_a_step_that_is_damaged_is_refused_and_the_later_ones_stay(
    stopped: Callable[[], str],
) -> None:
    damage(5)
    start("--resume", "5", code=5)
    assert "model.safetensors was changed or cut short" in stopped()
    assert checkpoint.steps(RUN) == [5, 10]
    assert not list(RUN.glob("archive-*"))


def test_a_step_before_a_damaged_one_may_be_gone_back_to(
    whole: dict[str, Any], stopped: Callable[[], str]
) -> None:
    damage(10)
    start("checkpoint_every=5", "--resume", "5")
    assert outcome() == whole


def test_a_step_of_no_run_is_refused() -> None:
    start("--resume", "5", code=5)
    assert not RUN.exists()


@pytest.mark.parametrize("resume", ["5", "must", "never"])
def test_to_begin_anew_and_to_continue_contradict_each_other(
    resume: str, stopped: Callable[[], str]
) -> None:
    start("--resume", resume, "--fresh", code=2)
    assert f"--fresh begins anew and --resume {resume} continues" in stopped()
    assert not list(RUN.glob("archive-*"))


# ── a run that fails again and again ────────────────────────────────────────────────────────────


def failures() -> int:
    found: int = outcome()["status"]["failures"]
    return found


def test_three_failures_at_one_step_are_enough(stopped: Callable[[], str]) -> None:
    """B14: a job that is started again and again must end."""
    assert failures() == 0, "who pressed ctrl-c is no failure"
    for number in (1, 2, 3):
        start("checkpoint_every=5", stop="error 3")
        assert failures() == number
    stopped()
    before = everything()
    start("checkpoint_every=5", code=5)
    said = stopped()
    assert "failed 3 times after step 10, the last time with: tiny.py:" in said
    assert "Stopped" in said
    assert "--resume must" in said
    assert everything() == before


@pytest.mark.parametrize("how", [("--resume", "must"), ("--resume", "5"), ("--fresh",)])
def test_after_three_failures_somebody_may_try_again(
    how: tuple[str, ...], whole: dict[str, Any], stopped: Callable[[], str]
) -> None:
    for _ in range(3):
        start("checkpoint_every=5", stop="error 3")
    start("checkpoint_every=5", *how, stop="error 1")
    assert failures() == (1 if how == ("--fresh",) else 4)
    start("checkpoint_every=5", *([] if how == ("--fresh",) else ["--resume", "must"]))
    assert outcome() == whole
    assert failures() == 0


def test_a_new_checkpoint_begins_the_count_anew() -> None:
    """Each attempt gets 5 steps further: that is slow, and no reason to give up."""
    expected = uninterrupted("checkpoint_every=5")
    for _ in range(5):
        start("checkpoint_every=5", stop="error 13")
        assert failures() == 1
    start("checkpoint_every=5")
    assert outcome() == expected


def test_failures_before_the_first_checkpoint_count_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(3):
        start(stop="error 3")
    start(code=5)
    assert "failed 3 times after step 0" in " ".join(capsys.readouterr().err.split())
