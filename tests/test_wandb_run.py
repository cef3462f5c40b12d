"""Runs of W&B's real client, offline, read back from the files that it writes."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from tracked import RUN, expected, history, ids, numbers, parts, patient_recipe, train

from launcher import cli, wandb_file
from launcher.wandb_run import config


def test_every_metric_is_there_once_and_in_order_and_the_config_is_whole() -> None:
    patient_recipe()
    said = train("lr=0.1", "log_every=1")
    assert "wandb    offline (wandb=offline): wandb sync checkpoints/r/wandb/offline-run-*" in said
    assert said.splitlines()[-1].endswith(
        f"wandb sync checkpoints/r/wandb/offline-run-*-{next(iter(ids()))}"
    )
    rows = expected()
    assert len(rows) == 8
    assert numbers(history()) == rows
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    found: dict[str, Any] = {}
    (part,) = parts()
    for data in wandb_file.records(part):
        record = Record.FromString(data)
        if record.HasField("config"):
            items = [item for item in record.config.update if item.key]  # others are its charts
            found |= {item.key: json.loads(item.value_json) for item in items}
    run = json.loads((RUN / "run.json").read_text())
    assert found == config(run)
    assert found["lr"] == 0.1
    assert found["launcher"]["origins"]["lr"] == "argument"
    assert found["launcher"]["versions"]["torch"]
    assert found["launcher"]["machine"]["device"] == "cpu"


@pytest.mark.slow
def test_pictures_the_confusion_matrix_and_the_best_checkpoint_go_along() -> None:
    """All in the run's folder, for `wandb sync` to find."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    patient_recipe()
    train("wandb_artifact=true")
    outcome = json.loads((RUN / "outcome.json").read_text())
    rows = history()
    assert [row["_step"] for row in rows if "test/mistakes.nrows" in row] == [8]
    assert rows[-1]["test/mistakes.nrows"] == len(outcome["mistakes"])
    assert rows[-1]["test/samples.nrows"] == len(outcome["samples"])
    (part,) = parts()
    staged = (RUN / "wandb" / "data").rglob("*")
    files = {path.read_bytes() for path in staged if path.is_file()}
    cases = outcome["mistakes"] + outcome["samples"]
    assert files >= {base64.b64decode(case["picture"].partition(",")[2]) for case in cases}
    (table,) = part.parent.rglob("confusion_table_*.table.json")
    cells = {(true, said): count for true, said, count in json.loads(table.read_text())["data"]}
    names = outcome["classes"]
    for i, counts in enumerate(outcome["confusion"]):
        assert [cells[names[i], said] for said in names] == counts
    found = [Record.FromString(data) for data in wandb_file.records(part)]
    artifacts = [record.artifact for record in found if record.HasField("artifact")]
    (best,) = [artifact for artifact in artifacts if artifact.type == "model"]
    sizes = {entry.path: entry.size for entry in best.manifest.contents}
    step = json.loads((RUN / "status.json").read_text())["result"]["best"]["step"]
    there = RUN / f"step-{step:012d}"
    assert sizes == {path.name: path.stat().st_size for path in there.iterdir()}
    assert "best" in best.aliases


@pytest.mark.slow
def test_a_trial_of_a_sweep_is_the_run_that_the_agent_waits_for() -> None:
    """The agent gives the id; without it the same command goes on with the same run."""
    patient_recipe()
    Path("sweep.yaml").write_text("wandb_version: 1\nlr:\n  value: 0.1\n")
    env = {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "trial1", "WANDB_SWEEP_PARAM_PATH": "sweep.yaml"}
    train("lr=0.1", "max_minutes=0.0001", env=env, code=75)
    train("lr=0.1")
    assert ids() == {"trial1"}
    assert numbers(history()) == expected()


def test_the_sweep_that_is_shipped_gives_a_command_line_that_is_understood() -> None:
    """Made as W&B's agent makes it."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "configs/sweeps/lenet.yaml").read_text())
    drawn = {"peak_lr": {"value": 1.25e-05}, "epochs": {"value": 4}}
    assert drawn.keys() == sweep["parameters"].keys()
    words = {
        **create_sweep_command_args({"args": drawn}),
        "program": [str(ROOT / sweep["program"])], "env": [], "interpreter": [],
    }  # fmt: skip
    line: list[str] = []
    for word in create_sweep_command(sweep["command"]):
        line += words[word[2:-1]] if word.startswith("${") else [word]
    assert line[:2] == ["-m", "launcher"]
    request, _ = cli.parse(line[2:])
    assert {given.key: given.value for given in request.given} == {"peak_lr": 1.25e-05, "epochs": 4}
