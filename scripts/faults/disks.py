"""Disks that are full, limited, read-only, slow or odd, and a clock that jumps."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from faults.machine import (
    Skipped,
    end,
    expected,
    goes_on,
    holds,
    line,
    mounted,
    needs,
    run,
    start,
    status,
    wait,
    weights,
)

# A checkpoint of this width takes about 1.7 MB.
WIDE = ("width=10000", "checkpoint_every=2", "evaluate_every=100", "keep=2")
SLOW = {"STEP_SECONDS": "0.1"}
CALLS = "write,fsync,rename,renameat2,mkdir,unlink,rmdir"


def killed_at_calls(folder: Path, rng: random.Random, count: int) -> str:
    """A2: SIGKILL at a call to the disk, then the same command"""
    needs("strace")
    given = ("checkpoint_every=5",)
    commit = expected(folder, *given)
    trace = folder / "trace"
    code, output = run(
        folder, *given, by=("strace", "-f", "-o", str(trace), "-e", f"trace={CALLS}")
    )
    holds(code == 0 or "ptrace" in output, f"the traced run ended with {code}: {output[-200:]}")
    if code:
        raise Skipped("strace may not trace here")
    first = "checkpoints"
    calls = [call for call in trace.read_text().splitlines() if "(" in call]
    begun = next((i for i, call in enumerate(calls) if first in call), 0)
    kills = 0
    for number in sorted(rng.sample(range(begun, len(calls)), min(count, len(calls) - begun))):
        (folder / "checkpoints").rename(folder / f"before-{number}")
        name = calls[number].split("(")[0].split()[-1]
        thread = calls[number].split()[0]  # strace counts for each thread
        own = [call for call in calls[: number + 1] if call.split()[0] == thread]
        nth = sum(call.split("(")[0].split()[-1] == name for call in own)
        inject = f"inject={name}:signal=SIGKILL:when={nth}"
        code, _ = run(folder, *given, by=("strace", "-f", "-qq", "-o", "/dev/null", "-e",
                                          f"trace={name}", "-e", inject))  # fmt: skip
        kills += code in (137, -9)
        goes_on(folder, commit, *given)
        left = [path.name for path in (folder / "checkpoints" / "r").glob(".t*")]
        holds(not left, f"killed in {name} number {nth}: {left} are left")
    return f"{kills} kills at {len(calls)} calls, each continued to the same bits"


def full_in_the_middle(folder: Path, rng: random.Random, count: int) -> str:
    """C1: the disk is full from the second checkpoint on"""
    with mounted(folder / "checkpoints", "size=4500k"):
        code, output = run(folder, *WIDE)
        _missed(folder, code, output)
        sizes = re.findall(r"[0-9][0-9,.]* ?(?:bytes|[kMG]i?B)", output)
        holds(len(sizes) >= 2, "the warning has no needed and free bytes")
    return "warned, kept the older checkpoint, ended with 7"


def full_at_the_start(folder: Path, rng: random.Random, count: int) -> str:
    """C2: the disk is full before the run"""
    with mounted(folder / "checkpoints", "size=100k"):
        with (folder / "checkpoints" / "fill").open("wb", buffering=0) as file:
            file.write(bytes(100 << 10))
        code, output = run(folder, *WIDE)
        holds(code == 7, f"it ended with {code}: {output[-300:]}")
        holds("step 1/" not in output, "it trained before it said so")
        holds("checkpoints" in output, "the path is not named")
    return "refused with 7 before training"


def file_limit(folder: Path, rng: random.Random, count: int) -> str:
    """C3: no file may be larger than 512 kB (ulimit -f)"""
    code, output = run(folder, *WIDE, by=("bash", "-c", 'ulimit -f 512; exec "$@"', "-"))
    holds(code == 7, f"it ended with {code}: {output[-300:]}")
    goes_on(folder, expected(folder, *WIDE), *WIDE)
    return "ended with 7, and went on without the limit"


def read_only(folder: Path, rng: random.Random, count: int) -> str:
    """C6: the run folder becomes read-only during the run (a bind mount over itself)"""
    needs("mount", root=True)
    place = str(folder / "checkpoints" / "r")
    given = ("checkpoint_every=2", "epochs=10")
    process = start(folder, line(*given), SLOW)
    try:
        wait(folder, lambda about: about.get("last_committed_step"), process)
        for options in (["--bind", place, place], ["-o", "remount,ro,bind", place]):
            if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
                raise Skipped("mount --bind is not allowed here")
        code, output = end(process)
    finally:
        process.kill()
        subprocess.run(["umount", "-l", place], capture_output=True, check=False)
    _missed(folder, code, output)
    goes_on(folder, expected(folder, *given), *given)
    return "warned, kept the older checkpoint, ended with 7, and went on when it was writable"


def no_inodes(folder: Path, rng: random.Random, count: int) -> str:
    """C22: no inode is left from the second checkpoint on"""
    with mounted(folder / "checkpoints", "size=100m,nr_inodes=20"):
        code, output = run(folder, "checkpoint_every=2", "evaluate_every=100", "keep=5")
        _missed(folder, code, output)
    return "warned, kept the older checkpoint, ended with 7"


def _missed(folder: Path, code: int, output: str) -> None:
    """What C1 promises, and whatever is like it."""
    holds(code == 7, f"it ended with {code}: {output[-300:]}")
    holds(str(folder) in output.replace("\n", ""), "the path is not named")
    holds(weights(folder), "no checkpoint is left")
    left = [path.name for path in (folder / "checkpoints" / "r").glob(".t*")]
    holds(not left, f"{left} are left")
    holds(output.count("could not") >= 3, "it did not try three times before it gave up")


@contextmanager
def _immutable(path: Path) -> Iterator[None]:
    needs("chattr", root=True)
    made = subprocess.run(["chattr", "+i", str(path)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise Skipped(f"chattr: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=False)


def cannot_remove(folder: Path, rng: random.Random, count: int) -> str:
    """C23: an old checkpoint that cannot be removed"""
    given = ("checkpoint_every=2", "evaluate_every=100", "keep=2")
    process = start(folder, line(*given), SLOW)
    wait(folder, lambda about: about.get("last_committed_step") == 2, process)
    process.send_signal(signal.SIGSTOP)
    with _immutable(folder / "checkpoints" / "r" / "step-000000000002"):
        process.send_signal(signal.SIGCONT)
        code, output = end(process)
    process.kill()
    holds(code == 0, f"it ended with {code}: {output[-300:]}")
    holds(output.count("could not re") == 1, f"it warned {output.count('could not re')} times")
    return "warned once and went on"


def slow_sync(folder: Path, rng: random.Random, count: int) -> str:
    """C25: every fsync takes two seconds"""
    needs("strace")
    given = ("checkpoint_every=1000", "evaluate_every=1000")
    code, output = run(folder, *given, by=(
        "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e",
        "inject=fsync:delay_enter=2000000"))  # fmt: skip
    if "ptrace" in output:
        raise Skipped("strace may not trace here")
    holds(code == 0, f"it ended with {code}: {output[-300:]}")
    holds(weights(folder) == expected(folder, *given), "the weights differ")
    return "finished with the same bits"


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long long by(void) { char *s = getenv("CLOCK_BY"); return s ? atoll(s) : 0; }
int clock_gettime(clockid_t id, struct timespec *at) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(id, at);
  if (code == 0 && id == CLOCK_REALTIME) at->tv_sec += by();
  return code;
}
time_t time(time_t *at) {
  struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"""


