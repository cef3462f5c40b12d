"""The scripts beside the bench refuse a wrong word in a sentence, before anything is measured."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import bench_display
import bench_loader
import pictures


def refusal(script: ModuleType, words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script says as it ends with 2."""
    with pytest.raises(SystemExit) as raised:
        script.main(words.split())
    assert raised.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--windows 0", "--windows 0: give at least 2"),
        ("--windows 1", "--windows 1: give at least 2"),
        ("--steps -1", "--steps -1: give at least 1"),
    ],
)
def test_the_display_is_not_measured(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_display, "calibrated", lambda: pytest.fail("it measured"))
    assert sentence in refusal(bench_display, words, capsys)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "give --data, --photos or both"),
        ("--data nope", "--data nope: there is no cifar-10-batches-py in it"),
        ("--photos nope", "--photos nope: there are fewer than 128 files in class folders"),
        ("--data d --json no/x", "--json no/x: there is no folder no"),
        ("--data d --windows 1", "--windows 1: give at least 2"),
        ("--data d --epochs 1", "--epochs 1: give at least 2"),
        ("--data d --threads 0", "--threads 0: give at least 1"),
        ("--data d --seconds 0", "--seconds 0: give more than 0"),
        ("--data d --seconds nan", "--seconds nan: give more than 0"),
        ("--data d --workers 1 -1", "--workers -1: give 0 or more"),
    ],
)
def test_the_loader_is_not_measured(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("d/cifar-10-batches-py").mkdir(parents=True)
    monkeypatch.setattr(bench_loader, "in_memory", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(bench_loader, "from_files", lambda *_: pytest.fail("it measured"))
    assert sentence in refusal(bench_loader, words, capsys)


def test_no_picture_is_taken_of_a_run_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "FOLDER", Path())
    assert pictures.main(["report", "nosuch"]) == 2
    assert "there is no run 'nosuch'" in capsys.readouterr().err
    monkeypatch.setattr(pictures, "FOLDER", Path("gone"))
    assert "there is no folder gone" in refusal(pictures, "report nosuch", capsys)
