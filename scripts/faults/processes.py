"""Processes that are stopped, starved, cut off from the network, or that nobody reads."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults.machine import (
    ROOT,
    Skipped,
    end,
    expected,
    goes_on,
    holds,
    line,
    needs,
    run,
    start,
    status,
    wait,
    weights,
)

SLOW = {"STEP_SECONDS": "0.1"}


def nobody_reads(folder: Path, rng: random.Random, count: int) -> str:
    """A14: the reader of the output leaves (| head -1), or there never was one (>&-)"""
    commit = expected(folder)
    for shell in ('"$@" | head -1 > /dev/null; exit ${PIPESTATUS[0]}', 'exec "$@" >&- 2>&-'):
        code, output = run(folder, "--fresh", by=("bash", "-c", shell, "-"))
        holds(code == 0, f"{shell}: it ended with {code}: {output[-300:]}")
        holds(status(folder)["state"] == "finished", "the status is not finished")
        holds(weights(folder) == commit, "the weights differ")
    return "trained on to the same bits, twice"


def stopped_for_a_while(folder: Path, rng: random.Random, count: int) -> str:
    """A15: SIGSTOP, five seconds, SIGCONT"""
    commit = expected(folder)
    process = start(folder, line(), SLOW)
    wait(folder, lambda about: about.get("last_committed_step"), process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    process.send_signal(signal.SIGCONT)
    code, output = end(process)
    holds(code == 0, f"it ended with {code}: {output[-300:]}")
    holds(weights(folder) == commit, "the weights differ")
    return "went on to the same bits"


def no_network(folder: Path, rng: random.Random, count: int) -> str:
    """D1: a data set that is not there, and no network"""
    needs("unshare", root=True)
    by = ("unshare", "-n")
    if subprocess.run([*by, "true"], capture_output=True, check=False).returncode:
        raise Skipped("unshare -n is not allowed here")
    command = [*by, sys.executable, "-m", "launcher", str(ROOT / "recipes" / "cifar_lenet.py")]
    began = time.monotonic()
    code, output = end(start(folder, [*command, "name=r", "threads=1"]))
    holds(code == 4, f"it ended with {code}: {output[-300:]}")
    holds("cifar" in output and "data" in output, "it does not say what is missing, or where")
    holds(time.monotonic() - began < 60, "it took more than a minute")
    holds(not (folder / "checkpoints").exists(), "it left a run folder")
    return "refused with 4: what, where, and what to do"


MEMORY = Path("/sys/fs/cgroup/memory")


def out_of_memory(folder: Path, rng: random.Random, count: int) -> str:
    """E6: the kernel kills the run for its memory (a cgroup), then the same command"""
    group = MEMORY / f"launcher-torture-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(2 << 30))
    except OSError as error:
        raise Skipped(f"no memory cgroup to make: {error.strerror}") from error
    try:
        commit = expected(folder, "checkpoint_every=2")
        process = start(folder, line("checkpoint_every=2"), {"STEP_SECONDS": "0.2"})
        (group / "cgroup.procs").write_text(str(process.pid))
        wait(folder, lambda about: about.get("last_committed_step"), process)
        resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096
        hog = ["bash", "-c", f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -c "
               f"'import time; x = bytearray({1 << 30}); time.sleep(60)'"]  # fmt: skip
        (group / "memory.limit_in_bytes").write_text(str((1 << 30) + resident // 2))
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
        eater = subprocess.Popen(hog, stderr=subprocess.DEVNULL)
        try:
            code, _ = end(process)
        finally:
            eater.kill()
            eater.wait()
        holds(code == -signal.SIGKILL, f"it ended with {code}, not by signal 9")
        holds(status(folder)["state"] == "running", "the status of a killed run changed")
        goes_on(folder, commit, "checkpoint_every=2")
    finally:
        time.sleep(0.2)
        group.rmdir()
    return "killed by signal 9, then continued to the same bits"


def few_of_everything(folder: Path, rng: random.Random, count: int) -> str:
    """E7: 5 file descriptors, then 64, then one process (ulimit)"""
    commit = expected(folder, "epochs=10")
    said = []
    code, output = run(folder)
    holds(code == 0, f"a run without a limit ended with {code}")
    more = ("epochs=10", "--allow-change", "epochs")
    for limit in ("-n 5", "-n 64", "-u 1"):
        by: tuple[str, ...] = ("bash", "-c", f'ulimit {limit}; exec "$@"', "-")
        if limit == "-u 1" and os.getuid() == 0:
            said.append("-u: root has no such limit")
            continue
        before = weights(folder)
        code, output = run(folder, *more, by=by)
        holds(code in (0, 7, 70, 1), f"ulimit {limit}: it ended with {code}: {output[-300:]}")
        holds(code == 0 or weights(folder) == before, f"ulimit {limit}: the checkpoint changed")
        clear = re.search(r"[Tt]oo many open files|can't start new thread|unavailable", output)
        holds(code == 0 or clear, f"ulimit {limit}: it ended with {code} and did not say why")
        said.append(f"{limit}: code {code}")
    goes_on(folder, commit, *more)
    return "; ".join(said)


def sockets(folder: Path, rng: random.Random, count: int) -> str:
    """H10: what listens while torchrun has two processes (a report, not a promise)"""
    needs("ss")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    command = [sys.executable, "-m", *torchrun, "launcher", "r.py", "name=r", "threads=1"]
    process = start(folder, [*command, "epochs=20"], SLOW)
    try:
        wait(folder, lambda about: about.get("last_committed_step"), process)
        found = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=False).stdout
        mine = set(_family(process.pid))
        at = [words[3] for words in map(str.split, found.splitlines())
              if mine & {int(pid) for pid in re.findall(r"pid=(\d+)", words[-1])}]  # fmt: skip
    finally:
        process.send_signal(signal.SIGTERM)
        end(process)
    everywhere = [where for where in at if where.startswith(("*:", "0.0.0.0:", "[::]:"))]
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return f"{len(at)} sockets listen, {len(everywhere)} of them on all interfaces: {sorted(at)}"


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in _family(int(child)))]


FAULTS = {
    "A14": nobody_reads, "A15": stopped_for_a_while, "D1": no_network, "E6": out_of_memory,
    "E7": few_of_everything, "H10": sockets,
}  # fmt: skip
