"""Where a script is told to write: looked at before minutes of measuring."""

from pathlib import Path


def no_place(option: str, path: Path) -> str:
    """Why a file could not be written there, as a sentence; an empty text where it could."""
    if path.parent.is_dir() and not path.is_dir():
        return ""
    return f"{option} {path}: there is no folder {path.parent}, or it is a folder."
