"""Runs of W&B's real client, offline, read back from the files that it writes."""

import json
from typing import Any

from conftest import write_recipe
from tracked import RUN, expected, history, ids, numbers, parts, train

from launcher import wandb_file
from launcher.wandb_run import config


def test_every_metric_is_there_once_and_in_order_and_the_config_is_whole() -> None:
    write_recipe()
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
