"""What differs between the attempts at a run: why its bits may not be those of one that was never
stopped. Read by the banner and by reports, without torch."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from launcher.layers import scalar

_NO_FACTS: Final = {"from_step", "at", "host", "ended", "identity", "data"}
_TECHNICAL: Final = (
    "Samples, order, augmentation and dropout are the same; sums may differ by rounding."
)
_LEARNED: Final = "What is learned is something else from there on."


def changes(attempts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each attempt has otherwise than the one before it, with the step it began at."""
    found = list(_lost(attempts))
    for before, now in pairwise(attempts):
        learned = dict(_learned(before, now))
        facts = {
            key: f"{key} {_brief(before[key])} -> {_brief(now[key])}"
            for key in before
            if key in now and key not in _NO_FACTS | learned.keys() and before[key] != now[key]
        }
        step = now.get("from_step", 0)
        found += [f"{change} at step {step}" for change in (learned | facts).values()]
    return found


def consequence(attempts: Sequence[Mapping[str, Any]]) -> str:
    """What the changes mean: only where the same things are learned is anything the same."""
    other = any(True for pair in pairwise(attempts) for _ in _learned(*pair))
    return _LEARNED if other or any(_lost(attempts)) else _TECHNICAL


def _lost(attempts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A run begins at step 0: where its first attempt did not, the account of those before it is
    gone."""
    if attempts and (step := attempts[0].get("from_step")):
        yield f"run.json was lost, so that it is not known what was learned before step {step}"


def _learned(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was changed by --allow-change, by name."""
    old, new = before.get("identity", {}), now.get("identity", {})
    for key in [*old, *(key for key in new if key not in old)]:
        if old.get(key) == new.get(key):
            continue
        if key == "recipe":  # known by its hash
            yield key, "the recipe is another"
        else:
            yield key, f"{key} {_brief(old.get(key))} -> {_brief(new.get(key))}"
    if before.get("data") != now.get("data"):
        yield "data", "the data is another"


def _brief(value: object) -> str:
    return scalar(value) if isinstance(value, bool) or value is None else str(value)
