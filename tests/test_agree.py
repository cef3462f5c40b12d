"""Processes that were started with different things are refused, and told which."""

import threading
from collections.abc import Mapping
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
        self.others: list[list[Tensor]] = []
        self.tables: list[Tensor] = []
        self.watch = self.peers = self
        self.hosts: dict[int, str] = {}

    def total(self, table: Tensor) -> Tensor:
        self.tables.append(table.clone())
        turn = len(self.tables) - 1
        return torch.stack([table, *(other[turn] for other in self.others)]).sum(0)

    def meet(self) -> None:
        self.hosts = dict(enumerate(HOSTS))


HOSTS: list[str] = []


def rows(process: int, processes: int, facts: Mapping[str, object]) -> list[Tensor]:
    """What a process adds to each sum."""
    one = Process(process, processes)

    def total(table: Tensor) -> Tensor:
        one.tables.append(table.clone())
        return table[process].expand_as(table)  # as if all had the same

    one.total = total  # type: ignore[method-assign]
    refuse_differences(cast(World, one), facts)
    return one.tables


def said(facts: list[Mapping[str, object]], hosts: str = "") -> list[str]:
    """What each process says when they all meet; nothing for those that go on."""
    HOSTS[:] = hosts or "a" * len(facts)
    tables = [rows(number, len(facts), own) for number, own in enumerate(facts)]
    answers = []
    for number, own in enumerate(facts):
        one = Process(number, len(facts))
        one.others = tables[:number] + tables[number + 1 :]
        try:
            refuse_differences(cast(World, one), own)
            answers.append("")
        except SettingsError as error:
            answers.append(str(error))
    return answers


def changed(name: str) -> dict[str, Any]:
    return FACTS | {name: "another"}


def test_processes_with_the_same_facts_go_on() -> None:
    assert said([FACTS, dict(FACTS), dict(FACTS)]) == [""] * 3
    assert said([FACTS, FACTS], "ab") == ["", ""], "machines may differ"


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_that_differs_is_named_with_the_process_by_all(name: str) -> None:
    expected = (
        f"process 1 (on the same machine) has another {name} than process 0. Start all of them "
        f"with the same files, versions and settings."
    )
    assert said([FACTS, changed(name), FACTS]) == [expected] * 3


def test_the_machine_of_the_other_process_is_named() -> None:
    (answer, again) = said([FACTS, changed("data")], "ab")
    assert answer.startswith("process 1 (on b) has another data than process 0 (on a).")
    assert again == answer


def test_several_processes_are_named_together() -> None:
    answer, *_ = said([FACTS, changed("lr"), FACTS, changed("lr")], "aaba")
    assert answer.startswith("processes 1, 3 (on the same machine) have another lr")
    answer, *_ = said([FACTS, changed("lr"), FACTS, changed("lr")], "aaab")
    assert answer.startswith("processes 1, 3 (on a, b) have another lr")


def test_when_the_first_is_the_odd_one_the_others_are_named() -> None:
    answer, *_ = said([changed("lr"), FACTS, FACTS])
    assert answer.startswith("processes 1, 2 (on the same machine) have another lr")


@pytest.mark.parametrize(
    ("one", "other"),
    [(0.1, 0.1 + 1e-16), (1, 1.0), (1, True), (0, None), ("1", 1), ([1, 2], [2, 1]), ("", None)],
)  # fmt: skip
def test_values_that_are_nearly_the_same_are_not(one: object, other: object) -> None:
    answers = said([{"x": one}, {"x": other}])
    assert all("another x" in answer for answer in answers)


def test_the_order_of_keys_is_no_difference() -> None:
    assert said([{"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}]) == ["", ""]


def test_a_number_for_a_fact_is_exact_in_any_sum() -> None:
    """Each row is one process's: no other one adds to it; and float64 would hold 53 bits."""
    numbers = [agree._number(value) for value in range(1000)]
    assert len(set(numbers)) == 1000
    assert 0 <= min(numbers) <= max(numbers) < 2**56


def test_a_row_is_one_processs_own() -> None:
    HOSTS[:] = "aaa"
    _, table = rows(1, 3, FACTS)
    assert table.dtype is torch.int64
    assert table.shape == (3, len(FACTS))
    assert not table[0].any()
    assert not table[2].any()
    assert table[1].all()


def test_one_process_alone_agrees_with_itself() -> None:
    class Alone:
        total = None

    refuse_differences(cast(World, Alone()), {"x": object()})


def test_recipes_with_other_hyperparameters_are_named_as_other_recipes() -> None:
    """Their tables would have other widths: the names are compared first."""
    HOSTS[:] = "ab"
    barrier, brought = threading.Barrier(2, timeout=20), {}

    def one(number: int, facts: Mapping[str, object]) -> None:
        process = Process(number, 2)

        def total(table: Tensor) -> Tensor:
            brought[number] = table
            barrier.wait()
            result = brought[0] + brought[1]
            barrier.wait()
            return result

        process.total = total  # type: ignore[method-assign]
        try:
            refuse_differences(cast(World, process), facts)
        except SettingsError as error:
            answers[number] = str(error)

    answers = ["", ""]
    facts = [{"recipe": "a", "lr": 1}, {"recipe": "b", "lr": 1, "momentum": 2}]
    threads = [threading.Thread(target=one, args=(n, facts[n])) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers[0] == answers[1]
    assert answers[0].startswith("process 1 (on b) has another recipe than process 0 (on a)")
