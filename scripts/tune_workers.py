"""How many loader processes a run should have, measured on this machine.

    python scripts/tune_workers.py                                  # every recipe with data here
    python scripts/tune_workers.py recipes/mine.py batch_size=64    # as this run would have it
    python scripts/tune_workers.py recipes/mine.py --plot it.png --seconds 30
    python scripts/tune_workers.py recipes/mine.py --pure-loader    # the classic sweep
    python scripts/tune_workers.py recipes/mine.py --exhaustive     # how near the answer comes
    torchrun --nproc_per_node 2 scripts/tune_workers.py recipes/mine.py

Candidates are 0, 1, 2, 4 ... workers up to the cores of each process (`--up-to N`: a source that
waits for a network profits from more). The answer is the fewest with which training is within 3 %
of its fastest. It is kept, unless the figures show that the machine was busy, in the user's cache
folder for this machine, source, recipe with its hyperparameters, micro-batch size, processes and
threads: a run with workers=auto takes it and says so in its banner. Several processes measure
together, without exchanging gradients. Nothing is downloaded without a recipe's name; data in
memory needs no workers and keeps no answer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tuning
import tuning_report as report
import tuning_sweeps as sweeps
from tuning_windows import Bench, Model

from launcher import cli, describe, download, settings, sources, tuned
from launcher.build import Parts, build
from launcher.connect import connect
from launcher.data import Data, Drawn, Source
from launcher.errors import INTERRUPTED, DataError, LauncherError, SettingsError
from launcher.explain import explained
from launcher.launch import read
from launcher.loader import Origin
from launcher.recipe import call
from launcher.run import prepare
from launcher.screen import refuse, table

ROOT = Path(__file__).resolve().parent.parent
ALWAYS = [("cifar_lenet.py", "dataset=digits"), ("cifar_lenet.py", "dataset=synthetic")]
SWITCHES = ("--pure-loader", "--exhaustive")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise SettingsError(f"{message}. scripts/tune_workers.py --help lists the switches.")


def parse(given: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The switches, and the rest: a recipe and settings. Raises SettingsError."""
    parser = _Parser(
        description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60.0, help="for each recipe (60)")
    parser.add_argument("--up-to", type=int, help="most workers of a process (its cores)")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="a picture of the table")
    parser.add_argument("--pure-loader", action="store_true", help="one pass for each setting")
    parser.add_argument("--exhaustive", action="store_true",
                        help="also train an epoch with every setting, and compare")  # fmt: skip
    asked, rest = parser.parse_known_args(given)
    if not 0 < asked.seconds <= 86400:
        raise SettingsError(f"--seconds {asked.seconds:g}: give more than 0 and at most 86400.")
    if asked.up_to is not None and not 0 <= asked.up_to <= tuned.MOST_WORKERS:
        raise SettingsError(f"--up-to {asked.up_to}: give 0 to {tuned.MOST_WORKERS}.")
    if asked.pure_loader and asked.exhaustive:
        raise SettingsError("--pure-loader and --exhaustive are two sweeps: give one.")
    if asked.plot is not None:
        report.can_plot(asked.plot)
    if any(word.startswith("workers=") for word in rest):
        raise SettingsError("workers= is what is measured here: leave it out.")
    for word in rest:
        if word.startswith("-") and not word.startswith("--config"):
            raise SettingsError(f"{word} is no switch of scripts/tune_workers.py: see --help.")
    return asked, rest


def one(asked: argparse.Namespace, given: Sequence[str]) -> report.Document:
    """Tune for one command; what was found, in every process."""
    request, _ = cli.parse(given)
    loaded, hparams, _ = prepare(request)
    world = connect(request.launch, hparams, request.settings)
    parts: Parts | None = None
    with ExitStack() as held:
        held.callback(world.close)
        try:
            parts = build(loaded, hparams, request.settings, world)
            show = held.enter_context(report.Show(" ".join(given), shown=world.is_main))
            about = {
                "recipe": str(given[0]), "settings": list(given[1:]),
                "device": describe.device_name(world.device), "processes": world.processes,
                "threads": world.threads, "micro_batch_size": parts.plan.micro_batch_size,
            }  # fmt: skip
            cores = len(os.sched_getaffinity(0)) // request.launch.local_processes
            workers = tuning.candidates(max(1, cores) if asked.up_to is None else asked.up_to)
            return about | measure(asked, parts, workers, show, held)
        except Exception as error:
            raise explained(loaded.path, hparams, parts, error) from error


