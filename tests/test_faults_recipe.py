"""Recipes and configs that are wrong, and recipes that misbehave."""

import codecs
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import END, HANGS, ROOT, TINY, command, write_recipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from launcher import checkpoint, cli, storage
from launcher.errors import SettingsError

RUN = Path("checkpoints/r")


def run(extra: str = "", *given: str) -> int:
    return command(write_recipe(extra), "name=r", "threads=1", *given)


def status() -> dict[str, object]:
    found: dict[str, object] = json.loads((RUN / "status.json").read_text())
    return found


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


# ── a recipe that ends the program ───────────────────────────────────────────────────────────────

EXITS = {
    "the file": "raise SystemExit(0)",
    "data": "def data(hparams): sys.exit(0)",
    "model": "def model(hparams, data): sys.exit(0)",
    "optimizer": "def optimizer(hparams, model): sys.exit(0)",
    "schedule": "def schedule(hparams, progress): sys.exit(0)",
    "loss": "def loss(model, batch): sys.exit(0)",
    "metrics": "def metrics(model, batch): sys.exit(0)",
}


@pytest.mark.parametrize("where", EXITS)
def test_a_recipe_that_exits_before_training_is_no_success(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """F5: exit(0) is not 0, wherever it stands, and nothing of a run is begun."""
    assert run(f"import sys\n{EXITS[where]}") == 3
    assert "ended the program with exit(0)" in said(capsys)
    assert not Path("checkpoints").exists()


LATE_EXITS = {
    "loss": "def loss(model, batch):\n    if model.training: sys.exit(0)\n"
    "    return losses.cross_entropy(model, batch)",
    "schedule": "def schedule(hparams, progress):\n    if progress > 0.5: sys.exit(0)\n"
    "    return 1.0",
    "transform": "plain = data\ndef data(hparams):\n    whole = plain(hparams)\n"
    "    def leave(batch, rng):\n        if len(rng.uniform()) > 2: sys.exit(0)\n"
    "        return batch\n    return Data(train=Split(whole.train.source, leave), "
    "test=whole.test, prepare=whole.prepare)",
    "optimizer": "class Leaves(torch.optim.SGD):\n    def step(self, closure=None): sys.exit(0)\n"
    "def optimizer(hparams, model): return Leaves(model.parameters(), lr=0.1)",
}


@pytest.mark.parametrize("where", LATE_EXITS)
def test_a_recipe_that_exits_in_training_is_no_success(where: str) -> None:
    """F5: the status says so too."""
    assert run(f"import sys\n{LATE_EXITS[where]}") == 3
    assert (status()["state"], status()["code"]) == ("failed", 3)


THREADS = """
import threading, time

def wait(seconds):
    time.sleep(seconds)

def model(hparams, data):
    threading.Thread(target=wait, args=({seconds},), daemon={daemon}).start()
    return models.MLP(16, len(data.classes), (hparams.width,), dropout=hparams.dropout)
"""


def test_a_recipe_that_starts_a_thread_learns_the_same() -> None:
    """F5: with a file of the same length, so that only the thread is another."""
    weights = []
    for seconds in ("0.001", "0.1"):
        assert run(THREADS.format(seconds=seconds, daemon=False), "--fresh") == 0
        weights.append(load_file(checkpoint.folder_of(RUN, 8) / "model.safetensors"))
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"),
    [("return torch.optim.SGD(model.parameters(), lr=0.1)", 0), ("raise ValueError('no')", 3)],
)
def test_a_thread_that_a_recipe_leaves_running_does_not_keep_the_program(
    end: str, code: int
) -> None:
    """F5: a run that is over ends, with its exit code, though a thread would sleep for an hour."""
    late = f"\ndef optimizer(hparams, model):\n    {end}\n"
    write_recipe(THREADS.format(seconds=3600, daemon=False) + late)
    ran = subprocess.run(
        [sys.executable, "-m", "launcher", "tiny.py", "name=r", "threads=1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode == code, ran.stderr
    assert "threads that the recipe started still run" in ran.stderr


# ── the recipe's file ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        codecs.BOM_UTF8 + f"{TINY}{END}".encode(),
        f"{TINY}{END}".replace("\n", "\r\n").encode(),
        f"# -*- coding: latin-1 -*-\n{TINY}\nNAME = 'caf\xe9'\n{END}".encode("latin-1"),
    ],
    ids=["byte order mark", "line ends of Windows", "declared latin-1"],
)  # fmt: skip
def test_a_recipe_from_any_editor_is_taken(text: bytes) -> None:
    """F6: as Python itself takes it; misspelt settings are found in it as well."""
    Path("tiny.py").write_bytes(text)
    assert command("tiny.py", "name=r", "threads=1", "widht=3") == 2
    assert command("tiny.py", "name=r", "threads=1") == 0
    assert (RUN / "recipe.py").read_bytes() == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"x = 'caf\xe9'\n", "utf-8"),
        (b"x = 1\x00\n", "null bytes"),
        (f"{TINY}{END}".encode("utf-16"), "null bytes"),
        (b"", "defines no `recipe = Recipe(...)`"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "null bytes"),
    ],
    ids=["latin-1", "a zero", "utf-16", "empty", "a program"],
)
def test_a_file_that_is_no_recipe_is_answered_with_code_3(
    text: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """F6: in words about the file."""
    Path("tiny.py").write_bytes(text)
    assert command("tiny.py", "name=r") == 3
    answer = said(capsys)
    assert words in answer
    assert "tiny.py" in answer
    assert not Path("checkpoints").exists()


def test_a_folder_and_a_missing_file_are_answered_with_code_2() -> None:
    """F6: as are a link to nowhere and one to itself."""
    Path("folder.py").mkdir()
    Path("nowhere.py").symlink_to("gone.py")
    Path("itself.py").symlink_to("itself.py")
    for name in ("folder.py", "missing.py", "nowhere.py", "itself.py", "folder.py/tiny.py"):
        assert command(name, "name=r") == 2
    assert not Path("checkpoints").exists()


# ── settings ─────────────────────────────────────────────────────────────────────────────────────

WORDS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["epochs", "lr", "nan", "1e400", "true", "- 1", "a: b", "[1,", "!!python/name:"]
    ),
)


