"""The house as a whole: who may import whom, and what nobody may do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from conftest import HANGS

import launcher

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "launcher"

FLOORS: list[set[str]] = [
    {
        "errors",
        "rng",
        "generators",
        "draws",
        "durations",
        "plan",
        "layers",
        "settings",
        "naming",
        "storage",
        "launch",
    }
    | {"held", "catalog", "mirrors", "transfer", "partial", "download", "unpack", "provide"}
    | {"answers", "interface", "early"}
    | {"inventory", "documents", "png", "outcome"}
    | {"overview", "find", "changes", "account", "asked", "records"}
    | {"request", "outline", "validate", "parent"}
    | {
        "secret",
        "login",
        "order",
        "follower",
        "track",
        "wandb_file",
        "wandb_run",
        "tensorboard_run",
    },
    {"data", "augment", "schedules", "optim", "losses", "metrics", "buffers", "parallel"}
    | {"modes", "pictures", "sources.absent", "uncompiled", "ahead"}
    | {"matching", "mixing"}
    | {"models", "models.lenet", "models.mlp", "models.resnet"}
    | {"sources", "sources.arrays", "sources.cifar10", "sources.digits"}
    | {"sources.mnist", "sources.synthetic", "sources.decoded", "sources.photo", "sources.listing"}
    | {"sources.files", "sources.folder", "sources.table", "sources.tensors", "sources.dataset"},
    {
        "recipe",
        "imported",
        "exported",
        "ema",
        "pretrained",
        "checkpoint",
        "slots",
        "kept",
        "snapshot",
        "tensorfile",
        "state",
        "record",
        "screen",
    }
    | {"progress", "monitor", "together", "live", "streams"},
    {
        "stop",
        "peers",
        "exchange",
        "watch",
        "strategy",
        "connect",
        "agree",
        "alike",
        "guard",
        "meter",
        "evaluate",
        "build",
        "saver",
    }
    | {"places", "fitting"}
    | {"loader", "loaders", "train", "trained", "tuned", "passes", "profiling", "graphs", "ways"}
    | {"update", "layout"}
    | {"verdicts"},
    {"describe", "explain", "resume", "run", "show", "help", "cli", "__main__", ""}
    | {"data_verb", "runs_verb", "compare_verb", "completion_verb", "own_loop", "own_steps"}
    | {"reopen", "evaluate_verb", "network", "predict_verb"}
    | {"checkup", "doctor_verb", "export_verb", "export_readme", "onnx_graph"}
    | {"judge", "ending", "rehearsal", "report_verb"}
    | {"report", "report.comparison", "report.lineage", "report.page", "report.run_page"}
    | {"report.curves", "report.palette", "report.plot", "report.reading", "report.samples"}
    | {"report.words", "report.matrix"},
]

# A file may also import these from its own floor, and no others.
BESIDE: dict[str, set[str]] = {
    "draws": {"rng"},
    "plan": {"errors", "rng", "durations"},
    "layers": {"errors", "mirrors"},
    "settings": {"errors", "durations", "layers", "mirrors", "secret", "validate"},
    "validate": {"errors", "layers"},
    "naming": {"layers", "secret"},
    "outline": {"layers", "settings"},
    "storage": {"errors"},
    "held": {"storage"},
    "documents": {"errors", "storage"},
    "outcome": {"documents", "errors"},
    "transfer": {"mirrors"},
    "partial": {"errors", "storage", "transfer"},
    "download": {"catalog", "errors", "held", "mirrors", "partial", "storage", "transfer"},
    "unpack": {"errors", "storage"},
    "provide": {"catalog", "download", "errors", "storage", "unpack"},
    "inventory": {"catalog", "provide", "settings"},
    "changes": {"layers"},
    "account": {"documents", "errors"},
    "overview": {"documents", "errors", "held", "layers", "records", "storage"},
    "find": {"errors", "layers", "naming", "overview", "settings", "storage"},
    "asked": {"errors", "find", "layers", "settings", "storage"},
    "launch": {"errors"},
    "early": {"errors"},
    "request": {"launch", "layers", "settings"},
    "login": {"errors"},
    "wandb_run": {"documents", "errors", "order", "storage", "wandb_file"},
    "tensorboard_run": {"documents", "order", "storage"},
    "follower": {"documents", "held", "order", "tensorboard_run", "wandb_run"},
    "track": {"errors", "login", "order", "request", "settings"},
    "checkpoint": {"kept", "slots", "snapshot", "tensorfile", "together"},
    "kept": {"slots", "tensorfile", "together"},
    "slots": {"together"},
    "exported": {"kept", "pretrained", "recipe"},
    "snapshot": {"slots", "together"},
    "record": {"checkpoint", "imported"},
    "progress": {"screen", "streams"},
    "pretrained": {"checkpoint", "kept"},
    "recipe": {"imported", "monitor"},
    "state": {"monitor"},
    "screen": {"live", "streams"},
    "augment": {"data"},
    "losses": {"data", "matching"},
    "matching": {"data"},
    "metrics": {"data", "matching"},
    "mixing": {"data"},
    "models": {"models.lenet", "models.mlp", "models.resnet"},
    "sources": {"sources.arrays", "sources.cifar10", "sources.digits", "sources.mnist"}
    | {"sources.synthetic", "sources.folder", "sources.table", "sources.tensors", "data"}
    | {"sources.absent"}
    | {"sources.dataset", "sources.photo"},
    "pictures": {"data", "sources.absent", "sources.arrays", "sources.dataset", "sources.files"}
    | {"sources.photo", "sources.tensors"},
    "sources.absent": {"data", "sources.photo"},
    "sources.dataset": {"data", "sources.decoded"},
    "sources.decoded": {"data"},
    "sources.files": {"data", "sources.decoded", "sources.listing", "sources.photo"},
    "sources.folder": {"sources.absent", "sources.files", "sources.listing", "sources.photo"},
    "sources.table": {"sources.absent", "sources.files", "sources.listing", "sources.photo"},
    "sources.tensors": {"data"},
    "sources.arrays": {"data"},
    "sources.cifar10": {"sources.arrays"},
    "sources.digits": {"sources.arrays"},
    "sources.mnist": {"sources.arrays"},
    "sources.synthetic": {"sources.arrays"},
    "watch": {"peers"},
    "strategy": {"watch"},
    "connect": {"peers", "strategy", "watch"},
    "agree": {"strategy"},
    "alike": {"agree", "strategy"},
    "places": {"strategy"},
    "guard": {"strategy"},
    "tuned": {"strategy"},
    "evaluate": {"verdicts"},
    "loaders": {"evaluate", "loader", "strategy", "tuned"},
    "ahead": {"data"},
    "build": {"evaluate", "layout", "loaders", "strategy"},
    "saver": {"alike", "guard", "trained"},
    "trained": {"layout", "strategy"},
    "passes": {"build", "layout"},
    "ways": {"build", "graphs", "layout", "passes"},
    "fitting": {"build", "layout", "passes"},
    "update": {"build", "graphs", "guard", "meter", "passes", "ways"},
    "profiling": {"guard", "passes", "update"},
    "train": {"build", "passes", "ways", "profiling", "guard", "meter", "evaluate", "saver", "stop"}
    | {"strategy", "update", "verdicts"},
    "resume": {"describe"},
    "ending": {"describe", "judge", "report"},
    "report": {"report.comparison", "report.page", "report.reading", "report.run_page"},
    "report.comparison": {"report.curves", "report.lineage", "report.page", "report.palette"}
    | {"report.plot", "report.reading", "report.words"},
    "report.lineage": {"report.reading", "report.words"},
    "report.matrix": {"report.palette", "report.words"},
    "report.page": {"report.palette", "report.words"},
    "report.plot": {"report.curves", "report.words"},
    "report.reading": {"report.curves"},
    "report.run_page": {"report.curves", "report.lineage", "report.matrix", "report.page"}
    | {"report.plot", "report.reading", "report.samples", "report.words"},
    "report.samples": {"report.words"},
    "report_verb": {"report", "report.page"},
    "run": {"describe", "ending", "explain", "rehearsal", "resume"},
    "rehearsal": {"describe", "resume"},
    "own_loop": {"cli", "describe", "explain", "help", "own_steps", "resume"},
    "own_steps": {"describe", "resume", "run"},
    "show": {"describe", "explain", "run"},
    "reopen": {"describe", "resume"},
    "network": {"reopen"},
    "export_verb": {"export_readme", "network", "onnx_graph", "reopen"},
    "doctor_verb": {"checkup"},
    "predict_verb": {"network", "reopen"},
    "evaluate_verb": {"explain", "judge", "reopen"},
    "cli": {"help", "show", "run"},  # and, by name, the verbs in files of their own
    "__main__": {"cli"},
}

OTHERS: list[set[str]] = [  # what a floor may import besides the standard library and the house
    {"numpy", "pydantic", "pydantic_core", "yaml"},
    {"numpy", "torch", "PIL"},
    {"numpy", "torch", "pydantic", "safetensors", "rich"},
    {"numpy", "torch", "accelerate"},
    {"numpy", "torch", "onnxruntime", "onnxscript"},
]

ALONE: dict[str, set[str]] = {  # and what one file may, since it is all about that
    "wandb_file": {"wandb"},
    "wandb_run": {"wandb"},
    "tensorboard_run": {"tensorboard"},
}

PUBLIC = [
    "Batch",
    "Data",
    "Hparams",
    "Recipe",
    "SampleRng",
    "Source",
    "Split",
    "augment",
    "draws",
    "losses",
    "metrics",
    "mixing",
    "models",
    "optim",
    "own_loop",
    "pretrained",
    "schedules",
    "sources",
]


def modules() -> dict[str, Path]:
    """Every file of the package by its name in it: `plan`, `models`, `models.mlp`, `` itself."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(tree: ast.AST, *, inside_functions: bool = True) -> Iterator[str]:
    """Every module that a tree imports, with `a.b` for `from a import b` as well as for `a.b.c`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "no relative imports here"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, inside_functions=inside_functions)


def ours(tree: ast.AST) -> set[str]:
    """The files of the house that a tree imports, by the names of `modules`."""
    found = set()
    for name in imports(tree):
        if name.partition(".")[0] != "launcher":
            continue
        inner = name.partition(".")[2]
        while inner and inner not in MODULES:  # `plan.Plan` is in `plan`
            inner = inner.rpartition(".")[0]
        found.add(inner)
    return found


def outside(tree: ast.AST) -> set[str]:
    """The packages that a tree imports, without the standard library and the house."""
    top = {name.partition(".")[0] for name in imports(tree)}
    return top - sys.stdlib_module_names - {"launcher"}


def floor_of(name: str) -> int:
    (floor,) = (number for number, names in enumerate(FLOORS) if name in names)
    return floor


# ── floors ───────────────────────────────────────────────────────────────────────────────────────


def test_every_file_stands_on_one_floor() -> None:
    listed = [name for floor in FLOORS for name in floor]
    assert sorted(listed) == sorted(MODULES), "a new file needs a floor, here and in the design"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_imports_only_from_floors_below_it_or_the_files_named(name: str) -> None:
    floor = floor_of(name)
    used = ours(TREES[name])
    if name == "":  # the public names, whose homes are loaded when they are first used
        used = set()
    beside = {other for other in used if floor_of(other) == floor}
    assert not {other for other in used if floor_of(other) > floor}
    assert beside <= BESIDE.get(name, set())


def test_an_import_from_above_would_be_seen() -> None:
    """The negative control, in every way that an import can be written."""
    for line in (
        "import launcher.train",
        "from launcher import train",
        "from launcher.train import train",
        "def f():\n    from launcher.train import train",
        "if TYPE_CHECKING:\n    import launcher.train as t",
        "try:\n    pass\nexcept ImportError:\n    from launcher.train import train as t",
    ):
        assert ours(ast.parse(line)) == {"train"}, line
    assert ours(ast.parse("from launcher.models.mlp import MLP")) == {"models.mlp"}
    assert outside(ast.parse("import os, torch.nn\nfrom yaml import load")) == {"torch", "yaml"}


def test_the_files_of_a_floor_form_no_circle() -> None:
    done: set[str] = set()
    waiting = dict(BESIDE)
    while waiting:
        free = [name for name, names in waiting.items() if not (names - done) & waiting.keys()]
        assert free, f"a circle among {sorted(waiting)}"
        done |= {*free}
        for name in free:
            del waiting[name]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_floor_uses_the_packages_that_belong_to_it(name: str) -> None:
    assert outside(TREES[name]) <= OTHERS[floor_of(name)] | ALONE.get(name, set())


@pytest.mark.parametrize("name", sorted(FLOORS[0]))
def test_the_ground_knows_no_torch(name: str) -> None:
    assert "torch" not in outside(TREES[name])


@pytest.mark.parametrize("name", [name for name in sorted(MODULES) if name.startswith("models")])
def test_models_need_torch_only(name: str) -> None:
    assert outside(TREES[name]) <= {"torch"}
    assert all(other.startswith("models") for other in ours(TREES[name]))


def test_accelerate_lives_in_two_files_and_nowhere_else() -> None:
    users = {name for name, tree in TREES.items() if "accelerate" in outside(tree)}
    assert users == {"connect", "strategy"}


def test_pillow_lives_in_one_file_and_nowhere_else() -> None:
    assert {name for name, tree in TREES.items() if "PIL" in outside(tree)} == {"sources.photo"}


@pytest.mark.parametrize(
    "package", ["torchvision", "sklearn", "wandb", "matplotlib", "PIL", "tensorboard"]
)
def test_a_slow_package_is_imported_when_it_is_needed(package: str) -> None:
    for name, tree in TREES.items():
        at_once = {other.partition(".")[0] for other in imports(tree, inside_functions=False)}
        assert package not in at_once, name


def test_the_command_line_does_not_import_torch() -> None:
    code = (
        "import sys, launcher, launcher.cli\n"
        "slow = {'torch', 'accelerate', 'torchvision', 'sklearn', 'wandb', 'matplotlib'}\n"
        "assert 'launcher.settings' in sys.modules\n"
        "sys.exit(str(slow & sys.modules.keys()) if slow & sys.modules.keys() else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_ground_is_imported_without_torch() -> None:
    """Also through what its packages import."""
    names = [f"launcher.{name}" for name in sorted(FLOORS[0])]
    code = f"import sys, {', '.join(names)}\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=HANGS)
    assert done.returncode == 0


# ── what nobody does ─────────────────────────────────────────────────────────────────────────────


UNPICKLERS = {"pickle", "_pickle", "cPickle", "pickletools", "shelve", "marshal", "dill"}
UNPICKLERS |= {"cloudpickle", "joblib", "jsonpickle"}
# Whatever is called so runs code that it reads, in any package.
BY_NAME = {
    "all_gather_object", "gather_object", "scatter_object_list", "broadcast_object_list",
    "send_object_list", "recv_object_list", "read_pickle", "unsafe_load", "full_load",
    "__reduce__", "__setstate__",
}  # fmt: skip
FORBIDDEN = {
    "torch.load", "torch.save", "torch.serialization.load", "torch.jit.load", "torch.hub.load",
    "torch.package", "numpy.load", "numpy.lib.format.read_array", "yaml.load", "yaml.load_all",
    "yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "multiprocessing.connection",
    "eval", "exec", "compile", "print", "__import__", "os.system", "os.popen", "builtins",
    "runpy",
}  # fmt: skip
WORDS = {"allow_pickle", "weights_only", "shell"}
ALLOWED = {
    "recipe": {"exec", "compile"},  # where a recipe is loaded: that is code
    "pretrained": {"torch.load", "weights_only"},  # torchvision's weights, never a checkpoint
}


def full_names(tree: ast.AST) -> Iterator[str]:
    """Every name that is read or imported, with the module that it was imported from: `load` after
    `from torch import load` is `torch.load`, and so is `getattr(torch, "load")`."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def full(node: ast.AST) -> str:
        match node:
            case ast.Name(name):
                return known.get(name, name)
            case ast.Attribute(value, attribute):
                return f"{full(value)}.{attribute}"
            case ast.Call(ast.Name("getattr"), [value, ast.Constant(str(attribute)), *_]):
                return f"{full(value)}.{attribute}"
        return ""

    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            continue  # a hyperparameter may have any name
        if isinstance(node, ast.Name | ast.Attribute | ast.Call) and (name := full(node)):
            yield name


