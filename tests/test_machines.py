"""Two network namespaces as two machines: `alpha`, the first, and `beta`, and a cable between.

Each has a host name, an address and a folder of its own. Skipped where no namespace can be made.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT, eventually
from test_processes import RECIPE, launch

pytestmark = pytest.mark.slow

NAMES = ("alpha", "beta")
ADDRESSES = ("10.231.7.1", "10.231.7.2")  # inside the namespaces only
SETTINGS = ("name=run", "threads=1", "micro_batch_size=16", "checkpoint_every=2", "timeout=5")
SLOW = RECIPE.replace("import hashlib", "import time, hashlib").replace(
    "    if model.training:\n",
    '    if model.training:\n        time.sleep(float(os.environ.get("STEP", "0")))\n',
)
WALL_CLOCK = ("seconds", "train/samples_per_s", "train/data_wait")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=HANGS)


class Machines:
    """The two, and what is started on them."""

    def __init__(self, folder: Path) -> None:
        self.spaces = [f"launcher-{os.getpid()}-{name}" for name in NAMES]
        self.links = [f"lc{os.getpid() % 10**6}{end}" for end in "ab"]
        self.folder = folder

    def __enter__(self) -> "Machines":
        for space in self.spaces:
            ip("netns", "add", space)
        one, other = self.spaces
        ip("link", "add", self.links[0], "netns", one, "type", "veth",
           "peer", "name", self.links[1], "netns", other)  # fmt: skip
        for space, link, address in zip(self.spaces, self.links, ADDRESSES, strict=True):
            ip("-n", space, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", space, "link", "set", "lo", "up")
        self.cable("up")
        return self

    def __exit__(self, *_: object) -> None:
        for machine, space in enumerate(self.spaces):
            self.kill(machine)
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)

    def cable(self, state: str) -> None:
        for space, link in zip(self.spaces, self.links, strict=True):
            ip("-n", space, "link", "set", link, state)

    def kill(self, machine: int) -> None:
        """What losing its power does to a machine: every process is gone at once."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.spaces[machine]], check=False, capture_output=True
        )
        for pid in listed.stdout.split():
            os.kill(int(pid), signal.SIGKILL)

    def start(
        self, by: str, *, first: int = 0, step: float = 0.0, recipes: tuple[str, str] = (SLOW, SLOW)
    ) -> list[subprocess.Popen[str]]:
        """The same command on both, `first` with the main process; `step` in seconds."""
        found = []
        for machine, (name, space) in enumerate(zip(NAMES, self.spaces, strict=True)):
            place = self.folder / name
            place.mkdir(exist_ok=True)
            (place / "r.py").write_text(recipes[machine])
            for old in place.glob("process-*.txt"):
                old.unlink()
            rank = str(machine ^ first)
            found.append(subprocess.Popen(
                ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c",
                 f'hostname {name} && exec "$@"', "sh", *command(by, rank, ADDRESSES[first])],
                cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                     "STEP": str(step)},
            ))  # fmt: skip
        return found

    def outcome(self) -> dict[str, Any]:
        """Bytes of the last checkpoint, and the metrics less wall-clock times."""
        run = self.folder / "alpha" / "checkpoints" / "run"
        last = max(run.glob("step-*"))
        found: dict[str, Any] = {path.name: path.read_bytes() for path in last.iterdir()}
        found["metrics"] = [
            {key: value for key, value in json.loads(line).items() if key not in WALL_CLOCK}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        return found


def command(by: str, rank: str, address: str) -> list[str]:
    if by == "accelerate":
        machine = ROOT / "configs" / "machines" / "cpu_2.yaml"
        words = ["accelerate.commands.launch", "--config_file", str(machine), "--num_machines", "2",
                 "--num_processes", "2", "--machine_rank", rank, "--main_process_ip", address,
                 "--main_process_port", "29511"]  # fmt: skip
    else:
        words = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank",
                 rank, "--master_addr", address, "--master_port", "29511"]  # fmt: skip
    return [sys.executable, "-m", *words, "-m", "launcher", "r.py", *SETTINGS]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("two machines need root, iproute2 and unshare")
    both = Machines(tmp_path_factory.mktemp("machines"))
    try:
        both.__enter__()
    except subprocess.CalledProcessError as error:
        both.__exit__()
        pytest.skip(f"no network namespaces can be made here: {error.stderr.decode().strip()}")
    try:
        yield both
    finally:
        both.__exit__()


