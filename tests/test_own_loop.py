"""A loop of one's own: killed and continued to the same bits, and what its script may do wrong."""

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT
from conftest import command as launcher_command

from launcher import checkpoint, overview, own_loop, slots

SCRIPT = """
import sys
from dataclasses import dataclass

import torch
from torch import nn

from launcher import Data, Hparams, Split, own_loop, sources


@dataclass(frozen=True, kw_only=True)
class H(Hparams):
    epochs: int = 2
    batch_size: int = 16
    lr: float = 0.1


def train(loop):
    part = Split(sources.synthetic("train", 64, (1, 4, 4), 4))
    data = Data(train=part, test=part, prepare=lambda batch: batch | {
        "image": batch["image"].float() / 255})
    left, right = nn.Linear(16, 8), nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 16))
    models = {"left": left, "right": right}
    first = torch.optim.Adam(left.parameters(), lr=loop.hparams.lr)
    second = torch.optim.SGD(right.parameters(), lr=loop.hparams.lr, momentum=0.9)
    optimizers = {"first": first, "second": second}
    PREPARE
    for step, batch in loop.steps(data, models=models, optimizers=optimizers):
        BEFORE
        image = batch["image"].flatten(1)
        second.param_groups[0]["lr"] = loop.hparams.lr * (1 - loop.progress)
        loss = (right(left(image)) - image - torch.randn(16, 16)).square().mean()
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        first.step()
        MIDDLE
        second.step()
        loop.note({"train/loss": loss})
        AFTER
    END


if __name__ == "__main__":
    sys.exit(own_loop.run(train, H))
"""
WALL_CLOCK = ("seconds", "train/samples_per_s", "train/data_wait")
PLACES = ("PREPARE", "BEFORE", "MIDDLE", "AFTER", "END")


def write(**parts: str) -> Path:
    """A script of two models and two optimizers, 8 steps, with code of a test in some places."""
    text = SCRIPT
    for place in PLACES:
        text = text.replace(place, parts.get(place.lower(), "pass"))
    path = Path("loop.py").resolve()
    path.write_text(text)
    return path


