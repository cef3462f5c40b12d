"""TensorBoard's event files in the run folder, as a tracker that a follower feeds.

Every attempt writes a file of its own and goes on behind the last step that the earlier ones hold.
When they hold more than the checkpoint that it begins with, they are removed and written anew.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from launcher import storage
from launcher.documents import read_json
from launcher.order import Order

TEXT: Final = "launcher/settings"
"""The tag under which TensorBoard's TEXT tab shows run.json's settings."""


class TensorboardRun:
    """The event files of a run."""

    def __init__(self, order: Order) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = Path(order.folder)
        place = self._folder / "tensorboard"
        storage.make_folder(place)
        self.last = last_step(place)
        if self.last > order.from_step:
            for path in place.glob("events.*"):
                storage.remove(path)
            self.last = -1
        self._writer = EventFileWriter(str(place), flush_secs=5)
        if self.last < 0:
            self._settings()

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """All numbers of a step, one chart each."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=found))
        self._writer.add_event(event)

    def outcome(self, document: Mapping[str, Any]) -> None:
        """Nothing: report.html and W&B show it."""

    def finish(self, *, finished: bool) -> str | None:
        """Write what waits."""
        self._writer.close()
        return None

    def _settings(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.plugins.text.summary_v2 import text_pb

        run = read_json(self._folder / "run.json")
        fields = run.get("hyperparameters", {}) | run.get("run_settings", {})
        rows = [f"| {k} | {json.dumps(v['value'])} | {v['from']} |" for k, v in fields.items()]
        words = "\n".join(["| setting | value | from |", "|---|---|---|", *rows])
        self._writer.add_event(Event(wall_time=time.time(), summary=text_pb(TEXT, words)))


def last_step(folder: Path) -> int:
    """The last step that event files hold; -1 for none. A file that was cut is read up to the
    cut."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    last = -1
    for path in sorted(folder.glob("events.*")):
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            if event.HasField("summary") and not any(v.tag == TEXT for v in event.summary.value):
                last = max(last, event.step)
    return last
