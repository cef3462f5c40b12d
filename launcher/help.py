"""`--help`: every setting with its default and its docstring, read from source and not imported.

A recipe's hyperparameters come from its outline, so that asking for help neither runs the recipe
nor waits for torch.
"""

from pathlib import Path

from launcher import settings
from launcher.outline import Setting, fields
from launcher.screen import table, text

USAGE = """\
Usage: launcher [train] RECIPE.py [--config FILE]... [key=value]...
       launcher show RECIPE.py [--config FILE]... [key=value]... [--json]
       launcher data [fetch NAME...] [data_dir=PATH] [mirror=URL]
       launcher evaluate | predict | export | report ...
       launcher runs | compare | doctor | completion ...
       accelerate launch -m launcher RECIPE.py ...      on several GPUs or machines
       torchrun --nproc_per_node 2 -m launcher RECIPE.py ...

  train   train to the end of the plan, or continue where the same command stopped
  show    every setting with its origin, the plan, the layers and the memory; trains nothing
  data    which data sets are here, and fetching those that are not

  evaluate    exact test metrics of a run's weights: overall, by class, as a confusion matrix
  predict     classes and probabilities for image files and folders
  export      weights, code reference, labels and preprocessing in one folder; ONNX
  runs        the runs that lie here: state, step, best score, what to do next
  compare     settings that differ between runs, and their metrics side by side
  report      report.html of a run, or of several side by side
  doctor      what is on this machine, what would fail, and what to do
  completion  completion of all this in bash, zsh and fish

launcher VERB --help says more of each.

Switches:
  --config FILE         values from a YAML file; later files and arguments win
  --dry-run             one batch through everything, nothing left on disk
  --resume auto         continue if there is something to continue (the default)
  --resume must         refuse if there is nothing to continue
  --resume never        refuse if there is something
  --profile N           N steps under torch's profiler: a table, and a trace in the run's folder
  --fresh               move an earlier run into an archive folder and start again
  --allow-change KEY    continue although this hyperparameter (or recipe, data) changed
  --json                for programs (show)
  --version

Example: launcher recipes/cifar_resnet.py --config configs/runs/quick.yaml peak_lr=0.01
"""


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
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            text(f"The hyperparameters of {recipe} cannot be shown: {error}")
            own = []
        for field in own:
            doc = field.doc or (common[field.name].doc if field.name in common else "")
            common[field.name] = Setting(field.name, field.kind, field.default, doc)
        title = f"Hyperparameters of {recipe}"
    _table(title, list(common.values()))
    _table("Run settings", list(fields(ours, {"RunSettings"})))


def _table(title: str, found: list[Setting]) -> None:
    rows = ((f.name, f.default, f.doc) for f in found)
    table(title, ("key", "default", "meaning"), rows)