def clock_moved(folder: Path, rng: random.Random, count: int) -> str:
    """C18: a run is continued a year earlier, then a year later"""
    needs("gcc")
    (folder / "clock.c").write_text(CLOCK)
    made = subprocess.run(["gcc", "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"],
                          cwd=folder, capture_output=True, text=True, check=False)  # fmt: skip
    if made.returncode:
        raise Skipped(f"gcc: {made.stderr.strip()[:80]}")
    commit = expected(folder, "checkpoint_every=1")
    year = 365 * 86400
    for years in (0, -1, 1):
        environ = {"LD_PRELOAD": str(folder / "clock.so"), "CLOCK_BY": str(years * year), **SLOW}
        process = start(folder, line("checkpoint_every=1"), environ)
        before = status(folder).get("last_committed_step") or 0
        wait(folder, _beyond(before + 1), process)
        process.kill()
        end(process)
        there = time.gmtime(time.time() + years * year).tm_year
        holds(str(there) in str(status(folder).get("updated")), "the clock did not move")
    goes_on(folder, commit, "checkpoint_every=1")
    lines = (folder / "checkpoints" / "r" / "metrics.jsonl").read_text()
    holds('"seconds": -' not in lines, "a duration is negative")
    return "continued by step number to the same bits, no negative duration"


def _beyond(step: int) -> Callable[[Mapping[str, int]], object]:
    return lambda about: (about.get("last_committed_step") or 0) > step


def odd_paths(folder: Path, rng: random.Random, count: int) -> str:
    """C20: folders with spaces, line ends, pictures, bytes that are no text, and very deep ones"""
    names = [b"a b", b"a\nb", "\U0001f600".encode(), b"\xff\xfe", b"$(id)", b"-rf", b"x" * 255]
    deep = b"/".join([b"d" * 200] * 19)
    codes = []
    for name in [*names, deep]:
        place = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
        place.mkdir(parents=True)
        code, output = run(place, "epochs=1")
        holds(code in (0, 2, 7), f"{name[:20]!r}: it ended with {code}: {output[-300:]}")
        run_folder = place / "checkpoints" / "r"
        holds(code == 0 or not list(place.glob("checkpoints/*/.t*")), f"{name[:20]!r}: leftovers")
        holds(code or (run_folder / "status.json").exists(), f"{name[:20]!r}: no status")
        codes.append(code)
    return f"exit codes {codes}"


FAULTS = {
    "A2": killed_at_calls, "C1": full_in_the_middle, "C2": full_at_the_start, "C3": file_limit,
    "C6": read_only, "C18": clock_moved, "C20": odd_paths, "C22": no_inodes,
    "C23": cannot_remove, "C25": slow_sync,
}  # fmt: skip
