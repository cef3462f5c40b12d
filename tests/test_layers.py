"""YAML files and arguments as plain values, and everything that they must not be able to do."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import layers
from launcher.errors import SettingsError
from launcher.layers import Given, from_argument, from_file, scalar

FILE = Path("x.yaml")


def config(content: str | bytes) -> list[Given]:
    """What a config file with this content gives."""
    FILE.write_bytes(content.encode() if isinstance(content, str) else content)
    return from_file(FILE)


# ── values ───────────────────────────────────────────────────────────────────────────────────────

VALUES: list[tuple[str, Any]] = [
    ("3", 3),
    ("-3", -3),
    ("+3", 3),
    ("0", 0),
    ("3e-4", 3e-4),
    ("3E4", 3e4),
    ("1e3", 1000.0),
    ("1.5", 1.5),
    (".5", 0.5),
    ("5.", 5.0),
    ("-0.1", -0.1),
    ("true", True),
    ("false", False),
    ("none", None),
    ("None", None),
    ("null", None),
    ("~", None),
    ("", None),
    # words: YAML 1.1 has them as booleans, sexagesimal numbers, dates and octals
    ("no", "no"),
    ("off", "off"),
    ("on", "on"),
    ("yes", "yes"),
    ("y", "y"),
    ("True", "True"),
    ("010", 10.0),  # a float, so that a whole number refuses it: it is never an octal
    ("0x10", "0x10"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("2020-01-01", "2020-01-01"),
    ("1.2.3", "1.2.3"),
    ("1e", "1e"),
    ("e3", "e3"),
    ("=", "="),
    ("nothing", "nothing"),
    ("5 %", "5 %"),
    ("test/accuracy", "test/accuracy"),
    ("[1,2]", [1, 2]),
    ("[1, 3e-4, no, none]", [1, 3e-4, "no", None]),
    ("[]", []),
    ("'3'", "3"),
    ('"true"', "true"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_an_argument_and_a_file_read_a_value_alike(text: str, value: Any) -> None:
    (in_file,) = config(f"key: {text}\n")
    argument = from_argument(f"key={text}")
    for found in (in_file, argument):
        assert found.value == value
        assert type(found.value) is type(value)
    assert in_file.source == "config x.yaml:1"
    assert argument.source == "argument"
    assert argument.text == text


def test_yaml_itself_would_read_other_values() -> None:
    """The negative control: what SafeLoader makes of three of the texts above."""
    import yaml

    assert yaml.safe_load("[no, 010, 3e-4]") == [False, 8, "3e-4"]


def test_a_file_keeps_the_text_of_what_is_not_quoted() -> None:
    found = config("a: 1e3\nb: '1e3'\nc: [1]\nd:\n")
    assert [given.text for given in found] == ["1e3", None, None, ""]
    assert [given.shown for given in found] == ["'1e3'", '"1e3"', "[1]", "''"]


def test_every_value_of_a_file_has_its_line() -> None:
    found = config("# a comment\na: 1\n\nb: 2\nc: [1,\n  2]\nd: x\n")
    assert [(g.key, g.source) for g in found] == [
        ("a", "config x.yaml:2"),
        ("b", "config x.yaml:4"),
        ("c", "config x.yaml:5"),
        ("d", "config x.yaml:7"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa: 1\nb: x\n",
        b"a: 1\r\nb: x\r\n",
        b"\xef\xbb\xbfa: 1\r\nb: x",
        b"{a: 1, b: x}",
        b"---\na: 1\nb: x\n...\n",
        "# \u00fc\na: 1\nb: x\n".encode(),
    ],
)
def test_files_of_any_editor_are_read(content: bytes) -> None:
    assert [(given.key, given.value) for given in config(content)] == [("a", 1), ("b", "x")]


@pytest.mark.parametrize("content", ["", "\n", "# only a comment\n"])
def test_an_empty_file_gives_nothing(content: str) -> None:
    assert config(content) == []


# ── files that are refused ───────────────────────────────────────────────────────────────────────

BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        pytest.param("a: 1\nb: 2\na: 3\n", 3, "'a' stands here again, first on line 1", id="twice"),
        pytest.param("a: !!python/object/apply:os.system [ls]", 1, "tag", id="python tag"),
        pytest.param("!!python/object:os.x\na: 1", 1, "tag", id="tag on the file"),
        pytest.param("a: !mine 3", 1, "tag !mine", id="own tag"),
        pytest.param("a: !!str 3", 1, "tag", id="harmless tag"),
        pytest.param("b: 1\na: [1, !!int '3']", 2, "tag", id="tag in a list"),
        pytest.param(BOMB, 1, "anchors and aliases", id="alias bomb"),
        pytest.param("a: &x 3", 1, "anchors", id="anchor"),
        pytest.param("a: 1\nb: *x", 2, "alias", id="alias"),
        pytest.param("a: {b: 1}", 1, "not a mapping", id="mapping"),
        pytest.param("a: 1\nb:\n  c: 1\n", 2, "not a mapping", id="indented mapping"),
        pytest.param("a: [1, {b: 1}]", 1, "not a mapping", id="mapping in a list"),
        pytest.param("<<: {a: 1}", 1, "not a mapping", id="merge"),
        pytest.param("- a\n- b\n", 1, "key: value", id="list"),
        pytest.param("word", 1, "key: value", id="word"),
        pytest.param("3", 1, "key: value", id="number"),
        pytest.param("? [a]\n: 1", 1, "a key is a single word", id="list as key"),
        pytest.param("? {a: 1}\n: 1", 1, "a key is a single word", id="mapping as key"),
        pytest.param("a: 1\n---\nb: 2", 2, "another document", id="two documents"),
        pytest.param("a: [1", 1, "expected ',' or ']'", id="open list"),
        pytest.param("a: 1\nb: 'x", 2, "end of stream", id="open quote"),
        pytest.param("a: 1\n\tb: 2", 2, "", id="tab"),
        pytest.param("a: 1\n b: 2", 2, "", id="indented key"),
        pytest.param("a: b: c", 1, "not allowed here", id="two colons"),
        pytest.param("a: @x", 1, "cannot start any token", id="reserved character"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(content: str, line: int, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        config(content)
    (problem,) = refused.value.problems
    assert problem.startswith(f"config x.yaml:{line}: ")
    assert words in problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"a: \xff", "not text in UTF-8", id="latin 1"),
        pytest.param("a: 1".encode("utf-16"), "not text in UTF-8", id="UTF-16"),
        pytest.param(b"a: \0", "is not YAML", id="NUL"),
        pytest.param(b"a: \x1b[31m", "is not YAML", id="escape"),
        pytest.param(b"a: " + b"[" * 1500 + b"]" * 1500, "more than 32 deep", id="deep"),
        pytest.param(b"#" * (layers.MOST_BYTES + 1), "larger than 1 MiB", id="large"),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_its_name(content: bytes, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        config(content)
    assert "x.yaml" in str(refused.value)


@pytest.mark.parametrize("text", ["1" * 5000, "-" + "1" * 5000, ".Inf", "-.Inf", ".NaN"])
def test_no_number_in_a_file_is_a_bug_of_ours(text: str) -> None:
    """It may be refused here or later by its field, but never with a ValueError."""
    try:
        (found,) = config(f"a: {text}\n")
    except SettingsError:
        return
    assert found.text == text


def test_a_file_of_exactly_the_largest_size_is_read() -> None:
    assert config(b"a: 1\n" + b"#" * (layers.MOST_BYTES - 5))[0].value == 1


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: No such file"):
        from_file(Path("none.yaml"))
    with pytest.raises(SettingsError, match="Is a directory"):
        from_file(tmp_path)


def test_a_tag_never_runs_anything(tmp_path: Path) -> None:
    touch = f"!!python/object/apply:os.system ['touch {tmp_path}/ran']"
    with pytest.raises(SettingsError):
        config(f"a: {touch}")
    from_argument(f"a={touch}")
    assert sorted(os.listdir(tmp_path)) == ["x.yaml"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text("ab:[]{}&*!|>'\"#-?,% \n\t0.eE%@`~<=", max_size=30) | st.text(max_size=30))
def test_any_text_is_a_config_or_a_refusal(content: str) -> None:
    try:
        found = config(content)
    except SettingsError:
        return
    keys = [given.key for given in found]
    assert len(set(keys)) == len(keys)


# ── arguments ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "word", ["epochs", "", "=3", "-x=3", "a-b=3", "a.b=3", "3=a", "a b=3", "\u00e9=1", "a\n=1"]
)
def test_a_word_that_is_no_setting_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match="key=value") as refused:
        from_argument(word)
    assert repr(word) in str(refused.value)


def test_only_the_first_equals_sign_counts() -> None:
    found = from_argument("a=b=c")
    assert (found.key, found.value, found.text) == ("a", "b=c", "b=c")


@pytest.mark.parametrize(
    "text",
    ["a: b", "{a: 1}", "[1", "'x", "@x", "%x", "[1, {a: 2}]", "1\n---\n2", "\udcff"],
)
def test_an_argument_that_is_no_yaml_is_a_text(text: str) -> None:
    assert from_argument(f"key={text}") == Given("key", text, text, "argument")


@pytest.mark.parametrize(
    "text", ["&a 3", "[&a 1, *a]", "!!int '3'", "!!python/object/apply:os.system [ls]", "!!str 3"]
)
def test_anchors_and_tags_mean_nothing_in_an_argument(text: str) -> None:
    assert from_argument(f"key={text}").value == text


def test_an_alias_bomb_in_an_argument_does_not_explode() -> None:
    """Twelve levels of two: 4096 values if it were expanded, and a terabyte with a few more."""
    levels = ["&a0 [x, x]", *(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 12))]
    text = f"[{', '.join(levels)}]"
    found = from_argument(f"key={text}")
    assert len(repr(found.value)) <= len(repr(text))


def test_a_deep_argument_is_a_text() -> None:
    text = "[" * 1500 + "]" * 1500
    assert from_argument(f"key={text}").value == text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text("ab:[]{}&*!|>'\"#-?,% \n\t0.eE%@`~<=", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_value(text: str) -> None:
    found = from_argument(f"key={text}")
    assert (found.key, found.text) == ("key", text)
    assert found.value is None or isinstance(found.value, bool | int | float | str | list)


# ── and back ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (0.1, "0.1"),
        ("1 epoch", "1 epoch"),
        ((), "[]"),
        ((1, None, "a"), "[1,none,a]"),
        ([True, 3e-4], "[true,0.0003]"),
    ],
)
def test_a_value_is_shown_as_a_user_would_type_it(value: object, text: str) -> None:
    assert scalar(value) == text


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(plain | st.lists(plain, max_size=4))
def test_what_is_shown_reads_as_the_same_value(value: object) -> None:
    found = from_argument(f"key={scalar(value)}").value
    assert found == value
    assert type(found) is type(value)
