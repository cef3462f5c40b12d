"""Charts, colours and words of a report, part by part."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.report.curves import Series
from launcher.report.matrix import level, matrix
from launcher.report.palette import DARK, LEVELS, LIGHT, SERIES, Theme, contrast, shade
from launcher.report.plot import HEIGHT, WIDTH, Axis, Kind, Line, chart, round_values, tick_label
from launcher.report.words import breakable, number, percent, setting, short, span, text


def series(values: list[float | None], steps: list[int] | None = None) -> Series:
    found = Series()
    for step, value in zip(steps or range(len(values)), values, strict=True):
        found.add(step, value)
    return found


def places(svg: str) -> list[tuple[float, float]]:
    """Every point of curves and dots."""
    found = []
    for path in re.findall(r"class='(?:line|raw|band) c\d' d='M([^']*)'", svg):
        for point in path.rstrip("Z").split("L"):
            x, y = map(float, point.split())
            found.append((x, y))
    return found


# ── charts ───────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.floats(-1e199, 1e199), min_size=1, max_size=80), st.sampled_from(
    ["number", "log"]), st.booleans())  # fmt: skip
def test_any_finite_values_stay_inside_the_chart(
    values: list[float], kind: Kind, from_zero: bool
) -> None:
    svg = chart("any", [Line("a", series([*values]))], kind=kind, from_zero=from_zero)
    assert not re.search(r"\b(nan|inf)\b", svg)
    points = places(svg)
    assert len(points) >= len(values)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_shares_stay_between_nothing_and_all(values: list[float]) -> None:
    svg = chart("share", [Line("a", series([*values]))], kind="percent")
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(svg))
    assert not re.search(r">-\d|>1[1-9]\d %", svg)


def test_a_curve_without_a_finite_value_is_named() -> None:
    svg = chart("Loss", [Line("train", series([None, None])), Line("test", series([1.0]), 2)])
    assert "train not finite" in svg
    assert "No finite value." in chart("Loss", [Line("train", series([None]))])


def test_values_that_were_lost_are_counted() -> None:
    assert "(2 not finite)" in chart("Loss", [Line("train", series([1.0, None, None, 2.0]))])


def test_a_noisy_curve_is_a_smooth_line_over_a_faint_one() -> None:
    noisy = series([float(step % 2) for step in range(200)])
    svg = chart("Loss", [Line("train", noisy)])
    assert "class='raw c1'" in svg
    assert "class='line c1'" in svg
    longer = chart("Loss", [Line("train", series([float(step % 2) for step in range(2000)]))])
    assert "class='band c1'" in longer
    assert "raw" not in chart("Loss", [Line("train", series([1.0, 0.5, 0.2]))])


def test_where_many_curves_lie_over_one_another_only_the_smooth_ones_are_drawn() -> None:
    noisy = series([1.0 + 9 * (step == 100) for step in range(200)])
    svg = chart("Loss", [Line("one", noisy), Line("other", noisy, 2)], bare=True)
    assert "raw" not in svg
    assert svg.count("class='line") == 2
    highest = max(float(label) for label in re.findall(r"class=end>([\d.]+)", svg))
    assert highest < 5


def test_a_long_curve_is_a_small_chart() -> None:
    svg = chart("Loss", [Line("train", series([1 / (1 + step) for step in range(50_000)]))])
    assert len(svg) < 30_000


def test_one_value_is_a_dot_in_the_chart() -> None:
    svg = chart("Loss", [Line("train", series([2.5], [8]))])
    assert svg.count("<circle") == 1
    (x, y) = places(svg)[0]
    assert 40 < x < WIDTH - 10
    assert 20 < y < HEIGHT - 30


def test_a_wide_range_of_losses_gets_a_logarithmic_axis() -> None:
    falling = series([10.0 ** -(step / 10) for step in range(40)])
    axis = chart("Loss", [Line("train", falling)], kind="log")
    assert re.findall(r"class='?end'?>([^<]*)", axis)[:3] == ["0.001", "0.01", "0.1"]
    plain = chart("Loss", [Line("train", falling)])
    assert "0.001" not in re.findall(r"class='?end'?>([^<]*)", plain)


def test_marks_are_where_the_run_was_continued() -> None:
    values = series([1.0, 0.5, 0.2], [0, 50, 100])
    svg = chart("Loss", [Line("train", values)], marks=[50, 0, 1000])
    (mark,) = re.findall(r"class=mark d='M([\d.]+)", svg)
    assert abs(float(mark) - places(svg)[1][0]) < 0.2


def test_labels_do_not_run_into_the_axis() -> None:
    """An earlier report had a fixed margin."""
    for high in (1, 1000, 123_456, 1e-7):
        svg = chart("x", [Line("a", series([0.0, high]))], from_zero=True)
        labels = re.findall(r"x='([\d.]+)' y='[\d.]+' class=end>([^<]*)", svg)
        assert len(labels) >= 2
        for end, label in labels[:-1]:
            assert float(end) - 6.7 * len(label) > 0, label


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, size: float, most: int) -> None:
    found = round_values(low, low + size, most)
    assert 0 < len(found) <= most
    slack = 1e-6 * (abs(low) + size)
    assert all(low - slack <= value <= low + size + slack for value in found) or len(found) == 1


def test_ticks_of_a_logarithmic_axis_are_powers_of_ten() -> None:
    assert Axis(1e-4, 2, 0, 1, log=True).ticks(5) == [1e-4, 1e-3, 1e-2, 0.1, 1.0]
    assert Axis(0.5, 30, 0, 1, log=True).ticks(5) == [1.0, 3.0, 10.0, 30.0]
    assert len(Axis(1e-30, 1, 0, 1, log=True).ticks(5)) <= 5


@pytest.mark.parametrize(
    ("ticks", "kind", "shown"),
    [
        ([0, 0.0005, 0.001], "number", ["0", "0.0005", "0.0010"]),
        ([2.29, 2.30, 2.31], "number", ["2.29", "2.30", "2.31"]),
        ([0, 50, 100], "number", ["0", "50", "100"]),
        ([0, 5000, 10000], "number", ["0", "5k", "10k"]),
        ([0, 2e-6, 4e-6], "number", ["0", "2e-6", "4e-6"]),
        ([0, 5e5, 1e6], "number", ["0", "500k", "1M"]),
        ([0.8, 0.9, 1.0], "percent", ["80 %", "90 %", "100 %"]),
        ([0.985, 0.99], "percent", ["98.5 %", "99.0 %"]),
        ([1e-5, 1e-3, 0.1], "log", ["1e-5", "0.001", "0.1"]),
    ],
)
def test_ticks_have_the_decimals_that_they_need(
    ticks: list[float], kind: Kind, shown: list[str]
) -> None:
    assert [tick_label(value, kind, ticks) for value in ticks] == shown


# ── colours ──────────────────────────────────────────────────────────────────────────────────────


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # famously too little
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_can_be_read(theme: Theme) -> None:
    for ground in ("ground", "raised"):
        for ink in ("ink", "quiet", "good", "bad", "warn"):
            assert contrast(theme[ground], theme[ink]) >= 4.5, (ground, ink)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["s1", "s2"])
def test_every_cell_of_a_matrix_can_be_read(theme: Theme, kind: str) -> None:
    for full in range(LEVELS + 1):
        fill, ink = shade(theme, kind, full)
        assert contrast(fill, ink) >= 4.5, full
    shades = [contrast(theme["ground"], shade(theme, kind, n)[0]) for n in range(LEVELS + 1)]
    assert shades == sorted(shades)
    assert shades[0] == 1
    assert shades[1] > 1.02


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_curve_stands_out(theme: Theme) -> None:
    """3 is asked of graphics (WCAG 2.2, section 1.4.11)."""
    colours = [theme[f"s{n}"] for n in range(1, SERIES + 1)]
    assert all(contrast(theme["ground"], colour) >= 3 for colour in colours)
    assert len({*colours}) == SERIES


# ── the matrix ───────────────────────────────────────────────────────────────────────────────────


def test_a_rare_mistake_is_seen_and_nothing_is_not() -> None:
    assert level(0, 1000) == 0
    assert level(1, 1000) >= 1
    assert level(1000, 1000) == LEVELS


def test_few_classes_have_numbers_and_many_a_picture() -> None:
    few = matrix([[3, 1], [0, 4]], ["cat", "dog"])
    assert re.findall(r"class='cell mid'[^>]*>(\d+)", few) == ["3", "1", "4"]
    assert "cat taken for dog: 1" in few
    names = [f"class {n}" for n in range(26)]
    many = matrix(
        [[9 if a == b else (b == a + 1) * 2 for b in range(26)] for a in range(26)], names
    )
    assert "<img class=heat" in many
    assert "<b>class 0</b> taken for <b>class 1</b>: 2 of 11" in many


def test_a_matrix_without_a_mistake_says_so() -> None:
    names = [f"class {n}" for n in range(30)]
    assert "There are none." in matrix([[int(a == b) for b in range(30)] for a in range(30)], names)


def test_names_beside_a_matrix_have_room() -> None:
    for name in ("W" * 40, "日本語のクラスの名前がここにある", "a"):
        drawn = matrix([[1, 0], [0, 1]], [name, "b"])
        end, label = re.findall(r"class=end x='(\d+)' y='\d+'>([^<]*)", drawn)[0]
        letters = 14.6 if ord(name[0]) > 0x3000 else 7.3
        assert int(end) >= letters * len(label)


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def test_what_could_be_markup_is_not() -> None:
    assert text("<b a='1' c=\"2\">&") == "&lt;b a=&#x27;1&#x27; c=&quot;2&quot;&gt;&amp;"


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\u202e", "\udc80", "\x7f", "\u2028"])
def test_what_controls_a_text_is_spelt_out(character: str) -> None:
    shown = text(f"a{character}b")
    assert character not in shown
    shown.encode()
    assert shown.startswith("a\\")


def test_a_very_long_text_is_cut() -> None:
    assert len(text("x" * 10**6)) < 3000


@pytest.mark.parametrize(
    "key",
    ["token", "api_token", "wandb_api_key", "password", "db_password", "SECRET", "hf-token",
     "private_key", "credentials", "auth"],
)  # fmt: skip
def test_a_text_named_like_a_secret_is_left_out(key: str) -> None:
    assert "CANARY" not in setting(key, "CANARY")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [("max_tokens", 512, "512"), ("token", "", ""), ("author", "me", "me"), ("keep", 2, "2"),
     ("key_size", "large", "large"), ("tokenizer", "bpe", "bpe"), ("password", None, "none")],
)  # fmt: skip
def test_what_only_sounds_alike_is_shown(key: str, value: object, shown: str) -> None:
    assert setting(key, value).strip("'\"") == shown


def test_the_password_of_a_url_is_left_out_wherever_it_stands() -> None:
    assert "CANARY" not in text("failed: https://me:CANARY@host/x: 404")
    assert "CANARY" not in breakable("https://me:CANARY@host/x")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "not finite"), (0.0, "0"), (0.02129, "0.02129"), (1234.5, "1,234"), (3.1e-8, "3.1e-8"),
     (-2.5, "-2.5"), (1e12, "1e12"), (999.95, "1000")],
)  # fmt: skip
def test_numbers_are_for_people(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_percent_and_spans_and_names() -> None:
    assert percent(0.98127) == "98.13\u00a0%"
    assert [span(s) for s in (None, 45.23, 121, 3660, 12_000, 200_000)] == [
        "-", "45.2 s", "2 min 1 s", "1 h 1 min", "3 h 20 min", "2 d 7 h"
    ]  # fmt: skip
    assert short("x" * 50, 18) == "x" * 17 + "…"
    assert breakable("micro_batch") == "micro_<wbr>batch"
