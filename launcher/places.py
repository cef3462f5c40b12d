"""Where the run folder is, on several machines: one that all of them see, or one on each.

Only the main process reads and writes checkpoints, so that either will do. But where each machine
has a folder of its own, the run lies on the main process's machine alone: machines that have
changed places would find nothing there, and begin anew.
"""

import secrets
from contextlib import suppress
from pathlib import Path

import torch

from launcher import checkpoint, storage
from launcher.errors import CheckpointError, StorageError, listed
from launcher.strategy import World


def look(world: World, folder: Path, *, begins_anew: bool = False) -> str:
    """Whether all machines see the same run folder, in words for the banner; nothing where there is
    one machine. A collective: the main process leaves a mark, and all look for it.

    Raises CheckpointError, on every process, when the main process's machine has no checkpoint, or
    older ones than another machine, unless the run `begins_anew` anyhow.
    """
    hosts = world.watch.peers.hosts if world.watch.peers is not None else {}
    if world.total is None or len(set(hosts.values())) < 2:
        return ""
    mark = folder.parent / f".seen-{world.share(secrets.token_hex(8).encode()).decode()}"
    world.on_main(lambda: _leave(mark))
    table = torch.zeros((world.processes, 2), dtype=torch.int64, device=world.device)
    table[world.process, 0] = int(mark.exists())
    table[world.process, 1] = _newest(folder)
    rows = world.total(table).cpu()
    if world.is_main:
        with suppress(StorageError):
            storage.remove(mark)
    blind = sorted({hosts[n] for n in range(world.processes) if not rows[n, 0]})
    if not blind:
        return f"{len(set(hosts.values()))}, and all of them see the folder"
    latest = int(rows[:, 1].argmax())
    if int(rows[latest, 1]) > int(rows[0, 1]) and not rows[latest, 0] and not begins_anew:
        have = f"step {int(rows[0, 1])}" if rows[0, 1] else "no checkpoint"
        raise CheckpointError(
            f"each machine has a run folder of its own, and {hosts[latest]} has a checkpoint of "
            f"step {int(rows[latest, 1])} of this run where {hosts[0]}, which now has the main "
            f"process, has {have}: have the machines changed places? Make {hosts[latest]} the "
            f"first one (--machine_rank 0, --node_rank 0), or copy {folder.name} to {hosts[0]}, or "
            f"give --fresh to begin anew."
        )
    return (
        f"{len(set(hosts.values()))}; the folder is on {hosts[0]}, and {listed(blind)} cannot see "
        f"it: {hosts[0]} must stay the first one"
    )


def _leave(mark: Path) -> int:
    storage.make_folder(mark.parent)
    storage.create(mark, [b""])
    return 0


def _newest(folder: Path) -> int:
    with suppress(StorageError):
        return max(checkpoint.steps(folder), default=0)
    return 0
