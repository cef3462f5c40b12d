"""The tuner's answers: what each is for, and a file that anybody may have written to."""

import json
import multiprocessing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from launcher import sources, tuned
from launcher.data import Data, Split
from launcher.plan import Plan
from launcher.recipe import Loaded
from launcher.settings import Hparams
from launcher.strategy import World
from launcher.tuned import Tuned, key, lookup, place, store

ANSWER = Tuned(workers=3, prefetch=4, rate=123.5, at="2026-01-02 03:04")


@dataclass(frozen=True, kw_only=True)
class Fields(Hparams):
    epochs: int = 3
    batch_size: int = 16
    size: int = 32


@dataclass(frozen=True)
class Here:
    """What a key takes of a world."""

    processes: int = 1
    threads: int = 2


@dataclass
class Facts:
    """Everything that a key is made of."""

    source: bytes = b"recipe = 1"
    hparams: Fields = field(default_factory=Fields)
    samples: int = 64
    micro_batch_size: int = 16
    world: Here = field(default_factory=Here)

    def key(self) -> str:
        split = Split(sources.synthetic("train", self.samples, (1, 4, 4), 4))
        plan = Plan.of(self.hparams, self.samples)
        return key(
            Loaded(cast(Any, None), Path("r.py"), self.source), self.hparams,
            Data(train=split, test=split), replace(plan, micro_batch_size=self.micro_batch_size),
            cast(World, self.world),
        )  # fmt: skip


CHANGES = {
    "recipe": Facts(source=b"recipe = 2"),
    "transform": Facts(hparams=Fields(size=64)),
    "source": Facts(samples=80),
    "micro-batch": Facts(micro_batch_size=8),
    "processes": Facts(world=Here(processes=2)),
    "threads": Facts(world=Here(threads=1)),
}


def test_equal_facts_have_equal_keys() -> None:
    assert Facts().key() == Facts().key()


@pytest.mark.parametrize("change", CHANGES)
def test_another_fact_is_another_key(change: str) -> None:
    assert CHANGES[change].key() != Facts().key()


def test_what_does_not_change_loading_keeps_the_answer() -> None:
    assert Facts(hparams=Fields(seed=7, epochs=9)).key() == Facts().key()


def test_another_machine_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Facts().key()
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    other = Facts().key()
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(99)))
    assert len({before, other, Facts().key()}) == 3


def test_an_answer_is_found_again_beside_others() -> None:
    assert lookup("a") is None
    store("a", ANSWER)
    store("b", Tuned(workers=1))
    store("a", replace(ANSWER, workers=2))
    assert lookup("a") == replace(ANSWER, workers=2)
    assert lookup("b") == Tuned(workers=1)
    assert lookup("c") is None
    assert place().stat().st_mode & 0o777 == 0o600


def _store_some(first: int) -> None:
    for number in range(first, first + 20):
        store(f"{number}", Tuned(workers=number))


def test_tuners_that_end_together_lose_no_answer() -> None:
    processes = [
        multiprocessing.get_context("fork").Process(target=_store_some, args=(20 * number,))
        for number in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [lookup(f"{number}") for number in range(60)] == [Tuned(workers=n) for n in range(60)]


WHOLE = {"workers": 2, "prefetch": 2, "rate": 1.0, "at": "now"}
HOSTILE: dict[str, Any] = {
    "a list": [1],
    "a text": "2",
    "nothing": {},
    "a missing value": {"workers": 2},
    "a thousand processes": WHOLE | {"workers": 10**9},
    "fewer than none": WHOLE | {"workers": -1},
    "a share of a process": WHOLE | {"workers": 1.5},
    "true": WHOLE | {"workers": True},
    "words": WHOLE | {"workers": "2"},
    "no prefetch": WHOLE | {"prefetch": 0},
    "no rate": WHOLE | {"rate": "fast"},
    "a control character": WHOLE | {"at": "\x1b[2J"},
    "a long date": WHOLE | {"at": "x" * 1000},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_answer_that_nobody_stored_is_none(what: str) -> None:
    place().parent.mkdir()
    place().write_text(json.dumps({"a": HOSTILE[what]}))
    assert lookup("a") is None


def test_a_whole_answer_written_by_hand_is_taken() -> None:
    """The negative control."""
    place().parent.mkdir()
    place().write_text(json.dumps({"a": WHOLE | {"more": 1}}))
    assert lookup("a") == Tuned(workers=2, prefetch=2, rate=1.0, at="now")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b"[" * 100_000])
def test_a_damaged_file_is_no_answer_and_is_written_anew(content: bytes) -> None:
    place().parent.mkdir()
    place().write_bytes(content)
    assert lookup("a") is None
    store("a", ANSWER)
    assert lookup("a") == ANSWER


def test_no_link_is_followed() -> None:
    store("a", ANSWER)
    place().rename(place().with_name("elsewhere"))
    place().symlink_to(place().with_name("elsewhere"))
    assert lookup("a") is None


def test_a_user_without_a_home_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert tuned.lookup("a") is None
