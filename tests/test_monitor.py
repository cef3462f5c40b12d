"""Which metric decides, and which way."""

import json
from pathlib import Path

import pytest
from conftest import command, noted, write_recipe

from launcher.errors import RecipeError, SettingsError
from launcher.monitor import Better, Monitor, chosen

ERROR = """
def metrics(model, batch):
    found = classification(model, batch)
    return {"error": 1 - found["accuracy"], "gain": found["accuracy"]}


from launcher.metrics import classification
"""


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["test/loss", "test/accuracy"], Monitor("test/accuracy", smaller=False)),
        (["test/error", "test/loss"], Monitor("test/loss", smaller=True)),
        (["test/error", "test/gain"], Monitor("test/error", smaller=True)),
    ],
)
def test_auto_takes_accuracy_then_loss_then_the_first(names: list[str], expected: Monitor) -> None:
    better: dict[str, Better] = {"error": "smaller"} if "test/error" in names else {}
    assert chosen("auto", names, better) == expected


@pytest.mark.parametrize(("better", "smaller"), [("smaller", True), ("larger", False)])
def test_a_recipe_says_which_way_is_better(better: Better, smaller: bool) -> None:
    assert chosen("test/f1", ["test/f1"], {"f1": better}) == Monitor("test/f1", smaller)
    # Of a name that is known too.
    assert chosen("test/loss", ["test/loss"], {"loss": better}) == Monitor("test/loss", smaller)


@pytest.mark.parametrize("asked", ["auto", "test/my_loss"])
def test_a_metric_of_which_nobody_said_what_is_better_cannot_decide(asked: str) -> None:
    with pytest.raises(RecipeError, match="nobody has said whether") as error:
        chosen(asked, ["test/my_loss"], {})
    assert f"monitor={asked} means test/my_loss" in str(error.value)
    assert 'better={"my_loss": "smaller"}' in str(error.value)


def test_a_metric_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"Did you mean 'test/accuracy'\?"):
        chosen("test/acuracy", ["test/loss", "test/accuracy"], {})


def test_a_direction_of_a_metric_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"names 'macro_f2', .* but macro_f1\. Did"):
        chosen("auto", ["test/macro_f1"], {"macro_f1": "larger", "macro_f2": "larger"})


@pytest.mark.parametrize(("smaller", "less", "more"), [(True, True, False), (False, False, True)])
def test_what_is_not_finite_is_never_better(smaller: bool, less: bool, more: bool) -> None:
    monitor = Monitor("test/x", smaller)
    assert monitor.is_better(1.0, 2.0) is less
    assert monitor.is_better(2.0, 1.0) is more
    assert not monitor.is_better(1.0, 1.0)
    assert monitor.is_better(1.0, None)
    assert not monitor.is_better(None, 1.0)
    assert not monitor.is_better(None, None)


@pytest.mark.parametrize(("better", "best"), [("smaller", min), ("larger", max)])
def test_the_best_checkpoint_of_a_run_is_the_best_by_the_recipes_own_metric(
    better: str, best: object, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = f'{ERROR}\nbetter = {{"error": "{better}"}}'
    assert command(write_recipe(extra), "name=r", "monitor=auto", "threads=1") == 0
    result = json.loads(Path("checkpoints/r/status.json").read_text())["result"]
    assert result["monitor"] == "test/error"
    found = [line["test/error"] for line in noted() if "test/error" in line]
    assert len(found) == 2
    assert callable(best)
    assert result["best"]["scores"]["test/error"] == best(found)
    assert "best        test/error" in capsys.readouterr().out


def test_a_wrong_direction_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(write_recipe(f'{ERROR}\nbetter = {{"error": "low"}}'), "name=r") == 3
    assert 'Recipe.better must be like {"error": "smaller"}' in capsys.readouterr().err