def forbidden(tree: ast.AST) -> set[str]:
    """What in a tree unpickles, evaluates, prints or starts a shell."""
    found = set()
    for name in full_names(tree):
        parts = name.split(".")
        beginnings = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        found |= beginnings & FORBIDDEN | {parts[0]} & UNPICKLERS | {parts[-1]} & BY_NAME
    found |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg in WORDS}
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_is_unpickled_evaluated_or_printed(name: str) -> None:
    assert forbidden(TREES[name]) == ALLOWED.get(name, set())


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("print('x')", "print"),
        ("x = eval", "eval"),
        ("def f():\n    return eval('1')", "eval"),
        ("exec(compile(a, b, 'exec'))", "exec"),
        ("exec(compile(a, b, 'exec'))", "compile"),
        ("import builtins\nbuiltins.eval('1')", "builtins"),
        ("import torch\nx = torch.load(path)", "torch.load"),
        ("import torch as t\nx = t.load(path)", "torch.load"),
        ("from torch import load\nx = load(path)", "torch.load"),
        ("from torch import load as read", "torch.load"),
        ("import torch\nx = getattr(torch, 'load')(path)", "torch.load"),
        ("import torch\nx = torch.load(path, weights_only=True)", "weights_only"),
        ("from torch import serialization\nserialization.load(p)", "torch.serialization.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "allow_pickle"),
        ("import numpy as np\nnp.load(path, None, True)", "numpy.load"),
        ("from numpy import load", "numpy.load"),
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("def f():\n    import pickle as p\n    return p.loads(b'')", "pickle"),
        ("from _pickle import Unpickler", "_pickle"),
        ("import marshal", "marshal"),
        ("import shelve", "shelve"),
        ("import dill", "dill"),
        ("import cloudpickle", "cloudpickle"),
        ("from joblib import load", "joblib"),
        ("import yaml\nyaml.load(text, yaml.Loader)", "yaml.load"),
        ("import yaml\nyaml.unsafe_load(text)", "unsafe_load"),
        ("import torch\ntorch.distributed.all_gather_object(a, b)", "all_gather_object"),
        ("import torch.distributed as dist\ndist.gather_object(a)", "gather_object"),
        ("import torch.distributed as dist\ndist.scatter_object_list(a)", "scatter_object_list"),
        ("from torch.distributed import broadcast_object_list", "broadcast_object_list"),
        ("import torch.distributed as dist\ndist.send_object_list(a)", "send_object_list"),
        ("import torch.distributed as dist\ndist.recv_object_list(a)", "recv_object_list"),
        ("from accelerate.utils import gather_object", "gather_object"),
        ("import os\nos.system('ls')", "os.system"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell"),
    ],
)
def test_what_is_forbidden_would_be_seen(line: str, word: str) -> None:
    assert word in forbidden(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()", "console.print('x')", "import json\njson.load(file)", "re.compile('x')",
        "from safetensors.torch import load\nload(data)", "error.code", "module.load(path)",
        "from launcher.recipe import load\nload(path)", "optimizer.load_state_dict(state)",
    ],
)  # fmt: skip
def test_what_only_sounds_alike_is_fine(line: str) -> None:
    assert forbidden(ast.parse(line)) == set()