@pytest.fixture(autouse=True)
def anew(machines: Machines) -> Iterator[None]:
    """A cable that is whole, and machines that run nothing and hold no run."""
    machines.cable("up")
    yield
    for number in (0, 1):
        machines.kill(number)
    for name in NAMES:
        shutil.rmtree(machines.folder / name, ignore_errors=True)


def said(started: list[subprocess.Popen[str]]) -> list[str]:
    """What each machine has said by its end: without the timeout it would not come."""
    return [one.communicate(timeout=HANGS)[0] for one in started]


def in_mid_epoch(machines: Machines) -> None:
    """Wait until the run has a checkpoint and is further."""
    eventually(lambda: list(machines.folder.glob("*/checkpoints/run/step-*04")))
    time.sleep(0.15)


@pytest.fixture(scope="module")
def whole(machines: Machines) -> dict[str, Any]:
    """What both leave that nothing has disturbed, and each one's hashes of its micro-batches."""
    started = machines.start("accelerate")
    words = said(started)
    assert [one.returncode for one in started] == [0, 0], words
    hashes = [
        (machines.folder / name / f"process-{number}.txt").read_text().split()
        for number, name in enumerate(NAMES)
    ]
    return {**machines.outcome(), "hashes": hashes, "words": words}


def resumed(machines: Machines, by: str) -> dict[str, Any]:
    """What the same two commands end with."""
    started = machines.start(by)
    words = said(started)
    assert [one.returncode for one in started] == [0, 0], words
    assert "run: continues at step" in words[0]
    return machines.outcome()


def test_two_machines_have_the_micro_batches_of_one_process(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    alone = launch(tmp_path / "one", RECIPE, 1, "micro_batch_size=16", by="python")
    one = (alone.parent.parent / "process-0.txt").read_text().split()
    assert len(set(one)) == len(one) == 22 * 4
    assert one[0::2] == whole["hashes"][0]
    assert one[1::2] == whole["hashes"][1]


def test_the_banner_says_which_machine_holds_the_run(whole: dict[str, Any]) -> None:
    assert (
        "the folder is on alpha, and beta cannot see it: alpha must stay the first one"
        in whole["words"][0]
    )


def test_a_killed_machine_is_named_and_the_same_commands_go_on(
    machines: Machines, whole: dict[str, Any]
) -> None:
    started = machines.start("torchrun", step=0.1)
    in_mid_epoch(machines)
    machines.kill(1)
    words, _ = said(started)
    assert started[0].returncode != 0
    assert "on beta, last seen in step" in words
    assert "gives no sign of life" in words
    found = resumed(machines, "torchrun")
    assert found == {key: whole[key] for key in found}


def test_a_cut_cable_ends_both_and_each_names_the_other(
    machines: Machines, whole: dict[str, Any]
) -> None:
    started = machines.start("accelerate", step=0.1)
    in_mid_epoch(machines)
    machines.cable("down")
    alpha, beta = said(started)
    assert all(one.returncode for one in started)
    assert "on beta, last seen in step" in alpha
    assert "alpha, the machine of process 0, is gone or out of reach" in beta
    machines.cable("up")
    found = resumed(machines, "accelerate")
    assert found == {key: whole[key] for key in found}


def test_machines_that_changed_places_do_not_begin_anew(
    machines: Machines,
) -> None:
    started = machines.start("accelerate", step=0.1)
    in_mid_epoch(machines)
    for number in (0, 1):
        machines.kill(number)
    said(started)
    newest = max((machines.folder / "alpha" / "checkpoints" / "run").glob("step-*/COMMIT")).parent
    started = machines.start("accelerate", first=1)
    _, beta = said(started)
    assert all(one.returncode for one in started)
    assert f"alpha has a checkpoint of step {int(newest.name.removeprefix('step-'))}" in beta
    assert "where beta, which now has the main process, has no checkpoint" in beta
    assert not (machines.folder / "beta" / "checkpoints" / "run").exists()


def test_the_machine_with_another_recipe_is_named(machines: Machines) -> None:
    started = machines.start("torchrun", recipes=(SLOW, f"{SLOW}\n# changed\n"))
    alpha, _ = said(started)
    assert all(one.returncode for one in started)
    assert "process 1 (on beta) has another recipe than process 0 (on alpha)" in alpha
