"""The suite `loader`: batches alone, by scripts/bench_loader.py."""

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from benching.found import Found
from launcher import screen

SCRIPT = Path(__file__).resolve().parents[1] / "bench_loader.py"


def loading(asked: Namespace) -> list[Found]:
    """Its own tables, and its medians."""
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
        medians: dict[str, dict[str, float]] = json.loads(path.read_text())
    found = Found("loader", "images/s, medians", ("loader", "images/s"), raw=medians)
    for title, columns in medians.items():
        found.rows += [(f"{title}: {name}", f"{rate:,.0f}") for name, rate in columns.items()]
    return [found]
