"""The same SIGKILLs at the launcher and at Accelerate, side by side.

What the load finds is `whole` (weights, momentum and, with Accelerate, random states of the newest
acknowledged step or of the one after it), `torn` (it loads without an error what no step had),
`without its random state` (so too, and only that is missing), `unusable` (it raises, and there is
no other checkpoint) or `lost` (an older step, or nothing).

A child saves one step after the other and says each when it is done; it keeps one checkpoint. It is
killed at an instant drawn evenly over the time that its last save took. Then this process loads.
"""

import logging
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from faults.forked import Child, Say
from faults.rows import ACCELERATE, LAUNCHER, Row
from faults.subjects import AccelerateSubject, LauncherSubject, scratch

ROUNDS = 200
WIDTH = 256
_MOST_STEPS = 1000

Subject = LauncherSubject | AccelerateSubject
SUBJECTS: dict[str, Callable[[Path, int], Subject]] = {
    LAUNCHER: LauncherSubject,
    ACCELERATE: AccelerateSubject,
}


def _save_on(subject: Subject, say: Say) -> None:
    # It tells of each checkpoint that it deletes.
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    for step in range(1, _MOST_STEPS):
        subject.save(step)
        say(step.to_bytes(4))


def one_kill(subject: Subject, drawn: random.Random) -> str:
    """Kill a child that saves, and say what the next start finds."""
    child = Child(lambda say: _save_on(subject, say))
    for _ in range(drawn.randint(2, 4)):  # the first is slower: it makes the folder
        began = time.monotonic()
        said = child.hear(4)
    time.sleep(drawn.random() * (time.monotonic() - began))
    child.kill()
    _, rest = child.wait()
    acknowledged = int.from_bytes((said + rest[: len(rest) // 4 * 4])[-4:])
    outcome, step = subject.load()
    if (outcome == "whole" and step < acknowledged) or outcome == "none":
        return "lost"
    return outcome


def kills(seed: int, count: int | None) -> list[Row]:
    """`count` kills of each, with the same draws."""
    rows = []
    for name, make in SUBJECTS.items():
        drawn, outcomes = random.Random(seed), Counter[str]()
        with scratch(in_memory=False) as folder:
            subject = make(folder / "run", WIDTH)
            for _ in range(count or ROUNDS):
                outcomes[one_kill(subject, drawn)] += 1
                shutil.rmtree(folder / "run", ignore_errors=True)
        bad = outcomes.total() - outcomes["whole"]
        found = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        what = "SIGKILL at a drawn instant of saving, keep=1, then load"
        rows.append(Row("calls", what, outcomes.total(), bad, found, name))
    return rows
