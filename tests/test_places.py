"""Where several machines have the run folder, and that a change of places is noticed."""

import threading
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from launcher import places
from launcher.errors import CheckpointError
from launcher.strategy import RefusedElsewhere, World


class Meeting:
    """Exchanges between two processes, each on a thread."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.brought: dict[int, Any] = {}

    def meet(self, process: int, what: Any) -> dict[int, Any]:
        self.brought[process] = what
        self.barrier.wait()
        found = dict(self.brought)
        self.barrier.wait()
        return found


class Process:
    """A World, as `look` sees it."""

    device = torch.device("cpu")
    processes = 2

    def __init__(self, process: int, meeting: Meeting, hosts: str) -> None:
        self.process, self.is_main, self.meeting = process, process == 0, meeting
        self.watch = self.peers = self
        self.hosts = dict(enumerate(hosts))

    def total(self, table: Tensor) -> Tensor:
        return torch.stack(list(self.meeting.meet(self.process, table).values())).sum(0)

    def share(self, data: bytes) -> bytes:
        return cast(bytes, self.meeting.meet(self.process, data)[0])

    def on_main(self, work: Any) -> int:
        if self.is_main:
            work()
        self.meeting.meet(self.process, None)
        return 0


def look(folders: list[Path], hosts: str = "ab", **more: bool) -> list[str]:
    """What the two say, in their folders; a refusal as its words."""
    said = ["", ""]
    meeting = Meeting()

    def one(process: int) -> None:
        try:
            world = cast(World, Process(process, meeting, hosts))
            said[process] = places.look(world, folders[process], **more)
        except (CheckpointError, RefusedElsewhere) as error:
            said[process] = f"refused: {error}"

    threads = [threading.Thread(target=one, args=(process,)) for process in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return said


def run(machine: str, *steps: int) -> Path:
    folder = Path(machine).resolve() / "checkpoints" / "r"
    folder.parent.mkdir(parents=True, exist_ok=True)
    for step in steps:
        (folder / f"step-{step:012d}").mkdir(parents=True)
    return folder


def test_one_machine_has_nothing_to_say() -> None:
    assert look([run("a"), run("a")], "aa") == ["", ""]
    assert not list(Path("a/checkpoints").iterdir())


def test_a_folder_that_all_see_is_said_and_no_mark_is_left() -> None:
    folder = run("a", 5)
    assert look([folder, folder]) == ["2, and all of them see the folder"] * 2
    assert [path.name for path in folder.parent.iterdir()] == ["r"]


def test_a_folder_on_each_machine_is_said() -> None:
    words = "2; the folder is on a, and b cannot see it: a must stay the first one"
    assert look([run("a"), run("b")]) == [words] * 2
    assert look([run("c", 5), run("d", 4)]) == [words] * 2  # of an old run of another order


def test_machines_that_changed_places_are_refused_by_both() -> None:
    found = look([run("a"), run("b", 7)])
    assert found[0] == found[1]
    assert found[0].startswith("refused: each machine has a run folder of its own, and b has a ")
    assert (
        "step 7 of this run where a, which now has the main process, has no checkpoint" in found[0]
    )
    assert not run("a").exists()
    assert "has step 3" in look([run("c", 3), run("d", 7)])[0]


def test_who_begins_anew_may_change_places() -> None:
    assert "cannot see it" in look([run("a"), run("b", 7)], begins_anew=True)[0]
