"""`--help`: every setting with its default and its docstring, read from source and not imported.

A recipe's hyperparameters come from its outline, so that asking for help neither runs the recipe
nor waits for torch.
"""

from collections.abc import Set
from pathlib import Path

from launcher import settings
from launcher.outline import Setting, fields
from launcher.screen import table, text

BRIEF = """\
Usage: launcher RECIPE.py [--config FILE]... [key=value]...
       launcher VERB ...

A recipe is a file such as recipes/cifar_resnet.py. The verbs: train (may be left out), show, data,
evaluate, predict, export, runs, compare, report, doctor, completion.

  launcher --help             verbs, switches and settings
  launcher VERB --help        one verb
  launcher RECIPE.py --help   the settings of a recipe
"""
_CONFIG = """\
  --config FILE         values from a YAML file; later files and arguments win
"""
_SWITCHES = (
    _CONFIG
    + """\
  --dry-run             one batch through everything, nothing left on disk but a data set that was
                        not here and is fetched
  --resume auto         continue if there is something to continue (the default)
  --resume must         refuse if there is nothing to continue
  --resume never        refuse if there is something
  --profile N           the next N steps under torch's profiler: a table, and a trace in the run's
                        folder; the run goes on
  --fresh               move an earlier run into an archive folder and start again
  --allow-change KEY    continue although this hyperparameter (or recipe, data) changed
"""
)
USAGE = f"""\
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
{_SWITCHES}\
  --json                for programs (show)
  --version

Example: launcher recipes/cifar_resnet.py --config configs/runs/quick.yaml peak_lr=0.01
"""
TRAIN = f"""\
Usage: launcher [train] RECIPE.py [--config FILE]... [key=value]...
       accelerate launch -m launcher RECIPE.py ...      on several GPUs or machines
       torchrun --nproc_per_node 2 -m launcher RECIPE.py ...

Train to the end of the plan, in checkpoints/NAME. The same command again continues where it
stopped; on a finished run it shows the result and trains nothing.

Switches:
{_SWITCHES}
Example: launcher recipes/cifar_resnet.py --config configs/runs/quick.yaml peak_lr=0.01
"""
SHOW = f"""\
Usage: launcher show RECIPE.py [--config FILE]... [key=value]... [--json]

Every setting with its origin, the plan, the layers and the memory. Nothing is trained, and no run
folder is made; a data set that is not here is fetched, since the plan counts its samples.

Switches:
{_CONFIG}\
  --json                for programs

Example: launcher show recipes/cifar_resnet.py peak_lr=0.01
"""
LOOP = f"""\
Usage: python {{script}} [--config FILE]... [key=value]...

A script with a loop of its own, in one process. The same command again continues where it stopped.

Switches:
{_CONFIG}\
  --resume auto         continue if there is something to continue (the default)
  --resume must         refuse if there is nothing to continue
  --resume never        refuse if there is something
  --fresh               move an earlier run into an archive folder and start again
  --allow-change KEY    continue although this hyperparameter (or recipe, data) changed
"""


def show(verb: str, recipe: Path | None) -> None:
    """Print the usage of `train`, `show` or, by an empty text, of everything; a recipe's
    hyperparameters if one is at hand, and the run settings."""
    text({"train": TRAIN, "show": SHOW}.get(verb, USAGE))
    found, _ = _hyperparameters(recipe)
    title = "Hyperparameters of every recipe (RECIPE.py --help shows those of one)"
    if recipe is not None and recipe.is_file():
        title = f"Hyperparameters of {recipe}"
    _table(title, found)
    _table("Run settings", _run_settings())


def loop(script: Path, obeyed: Set[str], served: Set[str]) -> None:
    """Print what a script with a loop of its own takes: its own hyperparameters, those of every
    recipe that are `obeyed`, and the run settings that are `served`."""
    text(LOOP.format(script=script))
    found, own = _hyperparameters(script)
    _table(f"Hyperparameters of {script}", [f for f in found if f.name in own | obeyed])
    _table("Run settings", [f for f in _run_settings() if f.name in served])


def _hyperparameters(recipe: Path | None) -> tuple[list[Setting], set[str]]:
    """Those of every recipe, with a recipe's own over them and after them; the names of its own."""
    common = {field.name: field for field in fields(_ours(), {"Hparams"})}
    own: list[Setting] = []
    if recipe is not None and recipe.is_file():
        try:
            own = list(fields(recipe.read_text("utf-8"), {"Hparams"}))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            text(f"The hyperparameters of {recipe} cannot be shown: {error}")
    for field in own:
        doc = field.doc or (common[field.name].doc if field.name in common else "")
        common[field.name] = Setting(field.name, field.kind, field.default, doc)
    return list(common.values()), {field.name for field in own}


def _run_settings() -> list[Setting]:
    return list(fields(_ours(), {"RunSettings"}))


def _ours() -> str:
    return Path(settings.__file__).read_text("utf-8")


def _table(title: str, found: list[Setting]) -> None:
    rows = ((f.name, f.default, f.doc) for f in found)
    table(title, ("key", "default", "meaning"), rows)
