"""The modes of `torture.py` that fail, stop and cut off the disk under the launcher's checkpoints.

`calls` does it at every call of a save and of a removal; `power` lays out every disk that a power
cut may leave. Each outcome is judged by the next start: `tidy`, then `newest`.
"""

import errno
import itertools
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults import sides
from faults.crashes import Fault, FaultyDisk, Operation, RecordingDisk, using
from faults.forked import Child, Say
from faults.power_cuts import Tree, lay_out, power_cuts, syncs, without
from faults.rows import Row
from faults.subjects import is_whole, made, scratch
from launcher import checkpoint
from launcher.errors import CheckpointError, StorageError

WIDTH = 3
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT)
NAMES = "EIO, ENOSPC, EROFS, EDQUOT"


def save(run: Path, step: int) -> None:
    """A checkpoint of which every number is the step."""
    model, optimizer = made(WIDTH, step)
    checkpoint.save(run, step, model, optimizer, {"at": step})


@dataclass(frozen=True)
class Found:
    """What the next start finds in a run folder."""

    step: int | None
    wrong: tuple[str, ...]


def start(run: Path) -> Found:
    """Start in a run folder, and look at every checkpoint instead of the newest only."""
    wrong = []
    for step in checkpoint.steps(run):
        try:
            if not is_whole(checkpoint.read(run, step)):
                wrong.append("a torn checkpoint was accepted")
        except CheckpointError:
            wrong.append("a name says that a checkpoint is whole, and it is not")
    checkpoint.tidy(run)
    if run.exists() and any(path.name.startswith((".tmp-", ".trash-")) for path in run.iterdir()):
        wrong.append("something is left over")
    try:
        found, _ = checkpoint.newest(run)
    except CheckpointError:
        return Found(None, (*wrong, "no checkpoint is whole"))
    return Found(found.step if found else None, tuple(wrong))


def broken(found: Found, acknowledged: int | None, steps: Iterable[int | None]) -> list[str]:
    """What was promised and is not so. The newest step is one of `steps`."""
    wrong = list(found.wrong)
    if acknowledged is not None and (found.step is None or found.step < acknowledged):
        wrong.append(f"step {acknowledged} was acknowledged and is lost")
    if found.step not in steps:
        wrong.append(f"step {found.step} is neither the old nor the new one")
    return wrong


def told(wrong: "Counter[str]") -> str:
    """The violations in words."""
    return "; ".join(f"{count:,} x {what}" for what, count in wrong.most_common(4))


@dataclass(frozen=True)
class Job:
    """Something that the disk is asked to do. Until it returns, the first of `steps` is what was
    acknowledged; the next start may find any of them."""

    name: str
    before: tuple[int, ...]
    """The checkpoints that are there."""
    work: Callable[[Path], None]
    steps: tuple[int, ...]
    acknowledged: int
    """The newest acknowledged step once the work has returned."""


JOBS = (
    Job("a save", (10,), lambda run: save(run, 20), (10, 20), 20),
    Job(
        "a save over one that was never acknowledged",
        (10, 20),
        lambda run: save(run, 20),
        (10, 20),
        20,
    ),
    Job("a removal", (10, 20, 30, 40), lambda run: checkpoint.prune(run, keep=1), (40,), 40),
)


def killed(job: Job, *, after: bool) -> Row:
    """Every call of a job is the last of a real process."""
    wrong: Counter[str] = Counter()
    found: Counter[int | None] = Counter()
    with scratch() as folder:
        for number in itertools.count(1):
            run = _prepared(folder, job)
            code, said = Child(lambda say: _work(job, run, number, after, say)).wait()  # noqa: B023
            acknowledged = job.acknowledged if said else job.steps[0]
            outcome = start(run)
            wrong.update(broken(outcome, acknowledged, job.steps))
            found[outcome.step] += 1
            if code == 0:
                break
            if code != -signal.SIGKILL:
                wrong["the process ended otherwise"] += 1
    where = "after" if after else "before"
    steps = ", ".join(f"step {step} x {count}" for step, count in sorted(found.items(), key=str))
    return Row("calls", f"SIGKILL {where} each call of {job.name}", number - 1, wrong.total(),
               told(wrong) or f"found {steps}")  # fmt: skip


def _work(job: Job, run: Path, number: int, after: bool, say: Say) -> None:
    with using(FaultyDisk(number, Fault(after=after))):
        job.work(run)
        say(b"done")


