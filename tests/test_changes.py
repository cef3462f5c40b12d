"""What differs between the attempts at a run."""

from typing import Any

from launcher.changes import changes, consequence


def attempt(step: int, identity: dict[str, Any] | None = None, **facts: object) -> dict[str, Any]:
    data = facts.pop("data", {"train": "a"})
    return {"from_step": step, "at": f"{step}", "identity": identity or {}, "data": data, **facts}


def test_each_attempt_is_compared_with_the_one_before_it() -> None:
    """Every change stands once, with its step, and so does the way back."""
    attempts = [
        attempt(0, processes=1, threads=2),
        attempt(66, processes=2, threads=1),
        attempt(99, processes=2, threads=1),
        attempt(700, processes=1, threads=1),
    ]
    assert changes(attempts) == [
        "processes 1 -> 2 at step 66",
        "threads 2 -> 1 at step 66",
        "processes 2 -> 1 at step 700",
    ]
    assert consequence(attempts).startswith("Samples, order, augmentation and dropout are the same")


def test_nothing_is_the_same_once_something_else_was_learned() -> None:
    first = {"recipe": "ab", "lr": 0.1, "ema": None, "old": True}
    attempts = [
        attempt(0, first),
        attempt(5, {"recipe": "cd", "lr": 0.1, "ema": 0.9, "new": "x"}),
        attempt(9, {"recipe": "cd", "lr": 0.1, "ema": 0.9, "new": "x"}, data={"train": "b"}),
    ]
    assert changes(attempts) == [
        "the recipe is another at step 5",
        "ema none -> 0.9 at step 5",
        "old true -> none at step 5",
        "new none -> x at step 5",
        "the data is another at step 9",
    ]
    for several in (attempts, attempts[:2], attempts[1:]):
        assert consequence(several) == "What is learned is something else from there on."


def test_a_hyperparameter_that_is_a_fact_too_stands_once() -> None:
    attempts = [
        attempt(0, {"precision": None}, precision="no"),
        attempt(5, {"precision": "bf16"}, precision="bf16"),
    ]
    assert changes(attempts) == ["precision none -> bf16 at step 5"]


def test_what_an_older_version_did_not_note_is_no_change() -> None:
    assert changes([attempt(0), attempt(5, graphs="auto")]) == []


def test_an_account_that_begins_in_the_middle_says_so() -> None:
    (said,) = changes([attempt(7)])
    assert said == "run.json was lost, so that it is not known what was learned before step 7"
    assert consequence([attempt(7)]) == "What is learned is something else from there on."
