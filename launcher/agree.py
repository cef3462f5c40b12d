"""Whether all processes were started with the same files, settings and data.

Processes on several machines may see different copies of a recipe or of a data set. Each would
train; together they would learn something that nobody asked for.
"""

import hashlib
import json
import socket
from collections.abc import Mapping

import torch

from launcher.errors import SettingsError, listed
from launcher.strategy import World


def refuse_differences(world: World, facts: Mapping[str, object]) -> None:
    """Compare facts by name, all of which can be JSON. A collective.

    Raises SettingsError on every process when one of them has another value than the first.
    """
    if world.total is None:
        return
    host = socket.gethostname()
    own = [_number(value) for value in facts.values()] + [_number(host)]
    table = torch.zeros((world.processes, len(own)), dtype=torch.int64, device=world.device)
    table[world.process] = torch.tensor(own)
    rows = world.total(table).cpu()
    for number, name in enumerate(facts):
        column = rows[:, number]
        others = [int(n) for n in torch.nonzero(column != column[0])]
        if others:
            machine = "the same machine" if _same(rows[:, -1], others) else "another machine"
            plural = "es" if len(others) > 1 else ""
            verb = "have" if plural else "has"
            raise SettingsError(
                f"process{plural} {listed(others)} (on {machine}) {verb} another {name} than "
                f"process 0. Start all of them with the same files and settings."
            )


def _number(value: object) -> int:
    """56 bits of a value's hash: the sum over processes stays exact in any integer."""
    text = json.dumps(value, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")


def _same(hosts: torch.Tensor, others: list[int]) -> bool:
    return all(bool(hosts[number] == hosts[0]) for number in others)
