"""What a terminal shows, and what a log file gets instead."""

import re
import time
from collections.abc import Callable

import pytest

from launcher.errors import CheckpointError, DataError, Preempted, SettingsError
from launcher.screen import Screen, refuse, shown, table, text

TRAIN = {
    "step": 4, "epoch": 0.5, "seconds": 1.0, "train/loss": 1.25, "train/lr": 0.05,
    "train/grad_norm": 1.0, "train/samples_per_s": 12345.6, "train/data_wait": 0.125,
}  # fmt: skip
TEST = {
    "step": 8, "epoch": 1.0, "seconds": 2.0, "test/loss": 0.5, "test/accuracy": 0.9876,
    "test/accuracy/cat": 0.25,
}  # fmt: skip


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """Output and errors go to a terminal of 100 columns; gives what was written to it."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return lambda: "".join(capsys.readouterr())


def whole_run(shows: Screen) -> None:
    shows.facts("tiny: fresh", {"model": "MLP", "folder": "checkpoints/tiny"})
    shows.start(8, 0, 4)
    for step in range(8):
        shows.step(step)
    shows.metrics(TRAIN, 8)
    shows.metrics(TEST, 8)
    shows.line("a line")
    shows.stop()
    shows.facts("tiny: finished", {"test/accuracy": "98.76 %"})


def test_a_log_file_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    whole_run(Screen(shown=True))
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "tiny: fresh",
        "model   MLP",
        "folder  checkpoints/tiny",
        "epoch 0.50  step 4/8  loss 1.2500  lr 0.05  12,346 samples/s  data wait 12%",
        "epoch 1.00  step 8/8  train/loss 1.2500  test/loss 0.5000  test/accuracy 98.76 %",
        "a line",
        "tiny: finished",
        "test/accuracy  98.76 %",
    ]
    assert all(character == "\n" or character.isprintable() for character in out)
    assert err == ""


def test_only_the_main_process_shows_anything(capsys: pytest.CaptureFixture[str]) -> None:
    whole_run(Screen(shown=False))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_progress_and_keeps_the_evaluations(terminal: Callable[[], str]) -> None:
    whole_run(Screen(shown=True))
    out = terminal()
    heads, cells = out.index("test/accuracy\x1b"), out.index("98.76 %")
    assert heads < cells, "a table: the names of the columns come first"
    assert "a line" in out
    assert "\x1b[" in out
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h") == 1, "the cursor is shown again"


def test_a_dumb_terminal_gets_lines(
    terminal: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shows = Screen(shown=True)
    shows.start(8, 0, 4)
    shows.metrics(TRAIN, 8)
    assert shows._live is None
    assert "loss 1.2500" in terminal()
    shows.stop()


def test_a_log_file_gets_a_line_of_training_every_few_seconds_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shows = Screen(shown=True)
    for _ in range(60):
        shows.metrics(TRAIN, 8)
        now[0] += 0.5
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_every_evaluation_gets_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    shows = Screen(shown=True)
    for _ in range(3):
        shows.metrics(TEST, 8)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_best_evaluation_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    shows = Screen(shown=True)
    shows.metrics(TEST, 8, best=True)
    shows.metrics(TEST, 8)
    marked, plain = capsys.readouterr().out.splitlines()
    assert marked == f"{plain}  best"


@pytest.mark.parametrize("columns", [36, 45, 60, 100])
def test_an_evaluation_takes_one_line_of_a_terminal(
    terminal: Callable[[], str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Without what matters least, where there is no room: the last metric stays."""
    monkeypatch.setenv("COLUMNS", str(columns))
    shows = Screen(shown=True)
    shows.start(8, 0, 4)
    shows.metrics(TRAIN, 8)
    terminal()
    shows.metrics(TEST, 8, best=True)
    shows.stop()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in terminal().splitlines()]
    (line,) = [line for line in lines if "98.76 %" in line]
    assert line.rstrip().endswith("best")
    assert len(line.strip()) <= columns


def test_a_fact_is_broken_beside_its_name(
    terminal: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    Screen(shown=True).facts("title", {"data": "word " * 10, "folder": "f"})
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in terminal().splitlines()]
    assert [line for line in lines if line.startswith(" " * 8)], "a hanging indent"
    assert all(len(line) <= 30 for line in lines)


