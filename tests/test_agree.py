"""Processes that were started with different things are refused, and told which."""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from launcher import agree
from launcher.agree import refuse_differences
from launcher.errors import SettingsError
from launcher.strategy import World

FACTS: dict[str, Any] = {"recipe": "ab12", "lr": 0.1, "betas": [0.9, 0.99], "data": {"train": "c"},
                         "epochs": 3, "precision": None, "nesterov": True}  # fmt: skip


class Process:
    """One of several processes, as `refuse_differences` sees it."""

    device = torch.device("cpu")

    def __init__(self, process: int, processes: int) -> None:
        self.process, self.processes = process, processes
        self.others: list[Tensor] = []
        self.table: Tensor | None = None

    def total(self, table: Tensor) -> Tensor:
        self.table = table.clone()
        return torch.stack([table, *self.others]).sum(0)


Host = Callable[[str], None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Puts the processes that are made next on a machine of that name."""
    return lambda name: monkeypatch.setattr(socket, "gethostname", lambda: name)


def row(process: int, processes: int, facts: Mapping[str, object]) -> Tensor:
    """What a process adds to the sum."""
    one = Process(process, processes)
    with suppress(SettingsError):  # alone in its sum, it differs from the others' zeros
        refuse_differences(cast(World, one), facts)
    assert one.table is not None
    return one.table


def said(facts: list[Mapping[str, object]], host: Host, hosts: str = "") -> list[str]:
    """What each process says when they all meet; nothing for those that go on."""
    hosts = hosts or "a" * len(facts)
    rows = []
    for number, own in enumerate(facts):
        host(hosts[number])
        rows.append(row(number, len(facts), own))
    answers = []
    for number, own in enumerate(facts):
        host(hosts[number])
        one = Process(number, len(facts))
        one.others = rows[:number] + rows[number + 1 :]
        try:
            refuse_differences(cast(World, one), own)
            answers.append("")
        except SettingsError as error:
            answers.append(str(error))
    return answers


def changed(name: str) -> dict[str, Any]:
    return FACTS | {name: "another"}


def test_processes_with_the_same_facts_go_on(host: Host) -> None:
    assert said([FACTS, dict(FACTS), dict(FACTS)], host) == [""] * 3
    assert said([FACTS, FACTS], host, "ab") == ["", ""], "machines may differ"


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_that_differs_is_named_with_the_process_by_all(host: Host, name: str) -> None:
    expected = (
        f"process 1 (on the same machine) has another {name} than process 0. Start all of them "
        f"with the same files and settings."
    )
    assert said([FACTS, changed(name), FACTS], host) == [expected] * 3


def test_the_machine_of_the_other_process_is_named_as_another(host: Host) -> None:
    (answer, again) = said([FACTS, changed("data")], host, "ab")
    assert answer.startswith("process 1 (on another machine) has another data than process 0.")
    assert again == answer


def test_several_processes_are_named_together(host: Host) -> None:
    answer, *_ = said([FACTS, changed("lr"), FACTS, changed("lr")], host, "aaba")
    assert answer.startswith("processes 1, 3 (on the same machine) have another lr")
    answer, *_ = said([FACTS, changed("lr"), FACTS, changed("lr")], host, "aaab")
    assert answer.startswith("processes 1, 3 (on another machine) have another lr")


def test_when_the_first_is_the_odd_one_the_others_are_named(host: Host) -> None:
    answer, *_ = said([changed("lr"), FACTS, FACTS], host)
    assert answer.startswith("processes 1, 2 (on the same machine) have another lr")


@pytest.mark.parametrize(
    ("one", "other"),
    [(0.1, 0.1 + 1e-16), (1, 1.0), (1, True), (0, None), ("1", 1), ([1, 2], [2, 1]), ("", None)],
)  # fmt: skip
def test_values_that_are_nearly_the_same_are_not(host: Host, one: object, other: object) -> None:
    answers = said([{"x": one}, {"x": other}], host)
    assert all("another x" in answer for answer in answers)


def test_the_order_of_keys_is_no_difference(host: Host) -> None:
    assert said([{"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}], host) == ["", ""]


def test_a_number_for_a_fact_is_exact_in_any_sum() -> None:
    """Each row is one process's: no other one adds to it; and float64 would hold 53 bits."""
    numbers = [agree._number(value) for value in range(1000)]
    assert len(set(numbers)) == 1000
    assert 0 <= min(numbers) <= max(numbers) < 2**56


def test_a_row_is_one_processs_own(host: Host) -> None:
    host("a")
    table = row(1, 3, FACTS)
    assert table.dtype is torch.int64
    assert table.shape == (3, len(FACTS) + 1)
    assert not table[0].any()
    assert not table[2].any()
    assert table[1].all()


def test_one_process_alone_agrees_with_itself() -> None:
    class Alone:
        total = None

    refuse_differences(cast(World, Alone()), {"x": object()})