def failed(job: Job, fault: Fault) -> tuple[int, Counter[str]]:
    """Every call of a job fails, and the same process tries once more on a sound disk: how many
    calls there are, and what was wrong."""
    wrong: Counter[str] = Counter()
    with scratch() as folder:
        for number in itertools.count(1):
            run = _prepared(folder, job)
            acknowledged = job.steps[0]
            disk = FaultyDisk(number, fault)
            try:
                with using(disk):
                    job.work(run)
                acknowledged = job.acknowledged
            except StorageError:
                pass
            if not disk.struck:
                return number - 1, wrong
            wrong.update(broken(start(run), acknowledged, job.steps))
            job.work(run)
            wrong.update(broken(start(run), job.acknowledged, (job.acknowledged,)))
    raise AssertionError("the count has no end")


def errors(job: Job) -> list[Row]:
    """Each error, once and for good; then the two that are no plain refusals."""
    rows = []
    for what, faults in (
        (NAMES, [Fault(code) for code in ERRORS]),
        (f"{NAMES} for good", [Fault(code, lasting=True) for code in ERRORS]),
        ("EIO after the fact, half a write", [Fault(errno.EIO, after=True), Fault(short=True)]),
    ):
        tried, wrong = 0, Counter[str]()
        for fault in faults:
            number, found = failed(job, fault)
            tried += number
            wrong += found
        row = Row("calls", f"{what} at each call of {job.name}", tried, wrong.total(), told(wrong))
        rows.append(row)
    return rows


def _prepared(folder: Path, job: Job) -> Path:
    template, run = folder / "template", folder / "run"
    if not template.exists():
        for step in job.before:
            save(template, step)
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(template, run)
    return run


def calls(seed: int, count: int | None) -> list[Row]:
    """SIGKILL and each error of the operating system, at every call; then beside Accelerate, whose
    calls cannot be counted, SIGKILL at `count` drawn instants."""
    kills = [killed(job, after=after) for job in JOBS for after in (False, True)]
    refusals = [row for job in JOBS for row in errors(job)]
    return kills + refusals + sides.kills(seed, count)


def recorded() -> list[Operation]:
    """A first save, two more, and the removal of the oldest, in a folder that was not there."""
    with scratch() as root:
        disk, run = RecordingDisk(root), root / "run"
        with using(disk):
            for step in (10, 20, 30):
                save(run, step)
                disk.acknowledge(step)
                checkpoint.prune(run, keep=2)
        return disk.operations


class Judge:
    """Starts in every disk that a power cut may leave; the same disk is looked at once."""

    def __init__(self) -> None:
        self.outcomes: dict[Tree, Found] = {}

    def violations(self, operations: list[Operation], seed: int) -> Iterator[list[str]]:
        """For each disk what is wrong with it."""
        for left in power_cuts(operations, seed):
            if left.tree not in self.outcomes:
                with scratch() as folder:
                    lay_out(left.tree, folder / "root")
                    self.outcomes[left.tree] = start(folder / "root" / "run")
            yield broken(self.outcomes[left.tree], left.acknowledged, (None, 10, 20, 30))


def redundant(text: str) -> bool:
    """Whether an fsync could be spared: the name of the hidden folder, whose next one is synced."""
    return " after mkdir .tmp-" in text


def power(seed: int, count: int | None) -> list[Row]:
    """Every disk that a power cut may leave, and again with each fsync left out in turn."""
    operations, judge = recorded(), Judge()
    outcomes = list(judge.violations(operations, seed))
    wrong = Counter(what for outcome in outcomes for what in outcome)
    different = f"{len(operations)} operations, {len(judge.outcomes)} different disks"
    rows = [Row("power", "a power cut in three saves and a removal", len(outcomes), wrong.total(),
                told(wrong) or different)]  # fmt: skip
    missed, spared = [], 0
    for at, sync in syncs(operations):
        if any(judge.violations(without(operations, at), seed)):
            continue
        if redundant(sync.text):
            spared += 1
        else:
            missed.append(sync.text)
    needed = len(syncs(operations)) - spared
    text = f"each was caught; without {spared} more, of hidden names, nothing is lost"
    rows.append(Row("power", "the same with one needed fsync left out: caught", needed,
                    len(missed), "; ".join(missed) or text))  # fmt: skip
    return rows
