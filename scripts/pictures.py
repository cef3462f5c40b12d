"""The pictures in the README, taken from real runs.

    launcher recipes/fashion_mlp.py dataset=digits batch_size=32 epochs=20 name=digits
    python scripts/pictures.py report digits            # docs/pictures/report.png
    python scripts/pictures.py terminal recipes/fashion_mlp.py seed=1 --fresh   # terminal.svg

The report is drawn by Chromium, at the width of a desktop, in light colours. The terminal is one of
tmux, looked at while the run goes on.
"""

import argparse
import io
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image
from rich.console import Console
from rich.text import Text

from launcher import report
from launcher.cli import guarded
from launcher.errors import SettingsError
from launcher.find import run_folder

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "pictures"
SIZE: Final = (1280, 1680)
"""Of the report's picture, in pixels; what is below is left out."""
COLUMNS, ROWS = 92, 22
"""Of the terminal."""
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the picture that is asked for; returns an exit code."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    kinds = parser.add_subparsers(required=True, dest="kind")
    of_report = kinds.add_parser("report", help="the report of a run")
    of_report.add_argument("run")
    of_terminal = kinds.add_parser("terminal", help="a run that goes on")
    of_terminal.add_argument("--seconds", type=float, default=20.0, help="after which it is taken")
    found, rest = parser.parse_known_args(arguments)
    if not FOLDER.is_dir():
        parser.error(f"there is no folder {FOLDER} for the picture: make it")
    return guarded(lambda: _take(found, rest))


def _take(found: argparse.Namespace, rest: Sequence[str]) -> int:
    """The picture that is asked for. Raises SettingsError for what is not there."""
    if found.kind == "terminal":
        if shutil.which("tmux") is None:
            raise SettingsError("tmux is needed, and is not there.")
        picture_of_terminal(rest, found.seconds, FOLDER / "terminal.svg")
        return 0
    if rest:
        raise SettingsError(f"pictures.py report takes one run: not {' '.join(rest)}.")
    folder = run_folder(found.run)
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SettingsError(f"a browser is needed: {', '.join(BROWSERS)}; none is there.")
    picture_of_report(folder, browser, FOLDER / "report.png")
    return 0


def picture_of_report(folder: Path, browser: str, target: Path) -> None:
    """The upper part of a run's report as a PNG of 256 colours."""
    with tempfile.TemporaryDirectory() as place:
        page, shot = Path(place) / "report.html", Path(place) / "shot.png"
        page.write_text(report.page_of([(folder, None)]))
        subprocess.run(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--force-color-profile=srgb", f"--window-size={SIZE[0]},{SIZE[1]}",
             f"--screenshot={shot}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        image = Image.open(shot).convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
        image.save(target, optimize=True)


def picture_of_terminal(arguments: Sequence[str], seconds: float, target: Path) -> None:
    """What `python -m launcher ARGUMENTS` shows after some seconds, as an SVG; it is ended then."""
    command = shlex.join([sys.executable, "-m", "launcher", *arguments])
    tmux = ["tmux", "-L", "launcher-picture", "-f", "/dev/null"]
    size = ["-x", f"{COLUMNS}", "-y", f"{ROWS}"]
    subprocess.run([*tmux, "new-session", "-d", "-s", "run", *size, command], check=True)
    try:
        time.sleep(seconds)
        shown = subprocess.run(
            [*tmux, "capture-pane", "-t", "run", "-e", "-p"], check=True, capture_output=True,
            text=True,
        ).stdout  # fmt: skip
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(shown.strip("\n")))
    words = ["launcher", *arguments]
    svg = console.export_svg(title=shlex.join(word for word in words if word != "--fresh"))
    # Without the fonts that rich would have a reader's browser load from elsewhere.
    target.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    sys.exit(main())
