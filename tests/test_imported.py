"""What a recipe imports of its own folder: found, a part of what ran, and kept with its copy."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import HANGS, ROOT, command, write_recipe

from launcher import exported
from launcher.errors import DataError, RecipeError
from launcher.loader import Origin
from launcher.recipe import load

RUN = Path("checkpoints/one")
LOSS = """
import helper
from parts.inner import nets

model = nets.model

def loss(model, batch):
    return helper.FACTOR * losses.cross_entropy(model, batch)
"""
NETS = """
from launcher import models

def model(hparams, data):
    return models.MLP(16, len(data.classes), (hparams.width,))
"""
FILES = {"helper.py", "parts/__init__.py", "parts/inner/nets.py"}


def write(place: str = "work", factor: float = 0.5, extra: str = LOSS) -> Path:
    """A recipe with a module beside it, and one in a package there."""
    folder = Path(place)
    (folder / "parts/inner").mkdir(parents=True, exist_ok=True)
    (folder / "parts/__init__.py").write_text("")
    (folder / "parts/inner/nets.py").write_text(NETS)
    (folder / "helper.py").write_text(f"FACTOR = {factor}\n")
    return write_recipe(extra, f"{place}/tiny.py")


def run(*words: object) -> int:
    return command(*words, "name=one", "threads=1")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    return " ".join(line.strip("│╭╮╰╯─ ") for line in lines)


# ── loading ─────────────────────────────────────────────────────────────────────────────────────


def test_modules_of_the_folder_are_found_and_belong_to_the_recipe() -> None:
    loaded = load(write())
    assert loaded.modules.keys() == FILES
    assert loaded.modules["helper.py"] == b"FACTOR = 0.5\n"


def test_a_recipe_without_modules_has_the_hash_of_its_file() -> None:
    loaded = load(write_recipe())
    assert loaded.modules == {}
    assert loaded.sha256 == sha256(loaded.source).hexdigest()


def test_another_content_or_another_place_is_another_recipe() -> None:
    first = load(write()).sha256
    assert load(write("elsewhere")).sha256 == first
    assert load(write(factor=0.1)).sha256 != first
    assert load(write()).sha256 == first


def test_what_is_installed_or_found_elsewhere_is_no_part_of_a_recipe() -> None:
    """Also where it lies below the recipe's folder: its copy would not be found by its name."""
    for place in (".venv/lib/site-packages/installed.py", "src/beside.py"):
        path = Path(place).resolve()
        path.parent.mkdir(parents=True)
        path.write_text("")
        sys.path.append(str(path.parent))
    try:
        assert load(write_recipe("import installed, beside")).modules == {}
    finally:
        del sys.path[-2:]


