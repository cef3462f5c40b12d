"""A recipe's hyperparameters, read from its source without running it.

Asking for help, or misspelling a name, need not wait for torch. What the source does not show
plainly is left to the recipe itself, which is asked afterwards in any case.
"""

import ast
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.layers import scalar
from launcher.settings import Hparams

_PLAIN: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Setting:
    """A field of a settings class, as its source has it."""

    name: str
    kind: str
    default: str
    doc: str


def fields(source: str, bases: set[str]) -> Iterator[Setting]:
    """The fields of the classes in `source` that are named in `bases` or derive from one.

    Raises SyntaxError and ValueError for what is no Python.
    """
    found = set(bases)
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        if not {node.name, *(ast.unparse(base).rpartition(".")[2] for base in node.bases)} & found:
            continue
        found.add(node.name)
        for place, line in enumerate(node.body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                yield Setting(
                    line.target.id,
                    ast.unparse(line.annotation),
                    "required" if line.value is None else _typed(line.value),
                    _docstring(node.body[place + 1 : place + 2]),
                )


def types(recipe: Path) -> dict[str, Any] | None:
    """Names and types of a recipe's hyperparameters, `Any` where the type is no plain one; None
    when the source does not show that one class of its own is all of it."""
    try:
        body = ast.parse(recipe.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    bases = {node.name: [ast.unparse(base) for base in node.bases] for node in classes}
    own = [node for node in classes if bases[node.name] in (["Hparams"], ["launcher.Hparams"])]
    if len(own) != 1 or any(own[0].name in names for names in bases.values()):
        return None
    found = typing.get_type_hints(Hparams, include_extras=True)
    for line in own[0].body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found.setdefault(line.target.id, _PLAIN.get(ast.unparse(line.annotation), Any))
    return found


def _typed(value: ast.expr) -> str:
    """A default as a user would type it; an expression as it stands."""
    try:
        return scalar(ast.literal_eval(value))
    except ValueError:
        return ast.unparse(value)


def _docstring(after: list[ast.stmt]) -> str:
    if after and isinstance(after[0], ast.Expr) and isinstance(after[0].value, ast.Constant):
        return " ".join(str(after[0].value.value).split())
    return ""
