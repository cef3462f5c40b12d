"""The tuner: what it answers, keeps and shows, and that a run takes its answer."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, command, write_recipe

sys.path.insert(0, str(ROOT / "scripts"))

import tune_workers
import tuning
import tuning_report
from tuning_windows import Lane

from launcher.tuned import place

SLEEPY = """
import time


class Sleepy:
    \"\"\"Each sample takes 2 ms, and no core.\"\"\"

    def __init__(self, source):
        self.source = source
        self.classes, self.shape = source.classes, source.shape
        self.fingerprint = "sleepy " + source.fingerprint

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.draw(index, 0)

    def draw(self, index, seed, *words):
        time.sleep(0.002 * len(index))
        return self.source[index]


_in_memory = data


def data(hparams):
    found = _in_memory(hparams)
    return Data(
        train=Split(Sleepy(found.train.source), found.train.transform), test=found.test,
        prepare=found.prepare,
    )
"""
MISSING = """
def data(hparams):
    part = sources.load("mnist", "train")
    return Data(train=Split(part), test=Split(part))
"""
Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the tuner in this process; its exit code and its document."""

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = tune_workers.main([str(argument) for argument in (*arguments, "--json")])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else {}

    return run


def banner(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The line about workers of a run's banner."""
    assert command(*words, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    return next(line for line in lines if line.startswith("workers"))


def forget() -> None:
    """What Accelerate keeps between two runs in one process."""
    from conftest import _forget_processes

    _forget_processes()


# ── what is found, kept and taken ────────────────────────────────────────────────────────────────


def test_a_source_that_sleeps_gets_workers_and_a_run_takes_them(
    tune: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = write_recipe(SLEEPY)
    picture = tmp_path / "it.png"
    code, document = tune(recipe, "threads=1", "--seconds", 3, "--up-to", 2, "--plot", picture)
    assert code == 0
    (result,) = document["results"]
    assert result["workers"] > 0  # on an idle machine 2
    assert [row["workers"] for row in result["candidates"]] == [0, 1, 2]
    assert 100 < result["candidates"][0]["alone"]["median"] < 510
    assert result["candidates"][2]["memory_mb_per_worker"] > 0
    assert not result["keeps_up"]
    assert "cannot keep up" in result["sentences"][0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert result["stored"] == str(place())
    measured = f"{result['workers']} (measured {result['at']})"
    assert measured in banner(capsys, recipe, "threads=1", "epochs=5", "seed=3")
    assert "guessed" in banner(capsys, recipe, "threads=1", "micro_batch_size=8")
    place().write_text("{")
    assert "guessed" in banner(capsys, recipe, "threads=1")


def test_data_in_memory_needs_none_and_is_measured_all_the_same(tune: Run) -> None:
    code, document = tune(write_recipe(), "--seconds", 1)
    assert code == 0
    (result,) = document["results"]
    assert (result["workers"], result["in_memory"], result["stored"]) == (0, True, None)
    (row,) = result["candidates"]
    assert row["alone"]["median"] > 0
    assert result["model"]["median"] > 0
    assert "data in memory needs none" in result["sentences"][0]
    assert not place().exists()


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune_workers.main([str(write_recipe()), "--seconds", "0.5"]) == 0
    seen = capsys.readouterr()
    assert "the answer" in seen.out
    assert "model" in seen.out
    assert "tiny.py: 0%" in seen.err


def test_both_sweeps_try_workers_on_data_in_memory_too(tune: Run) -> None:
    recipe = write_recipe()
    code, document = tune(recipe, "--pure-loader", "--up-to", 1)
    assert code == 0
    assert [row["workers"] for row in document["results"][0]["passes"]] == [0, 1]
    forget()
    code, document = tune(recipe, "--exhaustive", "--up-to", 1, "--seconds", 0.5)
    assert code == 0
    sweep = document["results"][0]["exhaustive"]
    assert [(row["workers"], row["prefetch"]) for row in sweep["rows"]] == [(0, 2), (1, 2), (1, 4)]
    assert 0 < sweep["share_of_best"] <= 1


@pytest.mark.slow
def test_the_answer_is_near_the_best_of_a_sweep_that_takes_four_times_as_long(tune: Run) -> None:
    """With a source that takes no core, so that this can be asked of a busy machine too."""
    recipe = write_recipe(SLEEPY.replace("0.002", "0.07"))
    given = ("threads=1", "micro_batch_size=1", "--up-to", 2, "--seconds", 3.5, "--exhaustive")
    code, document = tune(recipe, *given)
    assert code == 0
    sweep = document["results"][0]["exhaustive"]
    assert [row["workers"] for row in sweep["rows"]] == [0, 1, 1, 2, 2]
    assert document["results"][0]["workers"] == 2
    assert sweep["share_of_best"] >= 0.95
    assert sweep["share_of_time"] <= 0.25


# ── without a recipe ─────────────────────────────────────────────────────────────────────────────


def test_recipes_without_data_are_listed_with_the_reason(
    tune: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And nothing is downloaded: that would be an error here."""
    (tmp_path / "recipes").mkdir()
    write_recipe(name="recipes/small.py")
    write_recipe(MISSING, name="recipes/far.py")
    write_recipe("raise RuntimeError", name="recipes/broken.py")
    monkeypatch.setattr(tune_workers, "ROOT", tmp_path)
    monkeypatch.setattr(tune_workers, "ALWAYS", [])
    code, document = tune("--seconds", 0.5)
    assert code == 0
    assert [result["recipe"] for result in document["results"]] == ["recipes/small.py"]
    reasons = {Path(job["recipe"]).stem: job["reason"] for job in document["left_out"]}
    assert reasons.keys() == {"far", "broken"}
    assert "dataset=mnist is not here: no train-images-idx3-ubyte.gz in" in reasons["far"]
    assert "RuntimeError" in reasons["broken"]


def test_digits_and_synthetic_images_are_always_there() -> None:
    for name, word in tune_workers.ALWAYS:
        assert not tune_workers.missing(ROOT / "recipes" / name, [word])


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--seconds", "0"], 2, "more than 0"),
        (["--seconds", "soon"], 2, "invalid float"),
        (["--up-to", "-1"], 2, "give 0 to 1024"),
        (["--plot", "it.txt"], 2, "ends in .png"),
        (["--plot", "nowhere/it.png"], 2, "no folder nowhere"),
        (["--pure-loader", "--exhaustive"], 2, "give one"),
        (["none.py"], 2, "no recipe file none.py"),
        (["tiny.py", "--fresh"], 2, "--fresh is no switch"),
        (["tiny.py", "workers=2"], 2, "workers= is what is measured"),
        (["tiny.py", "withd=3"], 2, "Did you mean 'width'"),
        (["broken.py"], 3, "RuntimeError"),
    ],
)
def test_what_is_refused_takes_one_sentence(
    words: Sequence[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe()
    write_recipe("raise RuntimeError", name="broken.py")
    assert tune_workers.main(words) == code
    seen = capsys.readouterr()
    assert sentence in seen.err
    assert "Traceback" not in seen.err
    assert not seen.out


def test_what_a_source_raises_ends_with_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    torn = SLEEPY.replace("time.sleep(0.002 * len(index))", "raise OSError('torn.jpg')")
    recipe = write_recipe(torn.replace("self.draw(index, 0)", "self.source[index]"))
    assert tune_workers.main([str(recipe), "--seconds", "1"]) in (3, 4)
    assert "torn.jpg" in capsys.readouterr().err


# ── deciding ─────────────────────────────────────────────────────────────────────────────────────


def lane(workers: int, *rates: float) -> Lane:
    """A candidate that trained so fast, turn by turn."""
    nobody: Any = None
    return Lane(workers, 2, nobody, training=list(rates), waits=[0.0])


def test_candidates_double_up_to_the_cores() -> None:
    assert tuning.candidates(8) == [0, 1, 2, 4, 8]
    assert tuning.candidates(6) == [0, 1, 2, 4, 6]
    assert tuning.candidates(1) == [0, 1]
    assert tuning.candidates(0) == [0]


def test_fewer_workers_win_a_tie() -> None:
    alive = [lane(0, 50, 52, 51), lane(1, 98, 99, 97), lane(2, 100, 99, 101)]
    tuning.drop(alive)
    assert [one.out for one in alive] == ["49% slower than 2", "", ""]
    assert tuning.choice(alive[1:]).workers == 1


def test_a_slow_moment_of_the_machine_drops_nobody() -> None:
    alive = [lane(1, 100, 20, 100), lane(2, 101, 21, 100)]
    tuning.drop(alive)
    assert not any(one.out for one in alive)
    assert tuning.choice(alive).workers == 1


def test_a_loader_that_is_too_slow_is_said_to_be() -> None:
    slow = lane(2, 100)
    slow.waits = [0.5]
    found = tuning.Found([slow], slow, {}, model=[200.0])
    assert not found.keeps_up
    (sentence,) = tuning_report.answer(found, in_memory=False)["sentences"]
    assert "50% less than it could; 50% of the time it waits for data" in sentence


@pytest.mark.parametrize(
    ("training", "model", "waits", "busy"),
    [
        ([3010.0], [1738.0], 0.34, True),
        ([1750.0], [1738.0], 0.34, True),
        ([1750.0], [1738.0], 0.01, False),
        ([900.0], [1738.0], 0.34, False),
    ],
    ids=["much faster than the model alone", "waiting costs nothing", "a tie", "a slow loader"],
)
def test_figures_that_contradict_each_other_are_no_answer(
    training: list[float], model: list[float], waits: float, busy: bool
) -> None:
    one = lane(1, *training)
    one.waits = [waits]
    found = tuning.Found([one], one, {}, model=model)
    for in_memory in (False, True):
        result = tuning_report.answer(found, in_memory=in_memory)
        (sentence,) = result["sentences"]
        assert ("machine was too busy" in sentence) == busy
        assert "0% less" not in sentence
        assert sentence.startswith("no answer") == (busy and not in_memory)
        assert tuning_report.is_answer({"workers": 1}, result) != sentence.startswith("no answer")
        assert not tuning_report.is_answer({"workers": 2}, result)


def test_a_picture_of_passes_marks_no_answer() -> None:
    assert not tuning_report.is_answer({"workers": 1}, {"passes": []})


def test_what_is_said_of_a_slower_one_is_what_the_table_shows() -> None:
    """Turn by turn these are half as fast, in the middle a tenth slower."""
    alive = [lane(1, 100, 200, 110), lane(2, 90, 99, 55)]
    tuning.drop(alive)
    assert alive[1].out == "18% slower than 1"
