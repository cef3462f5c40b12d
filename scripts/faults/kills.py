"""SIGKILL at random instants, until a thousand kills have changed nothing.

    python scripts/torture.py kills --count 50 --seed 1
    cd scripts && python -m faults.kills --only mlp --without optimizer --count 20  # is noticed

Each workload is trained once without a kill. Then the same command is started and killed after a
random time, drawn evenly from all the time that the run takes, and started again, until it ends;
and the result must be that of the run nobody killed, to the byte. After every kill the parent holds
its own account of what the process acknowledged against the disk (see `account`). With two
processes the whole group is killed, or one process alone: then the other must end by itself.

SIGKILL leaves the page cache as it is, so this says nothing about fsync: a power cut would.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from faults import beside
from faults.account import Account, Reference, Tally, begun, final
from faults.attempt import Attempt, Command, gone, members
from faults.nursery import Nursery
from faults.rows import LAUNCHER, Row
from faults.workloads import COMMON, WORKLOADS, Workload
from launcher import screen

FRESH = 0.05
"""Share of attempts that are new interpreters."""
BOUND = 60.0
"""Seconds in which a process must end when its peer has died."""
GRACE = 3.0
"""Seconds for that before the processes have met, where an agent would end them."""
_LONGEST = 300.0
_MOST_ATTEMPTS = 200
KINDS = ("lost", "torn", "different", "orphans", "restart", "left", "failed", "hang")


class Siege:
    """One workload, its reference, and the chains of killed attempts at it."""

    def __init__(self, nursery: Nursery, workload: Workload, folder: Path, seed: int) -> None:
        folder.mkdir()
        self.workload = workload
        self.folder = folder.resolve()
        self.tally = Tally()
        self._run = self.folder / "checkpoints" / "run"
        self._nursery = nursery
        self._seed = seed
        self._arguments = [workload.write(folder), "name=run", *COMMON, *workload.settings]
        self._seconds = {False: self._whole(fresh=False)}
        self._reference = Reference.of(self._run)

    def lay(self, kills: int, until: str = "") -> None:
        """Do so many kills, and let the last chain end; no more after a violation of one kind."""
        began = time.monotonic()
        self._seconds[True] = self._whole(fresh=True)
        if final(self._run) != self._reference.result:
            self._report(-1, 0, [self.tally.violated("different", "a new interpreter's result")])
        number = 0
        while self.tally.kills.total() < kills and not self.tally.violations[until]:
            self._chain(number, kills)
            number += 1
        self.tally.seconds = time.monotonic() - began

    def _whole(self, *, fresh: bool) -> float:
        """A run that nobody kills: how long it takes."""
        shutil.rmtree(self._run, ignore_errors=True)
        began = time.monotonic()
        with self._attempt(fresh=fresh, more=["keep=100000"]) as attempt:
            ended = attempt.watch(began + _LONGEST)
            if not ended or any(attempt.codes.values()):
                raise RuntimeError(f"{self.workload.label} does not train: {attempt.lines[-20:]}")
        return time.monotonic() - began

    def _attempt(self, *, fresh: bool, more: list[str]) -> Attempt:
        arguments = [*self._arguments, *more]
        command = Command("launcher.cli:main", arguments, self.workload.processes)
        return Attempt(self._nursery, command, self.folder, fresh=fresh)

    def _chain(self, number: int, kills: int) -> None:
        """Attempts at one run until it ends, or until something is wrong."""
        draw = random.Random(f"{self._seed}/{self.workload.label}/{number}")
        shutil.rmtree(self._run, ignore_errors=True)
        account = Account(self._run, self._reference, self.tally)
        for turn in range(_MOST_ATTEMPTS):
            fresh = draw.random() < FRESH
            wait = draw.uniform(0, 1.05 * self._seconds[fresh])
            victim = draw.choice((None, None, 0, 1)) if self.workload.processes > 1 else None
            spared = self.tally.kills.total() >= kills
            found = []
            began = time.monotonic()
            with self._attempt(fresh=fresh, more=[]) as attempt:
                if not attempt.watch(time.monotonic() + (_LONGEST if spared else wait)):
                    found += self._kill(attempt, None if spared else victim)
                took = time.monotonic() - began
                if not gone(self.folder, 5):
                    words = f"{members(self.folder)} are still there"
                    found.append(self.tally.violated("orphans", words))
            found += account.after(attempt)
            if attempt.killed and not spared:
                self._note(attempt, account)
            elif attempt.killed or any(attempt.codes.values()):
                words = f"exit codes {attempt.codes}: {attempt.lines[-8:]}"
                found.append(self.tally.violated("failed", words))
            else:
                if turn == 0:  # the reference was slower: its window reached beyond the end
                    self._seconds[fresh] = min(self._seconds[fresh], took)
                found += account.at_the_end()
                self._report(number, turn, found)
                return
            if found:  # what is wrong once would be counted again after every later attempt
                self._report(number, turn, found)
                return
        words = "the run does not come to its end"
        self._report(number, _MOST_ATTEMPTS, [self.tally.violated("failed", words)])

    def _kill(self, attempt: Attempt, victim: int | None) -> list[str]:
        """Kill what is to be killed, and wait for what must end by itself."""
        began = time.monotonic()
        found = []
        if victim is not None and attempt.kill(victim):
            met = begun(attempt.lines) is not None or attempt.fresh
            ended = attempt.watch(began + (BOUND if met else GRACE))
            self.tally.codes.update(code for code in attempt.codes.values() if code > 0)
            if ended and gone(self.folder, began + BOUND - time.monotonic()):
                self.tally.slowest_end = max(self.tally.slowest_end, time.monotonic() - began)
            elif met:
                words = f"a process outlived its peer by {BOUND} s: {attempt.lines[-3:]}"
                found.append(self.tally.violated("hang", words))
            else:
                self.tally.when["one of two before they met"] += 1
        attempt.kill()
        attempt.watch(time.monotonic() + 10)
        return found

    def _note(self, attempt: Attempt, account: Account) -> None:
        """Count a kill, and what it met."""
        start = (
            ("torchrun" if self.workload.processes > 1 else "python -m") if attempt.fresh else ""
        )
        what = "" if attempt.victim is None else f" process {attempt.victim}"
        self.tally.kills[f"{start or 'fork'}{what}"] += 1
        if account.saving():
            self.tally.when["save"] += 1
        else:
            self.tally.when["start" if begun(attempt.lines) is None else "steps"] += 1

    def _report(self, chain: int, turn: int, found: list[str]) -> None:
        for words in found:
            screen.text(
                f"VIOLATION {self.workload.label}, seed {self._seed}, chain {chain}, attempt "
                f"{turn}: {words}"
            )


def table(tallies: dict[str, Tally]) -> None:
    """One row for each workload."""
    seen = ("lost", "torn", "different", "orphans")
    columns = ("workload", "kills", "runs", "commits", "redone", *seen, "other", "peer s", "s/kill")
    rows = [
        (label, tally.kills.total(), tally.chains, tally.committed, tally.redone,
         *(tally.violations[kind] for kind in seen),
         sum(number for kind, number in tally.violations.items() if kind not in seen),
         f"{tally.slowest_end:.2f}", f"{tally.seconds / max(1, tally.kills.total()):.2f}")
        for label, tally in tallies.items()
    ]  # fmt: skip
    screen.table("SIGKILL at random instants", columns, rows)


def row(label: str, tally: Tally) -> Row:
    """A tally in words."""
    kinds, met = (
        ", ".join(f"{key} {number}" for key, number in sorted(counter.items()))
        for counter in (tally.kills, tally.when)
    )
    wrong = ", ".join(f"{kind} {tally.violations[kind]}" for kind in KINDS)
    words = (
        f"{tally.chains} runs to the end; {tally.committed} commits, {tally.redone} steps redone; "
        f"{wrong}; killed: {kinds}; during: {met}"
    )
    if tally.slowest_end:
        codes = ", ".join(f"{code} {number}x" for code, number in sorted(tally.codes.items()))
        words += f"; slowest end after a peer's death {tally.slowest_end:.2f} s, by code {codes}"
    return Row("kills", label, tally.kills.total(), tally.violations.total(), words)


def _words(one: Row) -> str:
    return f"{one.mode}, {one.what}: {one.count} kills, {one.violations} wrong; {one.found}"


def lay(
    seed: int, count: int, only: str = "", without: tuple[str, ...] = (), until: str = ""
) -> dict[str, Tally]:
    """So many kills over the workloads whose label begins with `only`, of each no more after a
    violation of the kind `until`; what each showed."""
    chosen = [workload for workload in WORKLOADS if workload.label.startswith(only)]
    share = sum(workload.share for workload in chosen)
    tallies = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        with Nursery(Path(place), without) as nursery:
            for number, workload in enumerate(chosen):
                folder = Path(place) / str(number)
                siege = Siege(nursery, workload, folder, seed)
                siege.lay(max(1, round(count * workload.share / share)), until)
                tallies[workload.label] = siege.tally
                screen.text(_words(row(workload.label, siege.tally)))
                shutil.rmtree(folder)
    return tallies


def rows(seed: int, count: int | None) -> list[Row]:
    """The rows of the table: ours, and plain Accelerate's, with a tenth of the kills."""
    kills = 1000 if count is None else count
    found = [row(label, tally) for label, tally in lay(seed, kills).items()]
    return found + beside.rows(seed, max(2, kills // 10))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=1000, help="kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="beginning of a workload's label, or beside")
    parser.add_argument("--without", action="append", default=[], help="see sabotage.py")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    asked = parser.parse_args()
    found = []
    if asked.only != "beside":
        tallies = lay(asked.seed, asked.count, asked.only, tuple(asked.without))
        table(tallies)
        found += [row(label, tally) for label, tally in tallies.items()]
    if asked.only == "beside" or not (asked.only or asked.without):
        found += beside.rows(asked.seed, max(2, asked.count // 10))
    for one in found:
        if one.subject != LAUNCHER:
            screen.text(_words(one))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    return int(any(one.violations for one in found if one.subject == LAUNCHER))


if __name__ == "__main__":
    sys.exit(main())