def test_there_is_no_utils_file() -> None:
    words = {"utils", "util", "helpers", "helper", "common", "misc", "core", "base"}
    assert not words & {name.rpartition(".")[2] for name in MODULES}


def test_no_class_is_named_for_nothing() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                ends = ("Manager", "Handler", "Processor", "Container", "Trainer", "Helper")
                assert not node.name.endswith(ends), name


# ── recipes and public names ─────────────────────────────────────────────────────────────────────


def test_the_public_names_are_a_promise() -> None:
    assert launcher.__all__ == PUBLIC
    assert dir(launcher) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(launcher, name)
    homes = {"Batch", "Data", "Hparams", "Recipe", "SampleRng", "Source", "Split"}
    if name in homes:
        assert found is getattr(import_module(f"launcher.{launcher._HOMES[name]}"), name)
    else:
        assert found is import_module(f"launcher.{name}")


def test_another_name_is_not_there() -> None:
    for name in ("Trainer", "_order", "Plan"):
        assert not hasattr(launcher, name)


def test_type_checkers_see_the_same_public_names() -> None:
    """The `if TYPE_CHECKING` block of `launcher/__init__.py` repeats them."""
    (block,) = (node for node in TREES[""].body if isinstance(node, ast.If))
    assert sorted(name.rpartition(".")[2] for name in imports(block)) == PUBLIC


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda p: p.stem)
def test_a_recipe_uses_public_names_and_no_other_recipe(path: Path) -> None:
    tree = ast.parse(path.read_text())
    recipes = {other.stem for other in path.parent.glob("*.py")}
    for name in imports(tree):
        package, _, inner = name.partition(".")
        assert package in sys.stdlib_module_names | {"launcher", "torch", "torchvision", "math"}
        assert package not in {"recipes", "importlib", "runpy"} | recipes
        if package == "launcher":
            assert inner in PUBLIC, name


