"""The name of a run: what the user gave, or made from the recipe, the configs and the changes."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher import secret
from launcher.layers import Given

LONGEST = 80


def derive(recipe: Path, configs: Sequence[Path], hparams: Iterable[Given]) -> str:
    """`cifar_resnet--quick,peak_lr=0.05`: the same command gives the same name.

    Of the hyperparameters only arguments count: a config file stands for its own. A name that is
    longer than 80 characters, or holds others than `A-Za-z0-9._=,+-`, is cut and gets 8 hex digits
    of the SHA-256 of the untouched text.
    """
    last = {
        given.key: secret.redacted(given.key, given.text or "")
        for given in hparams
        if given.source == "argument"
    }
    parts = [config.stem for config in configs]
    parts += [f"{key}={text}" for key, text in sorted(last.items())]
    text = recipe.stem + ("--" + ",".join(parts) if parts else "")
    safe = re.sub(r"[^A-Za-z0-9._=,+-]", "-", text)
    if not re.match(r"[A-Za-z0-9]", safe):
        safe = "run-" + safe
    if safe == text and len(safe) <= LONGEST:
        return safe
    return (
        f"{safe[:LONGEST]}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
    )
