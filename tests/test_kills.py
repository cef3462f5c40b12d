"""Kills at random instants, in short: `scripts/torture.py kills` does a thousand of them."""

import pytest
from faults.account import begun, committed
from faults.kills import lay


def test_what_a_run_says_is_read_from_whole_lines() -> None:
    lines = [
        "run: continues at step 14 of 440",
        "checkpoint step=21 committed",
        "checkpoint step=2",
    ]
    assert begun(lines) == 14
    assert begun(["run: fresh"]) == 0
    assert begun(["run: finished at step 440"]) is None
    assert committed(lines) == [21]


@pytest.mark.slow
def test_kills_of_one_process_change_nothing() -> None:
    (tally,) = lay(seed=5, count=12, only="mlp, 1").values()
    assert not tally.violations
    assert tally.kills.total() == 12
    assert tally.chains
    assert tally.committed > 60  # the steps of a run, 7 at a time


@pytest.mark.slow
def test_kills_of_one_process_of_two_or_of_both_change_nothing() -> None:
    (tally,) = lay(seed=5, count=4, only="mlp, 2").values()
    assert not tally.violations
    assert tally.kills.total() == 4
    assert tally.chains


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without", "kind"),
    [("optimizer", "torn"), ("seeds", "torn"), ("restore", "restart"), ("rename", "torn")],
)
def test_a_mechanism_that_is_off_is_noticed(without: str, kind: str) -> None:
    (tally,) = lay(seed=5, count=60, only="mlp, 1", without=(without,), until=kind).values()
    assert tally.violations[kind]
