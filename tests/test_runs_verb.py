"""`launcher runs` and `launcher compare`: tables of what lies here."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT, command, write_recipe

from launcher.runs_verb import age


def made(name: str, best: float | None = 0.5, state: str = "finished", **run: Any) -> Path:
    """A run folder without training: what `launcher runs` reads of one."""
    folder = Path("checkpoints") / name
    folder.mkdir(parents=True)
    scores: dict[str, Any] = {"scores": {"test/accuracy": best}}
    scores["best"] = None if best is None else {"step": 3, "scores": {"test/accuracy": best}}
    document = {
        "name": name, "recipe": "r.py", "attempts": [{"processes": 1}],
        "hyperparameters": {}, "plan": {"total_steps": 10},
        "run_settings": {}, "monitor": {"name": "test/accuracy", "smaller": False},
    }  # fmt: skip
    status = {"state": state, "step": 4, "code": 4, "reason": "why", "result": scores}
    (folder / "step-000000000004").mkdir()
    (folder / "recipe.py").touch()
    (folder / "run.json").write_text(json.dumps(document | run))
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "metrics.jsonl").write_text('{"step": 4, "seconds": 2.0, "train/loss": 0.5}\n')
    return folder


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, Any]]:
    assert command("runs", *words, "--json") == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = command(*words)
    said = capsys.readouterr().err
    return code, " ".join(line.strip("│╭╮╰╯─ ") for line in said.splitlines())


def test_runs_are_sorted_and_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    for number, (name, best, state) in enumerate(
        [
            ("b", 0.2, "finished"),
            ("a", 0.9, "failed"),
            ("c", None, "preempted"),
            ("d", 0.5, "failed"),
        ]
    ):
        folder = made(name, best, state)
        for path in folder.iterdir():
            os.utime(path, (number, number))

    def names(*words: str) -> list[str]:
        return [one["name"] for one in listed(capsys, *words)]

    assert names() == ["d", "c", "a", "b"]
    assert names("--sort", "name") == ["a", "b", "c", "d"]
    assert names("--sort", "best") == ["a", "d", "b", "c"]
    assert names("--state", "failed", "--sort", "name") == ["a", "d"]
    assert names("--state", "failed", "--state", "finished", "--sort", "name") == ["a", "b", "d"]
    assert names("--sort", "state")[:1] == ["c"]


def test_of_losses_the_smaller_is_the_better(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = {"name": "test/loss", "smaller": True}
    for name, loss in (("a", 2.0), ("b", 0.1)):
        folder = made(name, monitor=monitor)
        document = json.loads((folder / "status.json").read_text())
        document["result"]["best"]["scores"] = {"test/loss": loss}
        (folder / "status.json").write_text(json.dumps(document))
    assert [one["name"] for one in listed(capsys, "--sort", "best")] == ["b", "a"]


def test_the_table_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    made("done")
    made("broken", state="failed")
    made("killed", state="running")
    made("torn")
    Path("checkpoints/torn/run.json").write_text("{")
    with (made("foreign") / "metrics.jsonl").open("a") as file:
        file.write("[1]\n")
    assert command("runs") == 0
    out = capsys.readouterr().out
    assert "launcher evaluate done" in out
    assert "code 4: mend it, then the same command. why" in " ".join(out.split())
    assert "killed continues with: launcher r.py name=killed" in out
    assert "damaged" in out
    assert "checkpoints/foreign/metrics.jsonl, line 2, is no record of a run." in out
    assert "4/10" in out


def test_another_folder_and_one_run_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    made("one")
    made("two")
    Path("checkpoints").rename("elsewhere")
    assert [one["name"] for one in listed(capsys, "elsewhere", "--sort", "name")] == ["one", "two"]
    assert [one["name"] for one in listed(capsys, "elsewhere/one")] == ["one"]
    assert command("runs") == 0
    assert "There is no run under checkpoints" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs", "nosuch"], "there is no folder nosuch"),
        (["runs", "--sort", "agee"], "--sort agee: give one of age, name, state, step, best. Did"),
        (["runs", "--state", "ded"], "Did you mean 'dead'?"),
        (["runs", "--sorted"], "Did you mean '--sort'?"),
        (["compare", "one"], "takes two runs or more"),
        (["compare", "one", "tow"], "there is no run 'tow', in checkpoints or by that path. Did"),
        (["compare", "one", "x" * 5000], "there is no run"),
    ],
)
def test_a_wrong_word_is_answered_with_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made("one")
    made("two")
    code, text = refusal(capsys, *words)
    assert said in text
    assert code == 2


def test_a_hundred_runs_with_long_metrics_take_less_than_half_a_second() -> None:
    line = json.dumps({"step": 1, "seconds": 1.0, "train/loss": 0.5}) + "\n"
    for number in range(100):
        with (made(f"run{number}") / "metrics.jsonl").open("w") as file:
            file.write(line * 20_000)
    code = (
        "import sys, time, resource\nfrom launcher.cli import main\nassert main(['runs']) == 0\n"
        "slow = {'torch', 'accelerate', 'torchvision', 'wandb', 'matplotlib', 'numpy', 'PIL'}\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "sys.stderr.write(f'{used.ru_utime + used.ru_stime}')\n"
        "sys.exit(str(slow & sys.modules.keys()) if slow & sys.modules.keys() else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished") == 100
    assert float(done.stderr) < 0.5, "seconds of processor time, whatever else the machine does"


@pytest.mark.parametrize("words", [["--help"], ["runs", "--help"], ["compare", "--help"], ["runs"]])
def test_what_only_reads_imports_nothing_slow(words: list[str]) -> None:
    code = (
        f"import sys\nfrom launcher.cli import main\nassert main({words!r}) == 0\n"
        "slow = {'torch', 'accelerate', 'torchvision', 'sklearn', 'wandb', 'matplotlib', 'PIL'}\n"
        "sys.exit(str(slow & sys.modules.keys()) if slow & sys.modules.keys() else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_runs_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe()
    assert command(path, "name=one", "lr=0.1") == 0
    assert command(path, "name=two", "lr=0.01", "keep=3") == 0
    capsys.readouterr()
    assert command("compare", "one", "checkpoints/two", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"lr": [0.1, 0.01], "keep": [2, 3]}
    for number, name in enumerate(("one", "two")):
        result = json.loads(Path(f"checkpoints/{name}/status.json").read_text())["result"]
        metrics = {key: values[number] for key, values in found["metrics"].items()}
        assert result["scores"].items() <= metrics.items()
        assert metrics["best at step"] == result["best"]["step"]
    assert command("compare", "one", "two") == 0
    out = capsys.readouterr().out
    assert out.index("Settings that differ") < out.index("Metrics")
    assert "test/accuracy/0" not in out


def test_equal_runs_have_no_table_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe()
    assert command(path, "name=one") == 0
    assert command(path, "name=two") == 0
    assert command("compare", "one", "two") == 0
    assert "The runs have the same settings." in capsys.readouterr().out


def test_a_damaged_run_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    made("one")
    (made("two") / "run.json").write_text("{")
    code, said = refusal(capsys, "compare", "one", "two")
    assert code == 5
    assert "run.json is damaged" in said


def test_a_recipe_stands_for_the_run_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe()
    assert command(path) == 0
    assert command(path, "name=two") == 0
    capsys.readouterr()
    assert command("compare", "tiny.py", "two", "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"] == ["checkpoints/tiny", "checkpoints/two"]


def test_an_age_is_in_its_largest_unit() -> None:
    assert [age(seconds) for seconds in (0.2, 59, 61, 7300, 200_000)] == [
        "now", "59 s", "1 min", "2 h", "2 d",
    ]  # fmt: skip
    assert age(time.time() - time.time()) == "now"
