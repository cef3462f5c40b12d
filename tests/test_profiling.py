"""`--profile N`: a trace, a table, and the weights as they would have been without."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT, command, write_recipe

from launcher.errors import SettingsError
from launcher.profiling import PARTS, Found

SOME = "threads=1", "epochs=8"
"""32 steps."""


@pytest.fixture
def recipe() -> Path:
    return write_recipe()


def events(name: str = "a") -> list[dict[str, Any]]:
    document = json.loads(Path(f"checkpoints/{name}/profile.json").read_text())
    found: list[dict[str, Any]] = document["traceEvents"]
    return found


def weights(name: str) -> bytes:
    (path,) = Path(f"checkpoints/{name}").glob("step-000000000032/model.safetensors")
    return path.read_bytes()


def test_a_profiled_run_ends_with_the_same_bits(recipe: Path) -> None:
    assert command(recipe, *SOME, "name=a", "dropout=0.2", "--profile", 5) == 0
    assert command(recipe, *SOME, "name=b", "dropout=0.2") == 0
    assert weights("a") == weights("b")
    lines = [
        [record.get("train/loss") for record in map(json.loads, text.splitlines())]
        for text in (Path(f"checkpoints/{name}/metrics.jsonl").read_text() for name in "ab")
    ]
    assert lines[0] == lines[1] != []
    assert not Path("checkpoints/b/profile.json").exists()


def test_the_trace_has_every_part_of_as_many_steps_as_asked(recipe: Path) -> None:
    assert command(recipe, *SOME, "name=a", "--profile", 5) == 0
    names = [event["name"] for event in events() if event.get("cat") == "user_annotation"]
    for part in ("loader", "forward", "backward", "optimizer"):
        assert names.count(f"launcher/{part}") == 5, part
    assert names.count("launcher/augment") == 10  # the transform, and `prepare`
    assert names.count("launcher/checks") >= 5
    assert any(event["name"].startswith("aten::") for event in events())


def test_the_table_says_where_the_time_went(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(recipe, *SOME, "name=a", "--profile", 5) == 0
    out = capsys.readouterr().out
    assert "where the time of 5 steps went, trace in checkpoints/a/profile.json" in out
    table = out[out.index("where the time") :]
    for part in ("host", *PARTS[:-1], "a step"):
        assert f"\n{part} " in table, part
    assert "100.0%" in table


def test_fewer_steps_than_asked_are_said(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(recipe, "threads=1", "name=a", "--profile", 100) == 0
    out = capsys.readouterr().out
    assert "--profile 100: only 8 steps are left to look at" in out
    assert "where the time of 5 steps went" in out or "where the time of 8 steps went" in out


def test_one_step_alone_can_be_looked_at(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(recipe, "threads=1", "name=a", "batch_size=64", "epochs=1", "--profile", 1) == 0
    assert "where the time of 1 steps went" in capsys.readouterr().out


def test_a_run_that_is_continued_profiles_what_is_left(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(recipe, "threads=1", "epochs=2", "name=a") == 0
    assert command(recipe, "threads=1", "epochs=3", "name=a", "--allow-change", "epochs",
                   "--profile", 2) == 0  # fmt: skip
    assert "where the time of 2 steps went" in capsys.readouterr().out


def test_a_finished_run_says_that_nothing_was_profiled(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(recipe, "threads=1", "name=a") == 0
    capsys.readouterr()
    assert command(recipe, "threads=1", "name=a", "--profile", 2) == 0
    assert "--profile: the run is finished, so nothing was profiled" in capsys.readouterr().out
    assert not Path("checkpoints/a/profile.json").exists()


def test_the_profilers_library_says_nothing_of_itself(recipe: Path) -> None:
    words = [str(recipe), "threads=1", "name=a", "wandb=off", "--profile", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *words], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if ".cpp:" in line]


@pytest.mark.parametrize("number", ["0", "-1", "many", "9999999999"])
def test_a_number_that_is_none_is_refused(
    recipe: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(recipe, f"--profile={number}") == SettingsError.code
    assert "--profile" in capsys.readouterr().err
    assert not Path("checkpoints").exists()


def test_a_dry_run_has_no_steps_to_look_at(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(recipe, "--dry-run", "--profile", 3) == SettingsError.code
    assert "give one of them" in capsys.readouterr().err


def test_a_run_without_it_imports_no_profiler(recipe: Path) -> None:
    code = (
        "import sys\nfrom launcher.cli import main\n"
        f"assert main(['{recipe}', 'threads=1']) == 0\n"
        "assert 'launcher.profiling' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_shares_are_of_a_step() -> None:
    parts = dict.fromkeys(PARTS, 0.0) | {"host": 0.25, "forward": 0.75, "exchange": 0.5}
    rows = dict(Found(10, 1.0, parts, {}).rows())
    assert "25,000 us   25.0%" in rows["host"]
    assert rows["exchange"].endswith("beside backward")
    assert "100,000 us  100.0%" in rows["a step"]


@pytest.mark.slow
def test_two_processes_write_a_trace_each_and_count_their_exchange(recipe: Path) -> None:
    words = [*SOME, "--profile", "5"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m",
              "launcher", str(recipe)]  # fmt: skip
    outs = []
    for name, more in (("a", words), ("b", [*SOME])):
        done = subprocess.run(
            [*launch, *more, f"name={name}"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False, timeout=HANGS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outs.append(done.stdout)
    assert Path("checkpoints/a/profile-1.json").exists()
    (row,) = [line for line in outs[0].splitlines() if line.startswith("exchange")]
    assert row.endswith("beside backward")
    assert any(event["name"].startswith("gloo:") for event in events())
    assert weights("a") == weights("b")