def test_a_run_that_was_stopped_is_not_shown_in_red(terminal: Callable[[], str]) -> None:
    refuse(Preempted("stopped"))
    out = terminal()
    assert "\x1b[33m" in out
    assert "\x1b[31m" not in out


def test_a_long_line_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(shown=True).line("word " * 100)
    assert capsys.readouterr().out == "word " * 100 + "\n"


@pytest.mark.parametrize(
    "words", ["[red]x[/red]", "[/]", "[", "a [b", r"C:\new [x]", "1:2:3", "list[int]", r"end \ "]
)
def test_words_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], words: str) -> None:
    shows = Screen(shown=True)
    shows.line(words)
    text(words)
    shows.facts(words, {"key": words})
    assert capsys.readouterr().out.split("\n") == [words, words, words, f"key  {words}", ""]


@pytest.mark.parametrize("words", [":warning:", "config a.yaml:100: b", "ends in \\"])
def test_words_are_not_taken_for_pictures_or_signs(
    capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """rich has its own ideas of `:warning:` and of a backslash at the end."""
    shows = Screen(shown=True)
    shows.line(words)
    text(words)
    assert capsys.readouterr().out.split("\n") == [words, words, ""]


def test_no_word_of_a_user_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(shown=True).line("before\x1b[2Jafter\x07")
    refuse(SettingsError("before\x1b[2Jafter\x07"))
    assert not {"\x1b", "\x07"} & set("".join(capsys.readouterr()))


def test_accuracies_are_shown_in_percent() -> None:
    assert shown("test/accuracy", 0.98765) == "98.77 %"
    assert shown("test/accuracy/cat", 1.0) == "100.00 %"
    assert shown("test/loss", 0.98765) == "0.9877"
    assert shown("test/loss", None) == shown("test/accuracy", None) == "not finite"


# ── refusals ────────────────────────────────────────────────────────────────────────────────────


def boxed(err: str) -> str:
    """The words in a box, in one line."""
    lines = [line.strip().strip("│").strip() for line in err.splitlines()]
    return " ".join(line for line in lines if line)


def test_a_refusal_is_one_box_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        f"batch_size={number}: a sentence that is longer than a line of a terminal is, so that it "
        f"is broken somewhere." for number in range(3)
    ]  # fmt: skip
    refuse(SettingsError(*problems))
    out, err = capsys.readouterr()
    assert out == ""
    assert "settings" in err.splitlines()[0]
    assert err.count("╭") == err.count("╰") == 1
    for problem in problems:
        assert problem in boxed(err)


def test_a_refusal_in_a_file_has_whole_sentences_in_a_narrow_frame(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sentence = f"cannot read {'/a-long-folder' * 30}/file.png: [red]give another one."
    refuse(DataError(sentence, "short"))
    head, *lines, foot = capsys.readouterr().err.splitlines()
    assert lines == [f"│ {sentence}", "│ short"]
    assert head.startswith("╭─ data ──")
    assert len(head) == len(foot) == 100
    refuse(DataError("short"))
    head, line, foot = capsys.readouterr().err.splitlines()
    assert line == "│ short"
    assert len(head) == len(foot) < 20


def test_a_refusal_says_which_process_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    refuse(CheckpointError("no"), prefix="process 1: ")
    assert "process 1: checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["[red]x[/red]", "[/red]", "list[int]", "[bold]"])
def test_a_refusal_shows_brackets_as_they_are(
    capsys: pytest.CaptureFixture[str], words: str
) -> None:
    refuse(SettingsError(f"unknown setting '{words}'."))
    assert f"unknown setting '{words}'." in boxed(capsys.readouterr().err)


def test_a_refusal_on_a_terminal_is_red(terminal: Callable[[], str]) -> None:
    refuse(SettingsError("no [red]x[/red]"))
    out = terminal()
    assert "\x1b[31m" in out
    assert "no [red]x[/red]" in out


# ── tables ──────────────────────────────────────────────────────────────────────────────────────


def test_a_table_shows_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    table("A [title]", ("key", "value"), [("seed", 0), ("widths", "[256,128]"), ("of", "[red]")])
    out = capsys.readouterr().out
    assert out.startswith("\nA [title]\n")
    for cell in ("key", "value", "seed", "0", "widths", "[256,128]", "[red]"):
        assert cell in out
