"""The store through which processes met, with an end to every wait.

Torch's client waits for an answer without a limit of its own: to a machine whose cable is cut it
waits for ever, and so does every other thread that has a question. Here a question is asked on a
thread, and whoever asked goes on without it.
"""

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

Answer = TypeVar("Answer")
LONGEST: Final = 10.0
"""Seconds for an answer."""


class PatientStore:
    """A store of torch, whose methods raise OSError when no answer came in time. From then on they
    raise it at once: what is lost once is not waited for again."""

    def __init__(self, store: Any, longest: float = LONGEST) -> None:
        self._store, self._longest = store, longest
        self.lost = False

    def set(self, key: str, value: str) -> None:
        """Raises OSError or RuntimeError, as all of these do."""
        self._ask(lambda: self._store.set(key, value))

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""
        return self._ask(lambda: bytes(self._store.get(key)))

    def check(self, keys: list[str]) -> bool:
        """Whether all of these are there."""
        return self._ask(lambda: bool(self._store.check(keys)))

    def compare_set(self, key: str, expected: str, value: str) -> None:
        """Set a key that still has the expected value, or has none."""
        self._ask(lambda: self._store.compare_set(key, expected, value))

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        if self.lost:
            raise OSError("the store did not answer")
        answers: list[Answer] = []
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                answers.append(question())
            except BaseException as error:  # it belongs to whoever asked
                errors.append(error)

        thread = threading.Thread(target=ask, name="store", daemon=True)
        thread.start()
        thread.join(self._longest)
        if errors:
            raise errors[0]
        if not answers:
            self.lost = True
            raise OSError("the store did not answer")
        return answers[0]
