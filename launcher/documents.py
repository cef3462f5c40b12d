"""JSON files of a run: read without torch, by verbs that only look, and written whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from launcher import storage
from launcher.errors import CheckpointError, StorageError

_MOST: Final = 1 << 24


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of ours, or {} when there is none. Raises CheckpointError when it is damaged."""
    try:
        document = json.loads(storage.read(path, most=_MOST))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Move it away.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is damaged: it holds no record. Move it away.")
    return document


def write_json(path: Path, document: Mapping[str, Any], indent: int | None = 1) -> None:
    """Put a JSON file in the place of the old one, whole. Raises StorageError."""
    storage.replace(path, json.dumps(document, indent=indent, allow_nan=False).encode() + b"\n")
