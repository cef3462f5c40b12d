"""The suite `loader`: batches alone, by scripts/bench_loader.py."""

import json
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from benching.found import Found, middle
from launcher import screen

SCRIPT = Path(__file__).resolve().parents[1] / "bench_loader.py"


def loading(asked: Namespace) -> list[Found]:
    """Its own tables, and what was measured."""
    if not (asked.data or asked.photos):
        screen.text("the loader suite needs --data, --photos or both")
        return []
    words = [f"--data={asked.data}"] * bool(asked.data)
    words += [f"--photos={asked.photos}"] * bool(asked.photos)
    words += [f"--windows={asked.windows}"] * bool(asked.windows)
    words += ["--seconds=0.05", "--windows=2"] * asked.quick
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loader.json"
        subprocess.run(
            [sys.executable, str(SCRIPT), *words, "--workers", *map(str, asked.workers),
             f"--json={path}"], check=True,
        )  # fmt: skip
        measured: dict[str, dict[str, dict[str, list[float]]]] = json.loads(path.read_text())
    rates = Found("loader", "images/s", ("loader", "images/s [quartiles]"), raw=measured["rates"])
    for title, columns in measured["rates"].items():
        rates.rows += [(f"{title}: {name}", middle(of, ",.0f")) for name, of in columns.items()]
    ends = Found("loader-ends", "the slowest step around an epoch's end, in median steps",
                 ("loader", "median", "most"), raw=measured["ends"])  # fmt: skip
    for title, columns in measured["ends"].items():
        for name, of in columns.items():
            cells = f"{statistics.median(of):.2f}", f"{max(of):.2f}"
            ends.rows.append((f"{title}: {name}", *cells))
    return [found for found in (rates, ends) if found.rows]