@given(
    text=st.one_of(st.binary(max_size=200), st.lists(WORDS).map(lambda w: ": ".join(w).encode()))
)
@settings(
    max_examples=150, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_any_bytes_as_a_config_are_read_or_refused(text: bytes) -> None:
    """F7: never anything but a refusal of ours, and nothing is left on disk."""
    write_recipe()
    Path("any.yaml").write_bytes(text)
    with suppress(SettingsError):
        cli.parse(["tiny.py", "--config", "any.yaml"])
    assert sorted(os.listdir()) == ["any.yaml", "tiny.py"]


@given(word=st.text(min_size=1, max_size=40), value=WORDS)
@settings(
    max_examples=150, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_any_argument_is_read_or_refused(word: str, value: str) -> None:
    """F7: the same for what is typed."""
    write_recipe()
    for argument in (word, f"{word}={value}", f"name={value}", f"epochs={value}"):
        with suppress(SettingsError):
            cli.parse(["tiny.py", argument])
    assert os.listdir() == ["tiny.py"]


# ── changes between two attempts ─────────────────────────────────────────────────────────────────


def test_a_model_of_another_width_is_refused_even_if_the_change_is_allowed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """F8: a change of the trajectory can be allowed, one of the model's shape cannot."""
    assert run() == 0
    more = ("epochs=3", "--allow-change", "epochs")
    assert run("", *more, "width=16") == 5
    assert "width was 8 and is now 16" in said(capsys)
    assert run("", *more, "width=16", "--allow-change", "width") == 5
    assert "(8, 16) in the checkpoint" in said(capsys)
    assert status()["last_committed_step"] == 8


def test_a_change_that_was_allowed_is_in_the_account_of_the_attempts() -> None:
    """F8: by its values, and the run is no longer exact."""
    assert run() == 0
    assert run("", "epochs=3", "lr=0.01", "--allow-change", "epochs", "--allow-change", "lr") == 0
    document = json.loads((RUN / "run.json").read_text())
    assert [attempt["identity"]["lr"] for attempt in document["attempts"]] == [0.05, 0.01]
    assert document["exact"] is False


@pytest.mark.parametrize("call", range(7, 19))
def test_a_change_that_is_cut_off_while_it_is_noted_is_made_by_the_same_command(
    call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F8: the finished run of before is never taken for the longer one, whichever call to the disk
    is the last."""

    class Dies(storage.Disk):
        left = call

        def __getattribute__(self, name: str) -> object:
            if name in ("write", "rename", "fsync", "mkdir", "truncate"):
                if Dies.left == 0:
                    raise KeyboardInterrupt
                Dies.left -= 1
            return super().__getattribute__(name)

    more = ("epochs=3", "--allow-change", "epochs")
    assert run() == 0
    with monkeypatch.context() as patch:
        patch.setattr(storage, "disk", Dies())
        assert run("", *more) == 130
    assert run("", *more) == 0
    assert (status()["state"], status()["step"]) == ("finished", 12)
