"""The shipped recipes: each trains on each data set, and says what it is."""

import os
from pathlib import Path

import pytest

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
