"""Handwritten digits that are always there: 1,797 real images of 8 x 8, inside scikit-learn.

Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository 1998;
scikit-learn ships its test part. The file is read without importing scikit-learn, which would take
seconds.
"""

import gzip
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from launcher.errors import DataError
from launcher.sources.arrays import Arrays

ROWS = 1797


def digits(split: Literal["train", "test"]) -> Arrays:
    """1,438 training or 359 test images of 1 x 8 x 8; test is every fifth, `index % 5 == 4`.

    Raises DataError when scikit-learn or its file is not there.
    """
    table = _table()
    test = np.arange(ROWS) % 5 == 4
    rows = table[test if split == "test" else ~test]
    grey = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return Arrays.of(grey, rows[:, 64], tuple("0123456789"))


def _table() -> NDArray[np.uint8]:
    """64 grey levels from 0 to 16 and the digit, for each image: uint8, (1797, 65)."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("dataset=digits is a file of scikit-learn: pip install scikit-learn.")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        text = gzip.decompress(path.read_bytes())
        table = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), np.uint8)
        return table.reshape(ROWS, 65)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. Reinstall scikit-learn.") from error
