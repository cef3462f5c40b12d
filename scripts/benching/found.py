"""What a suite found, as a table for people, a file for programs, a page and a picture."""

import json
import os
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from launcher import screen

PACKAGES = ("torch", "torchvision", "accelerate", "lightning", "pytorch-ignite", "timm")


@dataclass
class Found:
    """One table. Its rows are known by their first cell."""

    key: str
    """Of its section in a page."""
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    """All figures, for programs."""
    bars: dict[str, dict[str, float]] = field(default_factory=dict)
    """For the picture: by row and column, of the launcher's rate."""

    def show(self) -> None:
        screen.table(self.title, self.columns, self.rows)


def middle(values: Sequence[float], digits: str) -> str:
    """The median of some values, and their quartiles, in a format."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:{digits}} [{low:{digits}} to {high:{digits}}]"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    about = {
        "processor": _processor(),
        "cores": f"{len(os.sched_getaffinity(0))}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    for package in PACKAGES:
        try:
            about[package] = version(package)
        except PackageNotFoundError:
            about[package] = "not installed"
    return about


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = re.findall(r"model name\s*:\s*(.+)", text)
    return names[0] if names else platform.machine()


def write_json(path: Path, tables: Sequence[Found]) -> None:
    """Every figure with the machine it was taken on."""
    document = {"machine": machine(), "tables": {found.key: found.raw for found in tables}}
    path.write_text(json.dumps(document, indent=1))


def write_page(path: Path, tables: Sequence[Found]) -> None:
    """Put the tables into their sections of a page, between `<!-- bench KEY -->` and
    `<!-- end KEY -->`. Rows that were not measured this time stay as they are.

    Raises ValueError for a page that has no such section.
    """
    page = path.read_text()
    for found in tables:
        begin, end = f"<!-- bench {found.key} -->\n", f"<!-- end {found.key} -->"
        if begin not in page or end not in page:
            raise ValueError(f"{path} has no section {begin.strip()} ... {end}.")
        before, _, rest = page.partition(begin)
        old, _, after = rest.partition(end)
        rows = {row[0]: row for row in _rows_of(old) if len(row) == len(found.columns)}
        rows |= {row[0]: row for row in found.rows}
        about = machine()
        taken = f"{about['processor']}, {about['cores']} cores, {about['device']}; " + ", ".join(
            f"{package} {about[package]}" for package in PACKAGES
        )
        lines = [_line(found.columns), _line(["---"] * len(found.columns))]
        lines += [_line(row) for row in rows.values()]
        page = f"{before}{begin}{chr(10).join(lines)}\n\nLast written on: {taken}.\n{end}{after}"
    path.write_text(page)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rows_of(text: str) -> list[tuple[str, ...]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


def draw(path: Path, tables: Sequence[Found]) -> None:
    """A picture: for each row one bar a column, the launcher being 1."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [(row, bars) for found in tables for row, bars in found.bars.items()]
    if not rows:
        return
    figure, axes = pyplot.subplots(
        len(rows), 1, figsize=(8, 1.0 + 1.5 * len(rows)), layout="constrained", squeeze=False
    )
    for axis, (row, bars) in zip(axes[:, 0], rows, strict=True):
        names = [*bars][::-1]
        colours = ["#1f77b4" if name == "launcher" else "#bbbbbb" for name in names]
        drawn = axis.barh(names, [bars[name] for name in names], color=colours)
        axis.bar_label(drawn, fmt="%.2f", padding=2, fontsize=8)
        axis.set_title(row, fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.set_xlim(0, 1.15 * max(bars.values()))
    figure.supxlabel("rate, the launcher being 1", fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
