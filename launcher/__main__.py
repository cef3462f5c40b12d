"""`python -m launcher` and `accelerate launch -m launcher`."""

import os
import sys
import threading
from contextlib import suppress

from launcher import early

_GRACE = 5.0
"""Seconds that threads of a recipe have to end when the run is over."""


def run() -> None:
    """The console script. It ends though a recipe has left threads that do not."""
    early.take()
    try:
        from launcher.cli import main  # half a second, in which a signal may come

        code = main()
    finally:
        early.give_way()
    left = [thread for thread in threading.enumerate() if not thread.daemon]
    if len(left) > 1:  # this one
        timer = threading.Timer(_GRACE, _leave, [code])
        timer.daemon = True
        timer.start()
    sys.exit(code)


def _leave(code: int) -> None:
    words = "threads that the recipe started still run: the program ends without them\n"
    with suppress(OSError):  # nobody reads
        sys.stderr.write(words)
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
