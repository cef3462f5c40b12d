"""run.json and status.json for who continues a run: with the types that are relied on.

Whoever only looks reads them with `documents`, and without pydantic.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from launcher.documents import read_json
from launcher.errors import CheckpointError


def read_run(folder: Path) -> dict[str, Any]:
    """A folder's run.json, with types that whoever continues the run can rely on; {} when there is
    none. Raises CheckpointError."""
    return _checked(folder / "run.json", _Run)


def read_status(folder: Path) -> dict[str, Any]:
    """The same of status.json."""
    found = _checked(folder / "status.json", _Status)
    if found.get("state") == "finished" and not found.get("result"):
        raise CheckpointError(
            f"{folder / 'status.json'} is damaged: it says that the run finished, and names no "
            f"result. Move it away."
        )
    return found


class _Attempt(BaseModel, strict=True):
    from_step: int = 0
    identity: dict[str, Any] = {}


class _Setting(BaseModel, strict=True):
    value: Any


class _Run(BaseModel, strict=True):
    """What is relied on of run.json: there may be more, and an older version may have less."""

    identity: dict[str, Any] = {}
    modules: dict[str, str] = {}
    began_with: str = ""
    hyperparameters: dict[str, _Setting] = {}
    micro_batch_size: int | None = Field(None, ge=1)
    attempts: list[_Attempt] = []


class _Best(BaseModel, strict=True):
    step: int
    scores: dict[str, float | None]


class _Result(BaseModel, strict=True):
    scores: dict[str, float | None]
    best: _Best | None


class _Status(BaseModel, strict=True):
    """The same of status.json."""

    state: str = ""
    code: int = 0
    reason: str = ""
    step: int | None = None
    last_committed_step: int | None = None
    failures: int = 0
    seconds: float | None = None
    result: _Result | None = None


def _checked(path: Path, shape: type[BaseModel]) -> dict[str, Any]:
    document = read_json(path)
    try:
        shape.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        raise CheckpointError(
            f"{path} is damaged: {where}: {first['msg']}. Move it away."
        ) from error
    return document