def measure(
    asked: argparse.Namespace, parts: Parts, workers: list[int], show: report.Show, held: ExitStack
) -> report.Document:
    """The sweep or the tuning that was asked for."""
    source = parts.data.train.source
    drawn = isinstance(source, Drawn)
    swept = source if drawn or parts.resident else sweeps.OneByOne(source)
    everywhere = workers if not parts.resident else [0]
    if asked.pure_loader:
        passes = sweeps.passes(_bench(parts, swept, held), everywhere, show)
        return {"passes": [report.row(lane) | {"seconds": took} for lane, took in passes]}
    model = Model(parts)
    bench = _bench(parts, source, held)
    found = tuning.tune(bench, model, workers if drawn else [0], asked.seconds, show)
    result = report.answer(found, in_memory=not drawn)
    result |= {"at": None, "stored": None}
    if drawn and parts.world.is_main and not found.contradicts_itself:
        result |= _store(parts, found)
    if asked.exhaustive:
        began = time.monotonic()
        rows = sweeps.exhaustive(_bench(parts, swept, held), model, everywhere, show)
        result["exhaustive"] = report.against(rows, time.monotonic() - began, result)
    return result


def _bench(parts: Parts, source: Source, held: ExitStack) -> Bench:
    origin = Origin(
        path=parts.loaded.path, sha256=parts.loaded.sha256, part="train",
        hparams=json.dumps(settings.as_json(parts.hparams)),
        data_dir=Path(parts.settings.data_dir),
    )  # fmt: skip
    bench = Bench(parts, source, origin)
    held.callback(bench.close)
    return bench


def _store(parts: Parts, found: tuning.Found) -> report.Document:
    at = time.strftime("%Y-%m-%d %H:%M")
    rate = statistics.median(found.chosen.alone)
    name = tuned.key(parts.loaded, parts.hparams, parts.data, parts.plan, parts.world)
    tuned.store(name, tuned.Tuned(found.chosen.workers, found.prefetch, rate, at))
    return {"at": at, "stored": str(tuned.place())}


def everything(asked: argparse.Namespace, given: Sequence[str]) -> tuple[report.Document, int]:
    """Tune for every recipe whose data is there, each in a process of its own."""
    if read().processes > 1:
        raise SettingsError("several processes tune for one recipe: give it, RECIPE.py.")
    jobs = [(path, list(given)) for path in sorted((ROOT / "recipes").glob("*.py"))]
    jobs += [(ROOT / "recipes" / name, [word, *given]) for name, word in ALWAYS]
    document: report.Document = {"results": [], "left_out": []}
    worst = 0
    for path, words in jobs:
        name = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
        reason = missing(path, words)
        if not reason:
            command = [sys.executable, __file__, name, *words, "--json"]
            command += ["--seconds", f"{asked.seconds}"]
            command += [] if asked.up_to is None else ["--up-to", f"{asked.up_to}"]
            command += [word for word in SWITCHES if getattr(asked, word[2:].replace("-", "_"))]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            if done.returncode == 0:
                document["results"] += json.loads(done.stdout)["results"]
                continue
            worst = done.returncode
            reason = f"it ended with code {worst}: see above"
        document["left_out"].append({"recipe": name, "settings": words, "reason": reason})
    return document, worst


def missing(path: Path, words: Sequence[str]) -> str:
    """Why a recipe cannot be tuned for, as when its data is not here; nothing when it can."""
    return copy_context().run(_missing, path, words)


def _missing(path: Path, words: Sequence[str]) -> str:
    try:
        request, _ = cli.parse([str(path), *words])
        loaded, hparams, _ = prepare(request)
        sources.data_dir.set(Path(request.settings.data_dir))
        download.allowed.set(False)
        call(loaded, "data", Data, hparams)
    except DataError as error:
        return str(error)
    except LauncherError as error:
        return f"{error.title}: {error}"
    return ""


def show(asked: argparse.Namespace, document: report.Document) -> None:
    """The tables, or the document; and the picture."""
    if asked.json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        for result in document["results"]:
            report.table(result)
        if left := document["left_out"]:
            rows = [(report.title(job), job["reason"]) for job in left]
            table("left out", ("recipe", "why"), rows)
    if asked.plot is not None and document["results"]:
        report.plot(document["results"], asked.plot)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune, show and keep; the exit code, as of the launcher."""
    is_main = os.environ.get("RANK", "0") == "0"
    code = 0
    try:
        asked, rest = parse(sys.argv[1:] if arguments is None else arguments)
        if all("=" in word and not word.startswith("-") for word in rest):
            document, code = everything(asked, rest)
        else:
            document = {"results": [one(asked, rest)], "left_out": []}
        document["torch"] = torch.__version__
        if is_main:
            show(asked, document)
    except LauncherError as error:
        if is_main:
            sys.stderr.write(error.frames)
            refuse(error)
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