def command(*arguments: str, **parts: str) -> int:
    """Run that script in this process; its exit code."""
    path = write(**parts)
    spec = importlib.util.spec_from_file_location("launcher_recipe_loop", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return own_loop.run(script.train, script.H, ["name=r", "threads=1", *arguments])


def outcome(run: Path = Path("checkpoints/r")) -> dict[str, Any]:
    """All checkpoints' bytes, the metrics less wall-clock times, and pictures."""
    files = [*run.glob("step-*/*"), *run.glob("*.png")]
    found: dict[str, Any] = {str(p.relative_to(run)): p.read_bytes() for p in files}
    found["metrics"] = [
        {key: value for key, value in json.loads(line).items() if key not in WALL_CLOCK}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return found


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("checkpoints/r/status.json").read_text())
    return found


def test_the_help_of_a_script_is_about_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: python loop.py ")
    keys = {line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")} - {""}
    assert keys == {"lr"} | own_loop.SERVED | own_loop.OBEYED
    assert "launcher show" not in out
    assert "--profile" not in out
    assert not Path("checkpoints").exists()


def test_a_stopped_loop_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    assert command() == 0
    whole = outcome()
    os.rename("checkpoints", "whole")
    for step in (2, 4, 6):  # the clock is looked at after a step, and obeyed after the next
        assert command("max_minutes=0.000001") == 75
        assert status()["step"] == step
    assert command() == 0
    found = outcome()
    assert "step-000000000008/optimizer.safetensors" in whole
    assert all(found[name] == whole[name] for name in whole if "0004" not in name)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("state[0] = torch.zeros(1)", "keeps state of right.1.weight under 0, which would come"),
        ("state['a'] = first.state[left.weight]['exp_avg']",
         "keeps right.1.weight/a in the memory of left.weight/exp_avg"),
    ],
)  # fmt: skip
def test_state_that_would_come_back_otherwise_is_refused_after_the_first_step(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(after=f"state = second.state[right[1].weight]; {line}") == 5
    assert words in one_line(capsys)
    assert status()["last_committed_step"] is None


def test_an_optimizer_without_its_state_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: of the state of the second optimizer nothing comes back."""
    assert command() == 0
    whole = outcome()
    os.rename("checkpoints", "whole")
    assert command("max_minutes=0.000001") == 75
    put = slots.put_slots
    monkeypatch.setattr(
        checkpoint,
        "put_slots",
        lambda saved, names, optimizer: put(
            {key: value for key, value in saved.items() if "right" not in key}, names, optimizer
        ),
    )
    assert command() == 0
    last = "step-000000000008/model.safetensors"
    assert outcome()[last] != whole[last]


def test_the_same_command_on_a_finished_loop_trains_nothing() -> None:
    assert command() == 0
    before = outcome()
    assert command(before="raise SystemError") == 5  # the script is another one
    assert command() == 0
    assert outcome() == before


def test_what_another_command_began_meanwhile_is_looked_at_again_with_the_folder_locked() -> None:
    """It comes to the folder while this one makes its models."""
    arrive = "import os; os.path.exists('kept') and os.rename('kept', 'checkpoints/r')"
    assert command("max_minutes=0.000001", prepare=arrive) == 75
    os.rename("checkpoints/r", "kept")
    assert command("lr=0.2", prepare=arrive) == 5
    assert command(prepare=arrive) == 0


def test_a_break_in_the_middle_of_a_step_saves_nothing_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(middle="if step == 5: break") == 75
    assert "left in step 6 of 8, and nothing of that step is saved" in one_line(capsys)
    assert (status()["state"], status()["last_committed_step"]) == ("preempted", 4)
    assert not Path("checkpoints/r/step-000000000006").exists()


def test_a_signal_in_the_middle_of_a_step_finishes_it() -> None:
    middle = "import os; os.kill(os.getpid(), 15 if step == 5 else 0)"
    assert command(middle=middle) == 75
    assert (status()["state"], status()["step"]) == ("preempted", 6)
    found = outcome()
    assert command(middle=middle) == 0
    os.rename("checkpoints", "stopped")
    assert command(middle="import os; os.kill(os.getpid(), 0)") == 0
    assert found["metrics"] == outcome()["metrics"][:6]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was refused, without its box."""
    lines = capsys.readouterr().err.splitlines()
    return " ".join(" ".join(line.strip("│╭╮╰╯─ ") for line in lines).split())


@pytest.mark.parametrize(
    ("code", "given", "says"),
    [
        (2, "lr=fast", "lr"),
        (2, "lrr=1", "Did you mean 'lr'?"),
        (2, "--dry-run", "--dry-run is not supported by a loop of its own"),
        (2, "workers=2", "workers (from argument) has no effect on a loop of its own"),
        (2, "evaluate_every=3", "evaluate_every (from argument) has no effect"),
        (2, "grad_clip=1", "grad_clip has no effect on a loop of its own"),
        (2, "precision=bf16", "precision has no effect"),
        (2, "micro_batch_size=4", "micro_batch_size has no effect"),
        (2, "batch_size=65", "batch_size=65 is more than the 64 training samples"),
        (5, "--resume=must", "holds no run to continue"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    code: int, given: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(given) == code
    assert says in one_line(capsys)
    assert not list(Path().glob("checkpoints/r/step-*"))


@pytest.mark.parametrize(
    ("code", "place", "line", "says"),
    [
        (2, "prepare", "sources.load('digit', 'train')", "Did you mean 'digits'?"),
        (3, "middle", "left(image[:, 1:])", "loop.py:"),
        (3, "middle", "raise ValueError('I do not like this')", "ValueError: I do not like this"),
        (3, "prepare", "return", "returned before it asked for a step"),
        (3, "prepare", "del models['right']", "'second' has a parameter of none of the models"),
        (3, "prepare", "second.add_param_group({'params': left.parameters()})", "two optimizers"),
        (3, "prepare", "models['a.b'] = models.pop('left')", "module name can"),
        (3, "end", "list(loop.steps(data, models=models, optimizers=optimizers))", "once in a run"),
        (3, "prepare", "left.register_buffer('z', torch.zeros(1, dtype=torch.complex128))",
         "the model keeps left.z as torch.complex128"),
        (3, "middle", "left.register_buffer('late', torch.zeros(1))", "left.late was not there"),
        (5, "middle", "first.state['all'] = {'n': 1}", "keeps state['all'] that belongs to no"),
        (6, "middle", "loss = loss * float('nan')", "not finite in step"),
        (10, "middle", "raise torch.OutOfMemoryError('full')", "Give a smaller batch_size="),
    ],
)  # fmt: skip
def test_what_a_script_does_wrong_is_said_in_one_sentence(
    code: int, place: str, line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(**{place: line}) == code
    assert says in one_line(capsys)


def test_what_would_be_lost_is_refused_after_the_first_step() -> None:
    late = "left.register_buffer('late', torch.zeros(1))"
    assert command("log_every=1", middle=late) == 3
    assert outcome()["metrics"] == []


@pytest.mark.parametrize("place", ["prepare", "before"])
def test_first_draws_of_pythons_are_seeded_and_those_of_a_step_are_said_once(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = "import random; print('drew', random.random())"
    found = []
    for number in range(2):
        random.seed(number)
        assert command("--fresh", **{place: draw}) == 0
        shown = capsys.readouterr().out
        found += [line for line in shown.splitlines() if line.startswith("drew")][:1]
        assert shown.count("a step draws from Python's random") == (place == "before")
    assert found[0] == found[1]


def test_several_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(key, value)
    assert command() == 2
    assert "which is one process; 2 were started" in one_line(capsys)


def test_numbers_are_noted_with_the_step_that_they_belong_to() -> None:
    after = "if step % 2 == 0: loop._noted = {}"
    assert command("log_every=1", after=after) == 0
    lines = outcome()["metrics"]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert ["train/loss" in line for line in lines] == [False, True] * 4


@pytest.mark.parametrize("names", [
    ("train/loss",), ("train/lr",), ("train/samples_per_s",), ("train/loss", "train/lr"),
    ("train/loss", "train/lr", "train/samples_per_s", "train/data_wait"), (), ("loss",),
])  # fmt: skip
@pytest.mark.parametrize("draws", [False, True])
def test_a_script_may_note_under_any_name(
    names: tuple[str, ...], draws: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Those of the built-in loop's records among them, which have more than a script notes."""
    monkeypatch.setattr("launcher.own_steps._BETWEEN_LINES", 0.0)
    if draws:
        for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "100"), ("TERM", "xterm")):
            monkeypatch.setenv(name, value)
    assert command("log_every=1", after=f"loop.note(dict.fromkeys({names}, loss * 0 + 0.25))") == 0
    out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    shown = r" +(\S+ +)?0\.2500" if any("/" in name for name in names) else r"\s"
    assert re.search(f"4/8{shown}", out), out
    assert re.search(f"8/8{shown}", out), out
    lines = Path("checkpoints/r/metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)[name] == 0.25 for line in lines for name in names)


def test_a_script_may_not_note_what_every_line_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(after='loop.note({"seconds": 1.0, "train/a": 2.0, "step": 3})') == 3
    assert "every line of metrics has seconds, step of its own. Give another" in one_line(capsys)


def test_the_overview_knows_the_command_that_continues() -> None:
    assert command("max_minutes=0.000001") == 75
    found = overview.summary(Path("checkpoints/r"))
    words = f"python {Path('loop.py').resolve()} name=r "
    assert found.command.startswith(words)
    assert "threads=1" in found.command
    assert found.next == "the same command continues"
    assert command() == 0
    assert overview.summary(Path("checkpoints/r")).next == ""


def test_the_page_shows_the_script_as_it_is() -> None:
    script = (ROOT / "scripts" / "gan.py").read_text()
    assert len(script.splitlines()) <= 80
    assert f"```python\n{script}```\n" in (ROOT / "docs" / "own_loop.md").read_text()


# ── what it imports of its folder, and what is no loop's ────────────────────────────────────────


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments, "name=r", "threads=1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip


def test_a_changed_module_of_the_scripts_folder_is_refused() -> None:
    path = write()
    path.write_text(f"import helper\n{path.read_text()}")
    Path("helper.py").write_text("FACTOR = 1\n")
    assert started(str(path)).returncode == 0
    assert started(str(path)).returncode == 0
    assert Path("checkpoints/r/helper.py").read_text() == "FACTOR = 1\n"
    Path("helper.py").write_text("FACTOR = 10\n")
    done = started(str(path))
    assert (done.returncode, "helper.py, which the" in done.stderr) == (5, True), done.stderr


@pytest.mark.parametrize("words", [("evaluate", "r"), ("show", "loop.py")])
def test_a_command_that_needs_a_recipe_says_what_works(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    assert launcher_command(*words) == 3
    said = one_line(capsys)
    assert "loop.py is a loop of its own" in said or "recipe.py is a loop of its own" in said
    assert "launcher runs, compare and report show its runs" in said


# ── the GAN ──────────────────────────────────────────────────────────────────────────────────────

GAN = ("dataset=digits", "epochs=2", "threads=1", "name=r", "log_every=1", "checkpoint_every=2")


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "gan.py"), *GAN],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def killed_and_continued(folder: Path, times: int, chance: random.Random) -> int:
    """Run the GAN until it ends by itself, killed at random moments after its first checkpoint;
    how often it was killed."""
    kills = 0
    while True:
        process = start(folder)
        assert process.stdout is not None
        if kills < times:
            next(line for line in process.stdout if "committed" in line)
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
        output, _ = process.communicate(timeout=HANGS)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, output
            return kills
        kills += 1


@pytest.mark.slow
def test_the_gan_killed_and_continued_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert killed_and_continued(tmp_path / "whole", 0, random.Random(0)) == 0
    assert killed_and_continued(tmp_path / "killed", 2, random.Random(1)) == 2
    whole = outcome(tmp_path / "whole" / "checkpoints" / "r")
    assert "samples.png" in whole
    assert outcome(tmp_path / "killed" / "checkpoints" / "r") == whole
