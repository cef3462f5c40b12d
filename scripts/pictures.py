"""The pictures in the README, taken from real runs.

    launcher recipes/fashion_mlp.py dataset=digits batch_size=32 epochs=20 name=digits
    python scripts/pictures.py report digits            # docs/pictures/report.png

The report is drawn by Chromium, at the width of a desktop, in light colours.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from launcher import report
from launcher.find import run_folder

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "pictures"
SIZE: Final = (1280, 1680)
"""Of the report's picture, in pixels; what is below is left out."""
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the picture that is asked for; returns an exit code."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    kinds = parser.add_subparsers(required=True, dest="kind")
    of_report = kinds.add_parser("report", help="the report of a run")
    of_report.add_argument("run")
    found = parser.parse_args(arguments)
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        parser.error(f"a browser is needed: {', '.join(BROWSERS)}; none is there")
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture_of_report(run_folder(found.run), browser, FOLDER / "report.png")
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


if __name__ == "__main__":
    sys.exit(main())