# ── words ────────────────────────────────────────────────────────────────────────────────────────

# What a name and a type say in full: methods of one line, and what torch calls.
WITHOUT_DOCSTRING = {
    "buffers": {"StepAverage.begin_pass", "StepAverage.end_pass"},
    "build": {"Parts.modules", "Parts.recipe"},
    "checkpoint": {"folder_of"},
    "data": {"Resident.nbytes", "Resident.to"},
    "errors": {  # the tree at the top of the file says what each is for
        "SettingsError",
        "DataError",
        "CheckpointError",
        "NonFiniteError",
        "StorageError",
        "LockedError",
        "DistributedError",
        "OutOfMemoryError",
    },
    "launch": {"Launch.is_main"},
    "layers": {"Given.shown"},
    "models.lenet": {"LeNet.forward"},
    "models.mlp": {"MLP.forward"},
    "models.resnet": {"BasicBlock.forward", "ResNet.forward"},
    "parallel": {"DataParallel.forward"},
    "plan": {"Sizes.seed", "Sizes.epochs", "Sizes.batch_size", "Sizes.micro_batch_size"}
    | {"Plan.total_steps"},
    "trained": {
        "Trained.hparams",
        "Trained.settings",
        "Trained.world",
        "Trained.data",
        "Trained.plan",
        "Trained.model",
        "Trained.optimizer",
    },
    "record": {"Record.close"},
    "snapshot": {"Snapshot.nbytes"},
    "sources.arrays": {"Arrays.fingerprint", "Arrays.nbytes"},
    "storage": {  # one call of the operating system each
        "Disk.open",
        "Disk.write",
        "Disk.read",
        "Disk.fsync",
        "Disk.truncate",
        "Disk.close",
        "Disk.rename",
        "Disk.unlink",
        "Disk.mkdir",
        "Disk.rmdir",
        "Disk.listdir",
        "Disk.free",
    },
    "held": {"Appender.close", "Lock.release"},
    "strategy": {"World.device", "World.process", "World.processes", "World.is_main"},
}


def silent(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from silent(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_what_is_public_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(TREES[name]), "a file says what it is for"
    assert set(silent(TREES[name])) <= WITHOUT_DOCSTRING.get(name, set())


def test_no_exception_for_a_docstring_is_out_of_date() -> None:
    for name, allowed in WITHOUT_DOCSTRING.items():
        assert allowed <= set(silent(TREES[name])), name


@pytest.mark.parametrize("path", sorted(MODULES.values()), ids=lambda p: p.stem)
def test_a_file_has_one_subject(path: Path) -> None:
    """The design aims at 200 lines in a file; 300 is where a second subject has crept in."""
    assert len(path.read_text().splitlines()) <= 300


def test_the_tree_has_a_line_for_each_file() -> None:
    page = (ROOT / "docs" / "tree.md").read_text()
    listed = {line.split()[0] for line in page.splitlines() if line.split("  ")[0].endswith(".py")}
    assert listed == {str(path.relative_to(HOUSE)) for path in MODULES.values()}
