"""The standard streams, to which not everything can be written: a reader may leave (`| head`), the
disk under a log may be full, and whoever began the program may have closed one (`>&-`)."""

import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

import rich.console

from launcher.errors import StorageError


def safe(words: str) -> str:
    """Words without what would control a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in words)


class Console(rich.console.Console):
    """A console that shows `:100:` as it is, and falls silent where nothing can be written any
    more: its reader may leave (`launcher ... | head`), the disk under a log may be full."""

    def __init__(self, *, stderr: bool = False, needed: bool = False, **options: Any) -> None:
        """`needed`: what is written is what the command is for. Then a disk that takes none of it
        is a StorageError."""
        super().__init__(stderr=stderr, emoji=False, highlight=False, **options)
        self._needed = needed

    def on_broken_pipe(self) -> None:
        """Go on in silence, where rich would end the program."""
        self.quiet = True
        _to_nowhere(self.file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Write what is gathered, as `print` does, too."""
        try:
            super().__exit__(kind, error, trace)
        except OSError as problem:
            self._fall_silent(problem)

    def _fall_silent(self, problem: OSError) -> None:
        known, self.quiet = self.quiet, True
        _to_nowhere(self.file)
        why = problem.strerror or problem
        if self._needed:
            raise StorageError(f"the output could not be written: {why}") from problem
        if not self.stderr and not known:
            aside(f"warning: nothing more is shown, standard output could not be written: {why}")


def _to_nowhere(stream: IO[str]) -> None:
    """Python would try to write what the stream still holds at the end, and change the exit code
    when it could not."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def open_what_is_closed() -> None:
    """In place of a standard stream that whoever began this program has closed (`launcher >&-`):
    the next file that is opened would get its number, and what is written to that."""
    for name, way in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, way)  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def flush() -> None:
    """Write what is left, which may be what a recipe has printed: a full disk under it, or a reader
    who left, does not change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # or it is closed
            _to_nowhere(stream)


def aside(words: str) -> None:
    """Text on standard error, if it can be written there."""
    Console(stderr=True, soft_wrap=True).print(safe(words), markup=False)
