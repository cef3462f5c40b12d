"""A store that does not answer: nobody waits for it for ever."""

import threading

import pytest
from conftest import HANGS

from launcher.answers import PatientStore


class Silent:
    """A store behind a cut cable, until it is mended."""

    def __init__(self) -> None:
        self.mended = threading.Event()
        self.questions = 0

    def check(self, keys: list[str]) -> bool:
        self.questions += 1
        return self.mended.wait(HANGS)


class Broken:
    def set(self, key: str, value: str) -> None:
        raise RuntimeError("Broken pipe")


def test_what_does_not_answer_is_lost_and_not_asked_again() -> None:
    silent = Silent()
    store = PatientStore(silent, longest=0.1)
    try:
        for _ in range(20):
            with pytest.raises(OSError, match="did not answer"):
                store.check(["a"])
    finally:
        silent.mended.set()
    assert store.lost
    assert silent.questions == 1


def test_an_answer_is_passed_on() -> None:
    silent = Silent()
    silent.mended.set()
    assert PatientStore(silent).check(["a"]) is True


def test_an_error_of_the_store_is_passed_on() -> None:
    store = PatientStore(Broken())
    with pytest.raises(RuntimeError, match="Broken pipe"):
        store.set("a", "b")
    assert not store.lost
