"""outcome.json: how a run's last evaluation came out, sample by sample where that can be told.

    format      1
    step        the evaluation was made after so many steps
    classes     their names; [] for regression
    scores      test/loss, test/accuracy, test/accuracy/<class>, ...; null for what is not finite
    confusion   counts: rows are the true classes, columns the predicted ones; null when there are
                no classes or more than 100, or when the model's output is no (samples, classes)
    mistakes    the most confident ones first, at most 24
    samples     at most 24, spread evenly over the test split

A mistake or a sample is {index, label, predicted, probability, picture}: probability is that of the
predicted class, null if it is not finite; picture is the sample as its source has it, as a PNG in a
data URL, at most 96 pixels on a side, null for what is no picture.

Equal runs have equal files. `launcher.judge` makes them, from a model and data; this file reads
and writes them without torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from launcher.documents import read_json, write_json
from launcher.errors import CheckpointError

NAME: Final = "outcome.json"
FORMAT: Final = 1


def read(folder: Path) -> dict[str, Any] | None:
    """The outcome in a run's folder; None when there is none. Raises CheckpointError for one that
    is damaged or of another format."""
    document = read_json(folder / NAME)
    if not document:
        return None
    if document.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / NAME} has the format {document.get('format')!r}, and this launcher reads "
            f"{FORMAT}. Move it away; launcher evaluate takes the scores again."
        )
    return document


def write(folder: Path, document: Mapping[str, Any]) -> None:
    """Put an outcome into a run's folder, whole. Raises StorageError."""
    write_json(folder / NAME, document, indent=None)
