"""`--help`: every setting with its default and its docstring, read from source and not imported.

A recipe's hyperparameters are found with `ast`, so that asking for help neither runs the recipe nor
waits for torch.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher import settings
from launcher.layers import scalar
from launcher.screen import table, text

USAGE = """\
Usage: launcher [train] RECIPE.py [--config FILE]... [key=value]...
       launcher show RECIPE.py [--config FILE]... [key=value]... [--json]
       accelerate launch -m launcher RECIPE.py ...      on several GPUs or machines
       torchrun --nproc_per_node 2 -m launcher RECIPE.py ...

  train   train to the end of the plan, or continue where the same command stopped
  show    every setting with its origin, the plan, the layers and the memory; trains nothing

Switches:
  --config FILE         values from a YAML file; later files and arguments win
  --dry-run             one batch through everything, nothing left on disk
  --resume auto         continue if there is something to continue (the default)
  --resume must         refuse if there is nothing to continue
  --resume never        refuse if there is something
  --fresh               move an earlier run into an archive folder and start again
  --allow-change KEY    continue although this hyperparameter (or recipe, data) changed
  --json                for programs (show)

Example: launcher recipes/cifar_resnet.py --config configs/runs/quick.yaml peak_lr=0.01
"""


@dataclass(frozen=True)
class Setting:
    """A field of a settings class, as its source has it."""

    name: str
    kind: str
    default: str
    doc: str


def fields(source: str, bases: set[str]) -> Iterator[Setting]:
    """The fields of the classes in `source` that are named in `bases` or derive from one."""
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


def show(verb: str, recipe: Path | None) -> None:
    """Print the usage, a recipe's hyperparameters if one is at hand, and the run settings."""
    text(USAGE)
    ours = Path(settings.__file__).read_text("utf-8")
    common = {field.name: field for field in fields(ours, {"Hparams"})}
    title = "Hyperparameters of every recipe (RECIPE.py --help shows those of one)"
    if recipe is not None and recipe.is_file():
        try:
            source = recipe.read_text("utf-8")
            own = list(fields(source, {"Hparams"}))
        except (OSError, SyntaxError, ValueError) as error:
            text(f"The hyperparameters of {recipe} cannot be shown: {error}")
            own = []
        for field in own:
            doc = field.doc or (common[field.name].doc if field.name in common else "")
            common[field.name] = Setting(field.name, field.kind, field.default, doc)
        title = f"Hyperparameters of {recipe}"
    _table(title, list(common.values()))
    _table("Run settings", list(fields(ours, {"RunSettings"})))


def _table(title: str, found: list[Setting]) -> None:
    rows = (
        (f.name, f.default, f"{f.doc} Not built yet." if f.name in settings.NOT_YET else f.doc)
        for f in found
    )
    table(title, ("key", "default", "meaning"), rows)
