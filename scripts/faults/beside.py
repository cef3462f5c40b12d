"""The same kills on training with Accelerate alone, side by side (see `plain`).

Counted is what happens, in the words of a user: an attempt that cannot start because of what the
kill left (the newest checkpoint is then removed by hand, and it goes on), an acknowledged step from
which it does not continue, and final weights that are not those of the run nobody killed.
"""

import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from faults.account import committed
from faults.attempt import Attempt, Command
from faults.nursery import Nursery
from faults.plain import EPOCHS, FINAL, checkpoints
from faults.rows import ACCELERATE, Row

_LONGEST = 300.0
_SHARE = {"mlp": 0.6, "lenet": 0.4}


def rows(seed: int, count: int) -> list[Row]:
    """One row for each model; what went wrong there is no violation of ours."""
    found = []
    with tempfile.TemporaryDirectory(prefix="beside-") as place:
        with Nursery(Path(place)) as nursery:
            for name in EPOCHS:
                folder = (Path(place) / name).resolve()
                kills = max(1, round(count * _SHARE[name]))
                counted = _Beside(nursery, name, folder, seed).lay(kills)
                found.append(_row(name, kills, counted))
    return found


def _row(name: str, kills: int, counted: Counter[str]) -> Row:
    wrong = ("failed loads", "lost acknowledged steps", "different at the end")
    words = ", ".join(f"{kind} {counted[kind]}" for kind in wrong)
    words = f"{counted['runs']} runs to the end, {counted['commits']} commits; {words}"
    total = sum(counted[kind] for kind in wrong)
    return Row("kills", f"{name}, 1 process", kills, total, words, subject=ACCELERATE)


class _Beside:
    def __init__(self, nursery: Nursery, name: str, folder: Path, seed: int) -> None:
        self._nursery, self._name, self._folder, self._seed = nursery, name, folder, seed
        self._counted: Counter[str] = Counter()

    def lay(self, kills: int) -> Counter[str]:
        """So many kills; what was counted."""
        self._new()
        began = time.monotonic()
        with self._attempt() as attempt:
            if not attempt.watch(began + _LONGEST) or any(attempt.codes.values()):
                raise RuntimeError(f"{self._name} does not train: {attempt.lines[-20:]}")
        window = 1.05 * (time.monotonic() - began)
        expected = (self._folder / FINAL).read_bytes()
        chain = 0
        while self._counted["kills"] < kills:
            self._chain(random.Random(f"{self._seed}/{self._name}/{chain}"), kills, window)
            self._counted["runs"] += 1
            self._counted["different at the end"] += (self._folder / FINAL).read_bytes() != expected
            chain += 1
        return self._counted

    def _new(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()

    def _attempt(self) -> Attempt:
        command = Command("faults.plain:main", [self._name])
        return Attempt(self._nursery, command, self._folder, fresh=False)

    def _chain(self, draw: random.Random, kills: int, window: float) -> None:
        """Attempts at one run until it ends."""
        self._new()
        acknowledged = 0
        while True:
            spared = self._counted["kills"] >= kills
            wait = _LONGEST if spared else draw.uniform(0, window)
            with self._attempt() as attempt:
                attempt.watch(time.monotonic() + wait)
            steps = committed(attempt.lines)
            began = [int(x.rpartition(" ")[2]) for x in attempt.lines if x.startswith("begins at")]
            if began and began[0] < acknowledged:
                self._counted["lost acknowledged steps"] += 1
                acknowledged = began[0]
            self._counted["commits"] += len(steps)
            acknowledged = max([acknowledged, *steps])
            if attempt.killed:
                self._counted["kills"] += 1
            elif any(attempt.codes.values()):
                self._counted["failed loads"] += 1
                there = checkpoints(self._folder)
                shutil.rmtree(there[max(there)])
            else:
                return
