"""Durations: `200`, `1 epoch`, `5 %`."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.durations import parse


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("200", (200.0, "step")),
        ("1 step", (1.0, "step")),
        ("7 steps", (7.0, "step")),
        ("200.0", (200.0, "step")),
        ("1 epoch", (1.0, "epoch")),
        ("1epoch", (1.0, "epoch")),
        ("0.5 epochs", (0.5, "epoch")),
        ("2   epochs", (2.0, "epoch")),
        ("5 %", (5.0, "%")),
        ("5%", (5.0, "%")),
        ("0.1 %", (0.1, "%")),
        ("  5 % ", (5.0, "%")),
        ("007", (7.0, "step")),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, found: tuple[float, str]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.0 %",
        "0 epochs",
        "-1",
        "+1",
        "1e3",
        "1_000",
        ".5 epochs",
        "1. epoch",
        "1 Epoch",
        "1 minute",
        "epoch",
        "%",
        "% 5",
        "5 % %",
        "1 epoch 2",
        "nan",
        "inf",
        "1,5 %",
        "\u0661 epoch",
        "1\nepochs\n2",
        "5 percent",
        "none",
        "true",
        "[1]",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration is a number of steps"):
        parse(text)


@pytest.mark.parametrize("text", ["1.5", "0.5 steps", "200.25"])
def test_half_a_step_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole"):
        parse(text)


@pytest.mark.parametrize("unit", ["", " epochs", " %"])
def test_a_number_too_large_for_a_float_is_refused(unit: str) -> None:
    with pytest.raises(ValueError, match="number"):
        parse("9" * 400 + unit)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text("0123456789.+-eE _%stephc", max_size=12) | st.text(max_size=6))
def test_any_text_is_a_finite_duration_or_a_value_error(text: str) -> None:
    try:
        number, unit = parse(text)
    except ValueError:
        return
    assert 0 < number < math.inf
    assert unit in ("step", "epoch", "%")