def test_the_launcher_is_no_part_of_a_recipe_that_lies_beside_it() -> None:
    shutil.copytree(ROOT / "launcher", "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    path = write_recipe()
    path.write_text(path.read_text() + f"import sys\nassert {str(Path.cwd())!r} in sys.path\n")
    code = (
        "import launcher.recipe, sys; from pathlib import Path\n"
        "found = launcher.recipe.load(Path('tiny.py'))\n"
        "assert launcher.__file__.startswith(str(Path.cwd())), launcher.__file__\n"
        "assert 'launcher.augment' in sys.modules and not found.modules, [*found.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=False, timeout=HANGS, env={"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_neither_stale_bytecode_is_taken_nor_new_left() -> None:
    """A file that is put back with its old time and size would be taken for the one before."""
    path = write()
    before = {file: file.stat() for file in path.parent.rglob("*.py")}
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        subprocess.run([sys.executable, "-m", "compileall", "-q", path.parent], check=True)
    finally:
        sys.path.pop(0)
    write(factor=0.1)
    for file, was in before.items():
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert load(path).modules["helper.py"] == b"FACTOR = 0.1\n"
    assert sys.modules["helper"].FACTOR == 0.1
    for folder in [*path.parent.rglob("__pycache__")]:
        shutil.rmtree(folder)
    load(path)
    assert not [*path.parent.rglob("__pycache__")]


def test_each_recipe_gets_its_own_module_of_a_name() -> None:
    load(write("a", 0.1))
    load(write("b", 0.2))
    assert sys.modules["helper"].FACTOR == 0.2


def test_a_module_that_has_the_name_of_the_copy_is_refused() -> None:
    Path("recipe.py").write_text("")
    path = write_recipe("import recipe as other")
    with pytest.raises(
        RecipeError, match=r"^tiny\.py imports recipe\.py of its folder, .* name\.$"
    ):
        load(path)


def test_a_recipe_of_that_name_may_be_imported_by_its_modules() -> None:
    Path("helper.py").write_text("def late():\n    import recipe\n")
    path = write_recipe("import helper", "recipe.py")
    assert load(path).modules.keys() == {"helper.py"}


def test_what_a_function_imports_is_found_and_not_seen() -> None:
    path = write(extra="def late():\n    import helper\n    return helper.FACTOR\nlate.better = {}")
    loaded = load(path)
    assert loaded.modules == {}
    assert vars(sys.modules[loaded.recipe.data.__module__])["late"]() == 0.5
    sys.modules.pop("helper")


def test_a_loader_process_sees_that_a_module_was_changed() -> None:
    path = write()
    origin = Origin(path=path, sha256=load(path).sha256, hparams="{}", data_dir=Path("data"),
                    part="train")  # fmt: skip
    write(factor=0.1)
    with pytest.raises(DataError, match="was changed while the run was going on"):
        origin.source()


@pytest.mark.parametrize(
    "started",
    [
        ["-m", "launcher"],
        ["-c", "import sys; sys.path.remove(''); from launcher.__main__ import run; run()"],
        ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "launcher"],
    ],
    ids=["module", "script", "torchrun"],
)
def test_it_is_trained_however_it_is_started(started: Sequence[str]) -> None:
    """The current folder is not the recipe's, and the console script has neither on its path."""
    path = write()
    done = subprocess.run(
        [sys.executable, *started, str(path), "name=one", "threads=1", "epochs=1"],
        capture_output=True, text=True, check=False, timeout=HANGS,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ── in a run ────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_module_is_refused_by_its_name_and_may_be_allowed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write()
    assert run(path, "epochs=1") == 0
    write(factor=0.1)
    assert run(path, "epochs=1") == 5
    assert "helper.py, which the recipe imports, is another than it was. Give" in said(capsys)
    assert run(path, "epochs=1", "--allow-change", "recipe") == 0
    assert (RUN / "helper.py").read_text() == "FACTOR = 0.1\n"
    assert (
        "the recipe is another at step 4" in json.loads((RUN / "run.json").read_text())["changes"]
    )


def test_the_run_folder_alone_is_enough() -> None:
    path = write()
    assert run(path) == 0
    kept = {str(file.relative_to(RUN)) for file in RUN.rglob("*.py")}
    assert kept == {"recipe.py", *FILES}
    shutil.rmtree("work")
    assert command("evaluate", "one") == 0
    assert command("export", "one") == 0
    assert not [*RUN.rglob("__pycache__")]
    shutil.rmtree("checkpoints")
    assert {
        str(file.relative_to("exported/one")) for file in Path("exported").rglob("*.py")
    } == kept
    assert exported.load("exported/one").classes
    assert not [*Path("exported").rglob("__pycache__")]


def test_a_changed_copy_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    path = write()
    assert run(path, "epochs=1") == 0
    (RUN / "helper.py").write_text("FACTOR = 0.1\n")
    assert command("evaluate", "one") == 5
    assert f"{RUN / 'helper.py'}, which the recipe imports, is not the one that ran" in said(capsys)


def test_a_run_begun_before_modules_were_noted_continues() -> None:
    path = write_recipe()
    assert run(path, "epochs=2") == 0
    document = json.loads((RUN / "run.json").read_text())
    assert document.pop("modules") == {}
    (RUN / "run.json").write_text(json.dumps(document))
    assert run(path, "epochs=2") == 0
    assert command("evaluate", "one") == 0
