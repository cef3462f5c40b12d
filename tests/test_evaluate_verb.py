"""`launcher evaluate` and what opens a run again: exact, and without disturbing it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT, command, write_recipe

from launcher import checkpoint, held, reopen
from launcher.errors import CheckpointError

ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def trained(*words: object, code: int = 0) -> Path:
    assert command(write_recipe(), "name=one", "threads=1", *words) == code
    return Path("checkpoints/one")


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert command("evaluate", *words, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    code = command("evaluate", *words)
    said = capsys.readouterr().err
    return code, " ".join(line.strip("│╭╮╰╯─ ") for line in said.splitlines())


def noted(folder: Path, step: int) -> dict[str, Any]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return next(
        {key: value for key, value in line.items() if key.startswith("test/")}
        for line in lines
        if line["step"] == step and "test/loss" in line
    )


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_scores_are_those_that_the_run_noted(
    precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(f"precision={precision}", "epochs=4", "dropout=0.5")
    for step in checkpoint.steps(folder):
        found = evaluated(capsys, "one", f"step={step}")
        assert found["scores"] == noted(folder, step)
    best = json.loads((folder / "status.json").read_text())["result"]["best"]["step"]
    assert evaluated(capsys, "one")["step"] == best
    assert evaluated(capsys, "one")["as_noted"] is True
    assert evaluated(capsys, folder, "step=last")["step"] == 16
    assert evaluated(capsys, "tiny.py", "name=one", "step=last")["step"] == 16


def test_another_precision_would_be_seen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: bf16 is part of what the scores are of."""
    trained("precision=bf16", "width=64")
    monkeypatch.setattr(reopen.Run, "precision", property(lambda self: "no"))
    assert evaluated(capsys, "one", "step=last")["as_noted"] is False


def test_the_confusion_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    found = evaluated(capsys, "one")
    counts = found["confusion"]
    assert sum(map(sum, counts)) == 40
    right = sum(counts[number][number] for number in range(4))
    assert right / 40 == pytest.approx(found["scores"]["test/accuracy"])
    for number, name in enumerate(found["classes"]):
        share = counts[number][number] / sum(counts[number])
        assert share == pytest.approx(found["scores"][f"test/accuracy/{name}"])
    assert command("evaluate", "one") == 0
    out = capsys.readouterr().out
    for words in ("test/accuracy", "Accuracy of each class", "Confusion", "the run noted"):
        assert words in out


def test_a_run_without_classes_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "recipes" / "regression_mlp.py"
    assert command(path, "name=line", "epochs=1", "threads=1") == 0
    found = evaluated(capsys, "line")
    assert found["as_noted"] is True
    assert found["confusion"] is None
    assert command("evaluate", "line") == 0
    assert "test/loss" in capsys.readouterr().out


