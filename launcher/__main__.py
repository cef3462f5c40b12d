"""`python -m launcher` and `accelerate launch -m launcher`."""

import sys

from launcher.cli import main


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
