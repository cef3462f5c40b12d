"""Whether all processes were started with the same files, settings, versions and data.

Processes on several machines may see different copies of a recipe or of a data set. Each would
train; together they would learn something that nobody asked for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from launcher.errors import SettingsError, listed
from launcher.strategy import World


def refuse_differences(world: World, facts: Mapping[str, object]) -> None:
    """Compare facts by name, all of which can be JSON. A collective.

    Raises SettingsError on every process when one of them has another value than the first, naming
    its machine.
    """
    if world.total is None:
        return
    if bool((table(world, [sorted(facts)]) != _number(sorted(facts))).any()):
        # Then a table of the facts would not have one width; what they have in common says why.
        facts = {"recipe": facts.get("recipe"), "set of settings": sorted(facts)}
    rows = table(world, list(facts.values()))
    assert world.watch.peers is not None, "several processes have each other"
    world.watch.peers.meet()
    hosts = world.watch.peers.hosts
    for number, name in enumerate(facts):
        column = rows[:, number]
        others = [int(n) for n in torch.nonzero(column != column[0])]
        if others:
            first, there = hosts[0], sorted({hosts[n] for n in others})
            machine = "the same machine" if there == [first] else listed(there)
            than = "process 0" if there == [first] else f"process 0 (on {first})"
            plural = "es" if len(others) > 1 else ""
            verb = "have" if plural else "has"
            raise SettingsError(
                f"process{plural} {listed(others)} (on {machine}) {verb} another {name} than "
                f"{than}. Start all of them with the same files, versions and settings."
            )


def table(world: World, values: Sequence[object]) -> Tensor:
    """A number for each value of each process: int64, shape (processes, values)."""
    assert world.total is not None, "there are several processes"
    shape = (world.processes, len(values))
    numbers = torch.zeros(shape, dtype=torch.int64, device=world.device)
    numbers[world.process] = torch.tensor([_number(value) for value in values])
    return world.total(numbers).cpu()


def _number(value: object) -> int:
    """56 bits of a value's hash: the sum over processes stays exact in any integer."""
    text = json.dumps(value, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
