"""What a recipe's source tells before it is run."""

from pathlib import Path
from typing import Any

import pytest

from launcher import outline, settings
from launcher.errors import SettingsError
from launcher.layers import from_argument

PLAIN = """
class Mine(Hparams):
    epochs: int = 3
    lr: float = 0.1
    widths: tuple[int, ...] = (1,)
    other = 1
"""


def types(source: str) -> dict[str, Any] | None:
    path = Path("r.py")
    path.write_text(source)
    return outline.types(path)


def test_names_and_plain_types_are_found() -> None:
    found = types(PLAIN)
    assert found is not None
    assert (found["lr"], found["widths"]) == (float, Any)
    assert "seed" in found
    assert "other" not in found


@pytest.mark.parametrize(
    "source",
    [
        "class A(Base, Hparams):\n    lr: float = 1",
        PLAIN + "class More(Mine):\n    more: int = 1",
        PLAIN + PLAIN.replace("Mine", "Second"),
        "def f(:",
        "x = 1\0",
        "if True:\n    class Mine(Hparams):\n        lr: float = 1",
    ],
)
def test_what_the_source_does_not_show_plainly_is_left_to_the_recipe(source: str) -> None:
    assert types(source) is None


def test_hyperparameters_and_run_settings_are_refused_together() -> None:
    given = ["log_every=0", "name=a/b", "lr=x", "epoch=3", "widths=7", "seed=-1"]
    for_run, rest = settings.split(map(from_argument, given))
    with pytest.raises(SettingsError) as refusal:
        settings.resolve_run(for_run, types(PLAIN), rest)
    said = "\n".join(refusal.value.problems)
    for words in ("log_every: should be greater", "lr: should be a valid number",
                  "Did you mean 'epochs'?", "seed: should be greater"):  # fmt: skip
        assert words in said
    assert "widths" not in said


def test_a_bad_name_is_refused_beside_the_rest() -> None:
    for_run, rest = settings.split(map(from_argument, ["name=a/b", "lr=x"]))
    with pytest.raises(SettingsError) as refusal:
        settings.resolve_run(for_run, types(PLAIN), rest)
    assert len(refusal.value.problems) == 2