def test_what_ran_is_evaluated_and_not_what_the_recipe_became(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained()
    Path("tiny.py").write_text("raise SystemExit('another recipe by now')\n")
    assert evaluated(capsys, "one")["as_noted"] is True


def test_nothing_is_written_and_a_held_lock_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = trained()

    def state() -> dict[str, tuple[int, int]]:
        found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
        return {f"{path}": (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = state()
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path; from launcher import held\n"
         "lock = held.Lock(Path(sys.argv[1])); assert lock.acquire(); print('held', flush=True)\n"
         "sys.stdin.read()", str(folder.resolve() / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert evaluated(capsys, "one")["as_noted"] is True
        assert held.owner(folder / ".lock") == holder.pid
    finally:
        holder.communicate()
    assert state() == before


def test_a_damaged_checkpoint_is_passed_over_unless_it_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = trained("epochs=3")
    last = checkpoint.steps(folder)[-1]
    weights = checkpoint.folder_of(folder, last) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert evaluated(capsys, "one", "step=last")["step"] < last
    code, said = refusal(capsys, "one", f"step={last}")
    assert code == 5
    assert "model.safetensors was changed or cut short" in said
    assert weights.read_bytes() == content, "and nothing was set aside"


def test_a_checkpoint_that_is_removed_meanwhile_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run writes a newer one and removes all that were there when they were listed."""
    folder = trained("epochs=4", "keep=3")
    *older, last = (checkpoint.folder_of(folder, step) for step in checkpoint.steps(folder))
    last.rename("newer")
    real = checkpoint.read

    def late(run: Path, step: int) -> checkpoint.Checkpoint:
        if Path("newer").exists():
            for place in older:
                shutil.rmtree(place)
            Path("newer").rename(last)
        return real(run, step)

    monkeypatch.setattr(checkpoint, "read", late)
    assert reopen.take(folder, "last").step == 16


def test_without_a_checkpoint_there_is_nothing_to_evaluate() -> None:
    Path("empty").mkdir()
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        reopen.take(Path("empty"), "best")
    Path("empty/status.json").write_text('{"state": "finished"}')
    with pytest.raises(CheckpointError, match="no checkpoint any more, though its run is finished"):
        reopen.take(Path("empty"), "best")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["one", "step=5"], 5, "has no checkpoint of that step. It has: 4, 8."),
        (["one", "step=bst"], 2, "step=bst: give best, last or the step of a checkpoint"),
        (["one", "thread=2"], 2, "Did you mean 'threads'?"),
        (["one", "lr=2"], 2, "unknown setting 'lr'"),
        (["oen"], 2, "there is no run 'oen', in checkpoints or by that path. Did you mean 'one'?"),
        (["tiny.py"], 2, "tiny.py has no run checkpoints/tiny"),
        (["nosuch.py"], 2, "has no run"),
        ([], 2, "no run is given"),
        (["one", "--allow-change", "lr"], 2, "only data can be another here"),
        (["one", "--jsn"], 2, "Did you mean '--json'?"),
    ],
)
def test_a_wrong_word_is_answered(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("keep=3")
    found, text = refusal(capsys, *words)
    assert said in text
    assert found == code


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("recipe.py", "recipe = 1\n", "`recipe` must be a Recipe"),
        ("recipe.py", None, "has no recipe.py"),
        ("run.json", "{}", "has no run.json"),
        ("run.json", '{"identity": {}}', "run.json is not as a run leaves it"),
        ("run.json", "{", "run.json is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(
    name: str, content: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    code, text = refusal(capsys, "one")
    assert said in text
    assert code in (3, 5)


def test_a_recipe_that_was_changed_in_the_folder_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = trained()
    with (folder / "recipe.py").open("a") as file:
        file.write("# changed\n")
    code, said = refusal(capsys, "one")
    assert code == 5
    assert "is not the recipe that ran: it was changed" in said


def test_other_test_data_is_refused_unless_it_is_allowed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = trained()
    document = json.loads((folder / "run.json").read_text())
    document["data"]["test"] = "another"
    (folder / "run.json").write_text(json.dumps(document))
    code, said = refusal(capsys, "one")
    assert code == 4
    assert "the test data is not what checkpoints/one was tested on" in said
    other = evaluated(capsys, "one", "--allow-change", "data")
    assert other["scores"]
    assert other["as_noted"] is None
    assert command("evaluate", "one", "--allow-change", "data") == 0
    shown = capsys.readouterr().out
    assert "The test data is not what the run was tested on." in shown
    assert "noted" not in shown


HELD_OUT = """
def data(hparams):
    samples = int(os.environ.get("TEST", 40))
    return Data(
        train=Split(sources.synthetic("train", 64, (1, 4, 4), 4)),
        test=Split(sources.synthetic("test", samples, (1, 4, 4), 4)),
        prepare=augment.normalize((0.5,), (0.5,)),
    )
"""


def test_the_chosen_weights_are_scored_on_a_held_out_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/data.md says; the run stays as it was."""
    assert command(write_recipe(HELD_OUT), "name=one", "threads=1") == 0
    before = {path: path.read_bytes() for path in Path("checkpoints").rglob("*") if path.is_file()}
    monkeypatch.setenv("TEST", "24")
    assert refusal(capsys, "one")[0] == 4
    found = evaluated(capsys, "one", "--allow-change", "data")
    assert sum(map(sum, found["confusion"])) == 24
    assert found["as_noted"] is None
    after = {path: path.read_bytes() for path in Path("checkpoints").rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_scores() -> None:
    """Three processes do not divide the batch of 16: nothing is trained, so they need not."""
    folder = trained("epochs=2", "precision=bf16")
    for count in (2, 3):
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc_per_node={count}", "-m", "launcher", "evaluate", "one", "step=last",
             "--json"],
            env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False,
            timeout=HANGS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["scores"] == noted(folder, 8)


@pytest.mark.slow
def test_a_refusal_of_several_processes_is_said_once() -> None:
    folder = trained()
    (checkpoint.folder_of(folder, 8) / "COMMIT").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "launcher", "evaluate", "one", "step=8"],
        env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("manifest.json is not the one that COMMIT names") == 1
