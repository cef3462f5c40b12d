"""The shipped recipes: each trains on each data set, and says what it is."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from PIL import Image

from launcher import cli
from launcher.recipe import load

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
ON_DATA_SETS = [path for path in RECIPES if "dataset: str" in path.read_text()]
REAL = os.environ.get("LAUNCHER_REAL_DATA")
real = [
    pytest.mark.real_data,
    pytest.mark.skipif(REAL is None, reason="LAUNCHER_REAL_DATA names no folder with real data"),
]


@pytest.mark.parametrize("path", ON_DATA_SETS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "dataset",
    [
        "digits",
        "synthetic",
        *(pytest.param(name, marks=real) for name in ("mnist", "fashion_mnist", "cifar10")),
    ],
)
def test_every_recipe_trains_on_every_data_set(
    path: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["weights=none", "size=32"] if path.stem == "finetune_resnet" else []
    given += [f"dataset={dataset}", "batch_size=8", f"data_dir={REAL or 'data'}"]
    assert cli.main([str(path), *given, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "dry run: one step and one evaluation of 256 samples worked" in shown
    assert "kept in Python" not in shown


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_one_page_with_its_command(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 100
    assert f"accelerate launch -m launcher recipes/{path.name}" in source.split('"""')[1]
    assert load(path).recipe.hparams.__name__ in source


def test_a_recipe_without_a_data_set_has_numbers_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path,) = {*RECIPES} - {*ON_DATA_SETS}
    assert cli.main([str(path), "--dry-run"]) == 0
    assert "dry run: one step and one evaluation of 64 samples worked" in capsys.readouterr().out


def test_the_quick_config_fits_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    quick = str(ROOT / "configs" / "runs" / "quick.yaml")
    for path in ON_DATA_SETS:
        given = ["weights=none", "size=32"] if path.stem == "finetune_resnet" else []
        assert cli.main(["show", str(path), *given, "--config", quick, "--json"]) == 0
        assert '"dataset": {\n   "value": "digits"' in capsys.readouterr().out


def test_the_recipe_in_the_readme_works(capsys: pytest.CaptureFixture[str]) -> None:
    source = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    Path("mine.py").write_text(source)
    assert cli.main(["mine.py", "dataset=digits", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "dry run: one step and one evaluation of 256 samples worked" in shown
    assert "kept in Python" not in shown


BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "losses.md").read_text(), re.DOTALL)
IMPORTS = """
import math
from functools import partial
from torch.nn import functional as F
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from launcher import losses
"""
LAST = "recipe = Recipe(hparams=MyHparams, data=data, model=model, optimizer=optimizer)\n"


def changed(block: str) -> Path:
    """The README's recipe, changed as docs/losses.md does."""
    source = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    path = Path("mine.py")
    path.write_text(f"{source}{IMPORTS}{block}{'' if 'recipe = ' in block else LAST}")
    return path


@pytest.mark.parametrize("block", [b for b in BLOCKS if "import " not in b])
def test_an_example_of_losses_and_metrics_works(
    block: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, split in enumerate(["train"] * 8 + ["val"] * 4):
        folder = Path("photos", split, "few" if number in (0, 8) else "many")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((70, 80, 3), number, np.uint8)).save(folder / f"{number}.png")
    recipe = changed(block.replace("64", "32") if "photos" in block else block)
    assert command(recipe, "dataset=digits", "--dry-run", "threads=1", "batch_size=4") == 0
    shown = capsys.readouterr().out
    for name in re.findall(r'"(top3|labels|all)": ', block):
        assert f"test/{name}" in shown


def test_f1_follows_from_what_evaluate_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = (block for block in BLOCKS if "import " in block)
    assert command(changed(""), "dataset=digits", "epochs=1", "threads=1", "name=RUN") == 0

    def said(words: list[str]) -> str:
        capsys.readouterr()
        assert command(*words[1:]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(subprocess, "check_output", said)
    found: dict[str, np.ndarray] = {}
    exec(block, found)  # noqa: S102
    counts, f1 = found["counts"], found["f1"]
    hits = counts.diagonal()
    precision, recall = hits / np.maximum(counts.sum(0), 1), hits / counts.sum(1)
    expected = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    np.testing.assert_allclose(f1, expected, atol=1e-8)
    assert f1.max() > 0
