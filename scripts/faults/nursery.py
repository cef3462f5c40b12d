"""A process that has imported torch and forks a new training process on request.

An interpreter needs two seconds to import torch and Accelerate; a fork of one that has done so
needs milliseconds, and goes through the same code from `launcher.cli.main` on. The nursery has one
thread, started no OpenMP region and computed nothing, so a child is what a new interpreter would be
(it refuses to serve otherwise). It is a process of its own, so that nothing of the parent's is
inherited. A message is one JSON document on a socket; the child's output goes to a descriptor that
comes with it.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent
_MESSAGE = 1 << 20
_SET = ("RANK", "WORLD_SIZE", "GROUP_RANK", "OMP_NUM_THREADS", "PYTHONPATH", "HF_HOME")
_PREFIXES = ("ACCELERATE_", "MASTER_", "LOCAL_", "TORCHELASTIC_", "ROLE_", "WANDB_")


def environment(folder: Path) -> dict[str, str]:
    """The variables of a training process: nothing of another launcher, no GPU, one thread."""
    kept = {k: v for k, v in os.environ.items() if k not in _SET and not k.startswith(_PREFIXES)}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    return kept | {
        "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(folder), "WANDB_MODE": "disabled",
    }  # fmt: skip


class Nursery:
    """The parent's end. `without` names mechanisms to switch off in every child."""

    def __init__(self, folder: Path, without: tuple[str, ...] = ()) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *without],
                pass_fds=[theirs.fileno()], env=environment(folder),
            )  # fmt: skip
        self._answer()  # it has imported everything

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._socket.close()
        self._process.wait()

    def fork(
        self, call: str, arguments: list[str], folder: Path, output: int, group: int = 0,
        environ: Mapping[str, str] | None = None,
    ) -> int:  # fmt: skip
        """Start `module:function(arguments)` in a folder; returns the number of the process.

        Without a `group` the process leads a new process group.
        """
        ask = {"call": call, "arguments": arguments, "folder": str(folder), "group": group,
               "environ": dict(environ or {})}  # fmt: skip
        socket.send_fds(self._socket, [json.dumps(ask).encode()], [output])
        return self._answer()

    def reap(self, process: int) -> int:
        """Wait for a process to end: its exit code, or minus the signal that ended it."""
        self._socket.send(json.dumps({"reap": process}).encode())
        return self._answer()

    def _answer(self) -> int:
        answer = self._socket.recv(_MESSAGE)
        if not answer:
            raise RuntimeError("the nursery has ended: look at what it said on standard error")
        return int(answer)


def serve(end: socket.socket) -> None:
    """Answer until the parent closes its end or is gone."""
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise RuntimeError(f"the nursery has {threads} threads: a fork would inherit broken locks")
    children: set[int] = set()
    end.send(b"0")
    while True:
        message, descriptors, _, _ = socket.recv_fds(end, _MESSAGE, 4)
        if not message:
            break
        ask = json.loads(message)
        if "reap" in ask:
            _, status = os.waitpid(ask["reap"], 0)
            children.discard(ask["reap"])
            end.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        child = os.fork()
        if child == 0:
            end.close()
            _become(ask, descriptors[0])
        _join(child, ask["group"])
        children.add(child)
        os.close(descriptors[0])
        end.send(str(child).encode())
    for child in children:
        os.kill(child, signal.SIGKILL)


def _join(process: int, group: int) -> None:
    """Put a child into its group: it and its parent both do, since either may come first."""
    try:
        os.setpgid(process, group)
    except (ProcessLookupError, PermissionError):
        if process == 0:
            raise


def _become(ask: Mapping[str, Any], output: int) -> NoReturn:
    code = 1
    try:
        _join(0, ask["group"])
        os.chdir(ask["folder"])
        os.environ.update(ask["environ"])
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        module, _, function = ask["call"].partition(":")
        sys.argv = [module, *ask["arguments"]]
        code = getattr(importlib.import_module(module), function)(ask["arguments"])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as end:
        import sklearn.datasets
        import torch._dynamo  # what torch itself would import at the first step
        import torchvision

        import launcher.cli
        import launcher.run

        assert all((sklearn.datasets, torch._dynamo, torchvision, launcher.cli, launcher.run))
        if sys.argv[2:]:
            from faults import sabotage

            for name in sys.argv[2:]:
                sabotage.WITHOUT[name]()
        serve(end)


if __name__ == "__main__":
    main()
