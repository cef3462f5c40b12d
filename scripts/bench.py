"""How fast the launcher trains, side by side with what a user would take instead.

    python scripts/bench.py --data data --photos photos      # the cpu suite
    python scripts/bench.py --suite gpu --data data
    python scripts/bench.py --suite startup                  # until the first step
    python scripts/bench.py --suite loader --data data       # batches alone: bench_loader.py
    python scripts/bench.py --suite scaling                  # samples, classes, processes, metrics
    python scripts/bench.py --suite checkpoint               # what a checkpoint costs
    python scripts/bench.py --suite overhead --data data     # the launcher's own work in a step
    python scripts/bench.py --only lenet-128 --json bench.json --plot bench.png

Each row is a workload, each column a trainer. Before a row is timed, every column trains for some
updates from the same weights; it must have done as many updates on as many samples and have come
to the same test accuracy. The columns then take turns in windows, each with the same threads and
at the number of loader workers that was best for it, so that what else the machine does meets all.
docs/speed.md has the method and the figures. Without --data images are synthetic.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benching.asking import complaint
from benching.found import Found, draw, machine, write_json, write_page
from benching.rows import COLUMNS

from launcher.screen import table

Suite = Callable[[argparse.Namespace], list[Found]]


def suite(name: str) -> Suite:
    """A suite's function; its module is imported now and not before."""
    if name == "cpu":
        from benching.speed import cpu as found
    elif name == "gpu":
        from benching.gpu import gpu as found
    elif name == "startup":
        from benching.startup import startup as found
    elif name == "loader":
        from benching.loading import loading as found
    elif name == "overhead":
        from benching.overhead import overhead as found
    elif name == "scaling":
        from benching.scaling import scaling as found
    else:
        from benching.saving import checkpoint as found
    return found


SUITES = ("cpu", "gpu", "startup", "loader", "scaling", "checkpoint", "overhead")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    made.add_argument("--suite", choices=SUITES, default="cpu")
    made.add_argument("--only", nargs="+", default=[], metavar="ROW", help="of the suite's rows")
    made.add_argument("--columns", nargs="+", default=[], metavar="NAME", choices=COLUMNS,
                      help="of the row's trainers, beside the launcher: all")  # fmt: skip
    made.add_argument("--data", help="a data_dir with CIFAR-10 and Fashion-MNIST")
    made.add_argument("--photos", help="a folder of class folders with photographs")
    made.add_argument("--windows", type=int, help="for each column, instead of the row's")
    made.add_argument("--steps", type=int, help="in a window, instead of the row's")
    made.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="to choose from")
    made.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE",
                      help="run settings of the launcher's column")  # fmt: skip
    made.add_argument("--quick", action="store_true", help="tiny sizes: to see that it works")
    made.add_argument("--json", type=Path, help="write every figure to this file")
    made.add_argument("--markdown", type=Path, metavar="PAGE", help="write the tables into it")
    made.add_argument("--plot", type=Path, metavar="FILE.png")
    return made


def main(arguments: list[str] | None = None) -> int:
    made = parser()
    asked = made.parse_args(arguments)
    if wrong := complaint(asked):
        made.error(wrong)
    table("machine", ("what", "is"), machine().items())
    found = suite(asked.suite)(asked)
    for one in found:
        if not one.bars:  # those show their rows as they come
            one.show()
    if asked.json:
        write_json(asked.json, found)
    if asked.markdown:
        write_page(asked.markdown, found)
    if asked.plot:
        draw(asked.plot, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
