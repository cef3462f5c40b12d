"""The name of a run: the same command, the same name."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.layers import Given, from_argument
from launcher.naming import LONGEST, derive
from launcher.settings import RUN_NAME

RESNET = Path("recipes/cifar_resnet.py")
QUICK = Path("configs/runs/quick.yaml")


def name(*arguments: str, recipe: Path = RESNET, configs: Sequence[Path] = ()) -> str:
    return derive(recipe, configs, map(from_argument, arguments))


def test_the_example_of_the_design() -> None:
    assert name("peak_lr=0.05", configs=[QUICK]) == "cifar_resnet--quick,peak_lr=0.05"


def test_a_recipe_alone_gives_its_stem() -> None:
    assert name() == "cifar_resnet"


def test_configs_come_in_their_order_and_arguments_sorted() -> None:
    configs = [QUICK, Path("a.yaml")]
    assert name("b=2", "a=1", configs=configs) == "cifar_resnet--quick,a,a=1,b=2"
    assert name("a=1", "b=2", configs=configs) == name("b=2", "a=1", configs=configs)
    assert name(configs=configs) != name(configs=configs[::-1])


def test_of_two_values_the_last_counts() -> None:
    assert name("a=1", "b=1", "a=2") == "cifar_resnet--a=2,b=1"


def test_a_value_stands_as_it_was_typed() -> None:
    assert name("lr=3e-4") == "cifar_resnet--lr=3e-4"
    assert name("lr=0.0003") != name("lr=3e-4")
    assert name("clip=") == "cifar_resnet--clip="


def test_what_a_config_file_says_is_not_repeated() -> None:
    from_file = Given("epochs", 4, "4", "config configs/runs/quick.yaml:6")
    given = [from_file, from_argument("peak_lr=0.05")]
    assert derive(RESNET, [QUICK], given) == "cifar_resnet--quick,peak_lr=0.05"


def test_other_characters_are_replaced_and_a_hash_tells_the_texts_apart() -> None:
    found = name("widths=[1, 2]")
    text = "cifar_resnet--widths=[1, 2]"
    assert found == "cifar_resnet--widths=-1,-2--" + hashlib.sha256(text.encode()).hexdigest()[:8]
    assert found == "cifar_resnet--widths=-1,-2--0d68588d"
    assert name("widths=(1, 2)") != found


def test_a_long_name_is_cut_and_gets_a_hash() -> None:
    longest = "x" * (LONGEST - len("cifar_resnet--a="))
    assert name(f"a={longest}") == f"cifar_resnet--a={longest}"
    cut = name(f"a={longest}y")
    assert re.fullmatch(rf"cifar_resnet--a={longest}-[0-9a-f]{{8}}", cut)
    assert name(f"a={longest}z") != cut
    assert len(cut) == 89


@pytest.mark.parametrize("stem", ["_private", "-x", ".hidden", "=", "+", ",", "\u00fcber"])
def test_a_name_begins_with_a_letter_or_a_digit(stem: str) -> None:
    found = name(recipe=Path(f"{stem}.py"))
    assert RUN_NAME.fullmatch(found)
    assert found.startswith("run-")


def test_bytes_that_are_no_text_have_a_name_too() -> None:
    """What Python makes of a file name, or an argument, that is not UTF-8."""
    assert RUN_NAME.fullmatch(name("a=\udcff", recipe=Path("\udcfe.py")))


texts = st.text(min_size=1, max_size=60).filter(lambda text: "/" not in text and "\0" not in text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(stem=texts, configs=st.lists(texts, max_size=2), values=st.lists(st.text(), max_size=3))
def test_any_texts_give_a_name_that_is_a_safe_folder(
    stem: str, configs: list[str], values: list[str]
) -> None:
    arguments = [f"key_{place}={value}" for place, value in enumerate(values)]
    paths = [Path(f"{config}.yaml") for config in configs]
    found = name(*arguments, recipe=Path(f"{stem}.py"), configs=paths)
    assert RUN_NAME.fullmatch(found)
    assert len(found) <= LONGEST + 9
    assert name(*arguments, recipe=Path(f"{stem}.py"), configs=paths) == found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(one=st.text(max_size=8), other=st.text(max_size=8))
def test_two_values_never_share_a_name(one: str, other: str) -> None:
    assert (name(f"a={one}") == name(f"a={other}")) == (one == other)
