"""The tree of refusals, and the sentences it is made of."""

import pytest

from launcher import errors
from launcher.errors import LauncherError, did_you_mean, listed

CODES = {
    "SettingsError": 2,
    "RecipeError": 3,
    "DataError": 4,
    "CheckpointError": 5,
    "NonFiniteError": 6,
    "StorageError": 7,
    "LockedError": 8,
    "DistributedError": 9,
    "OutOfMemoryError": 10,
    "Preempted": 75,
}


def test_exit_codes_are_a_promise_to_scripts() -> None:
    found = {
        name: kind.code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, LauncherError) and kind is not LauncherError
    }
    assert found == CODES
    assert (LauncherError.code, errors.BUG, errors.INTERRUPTED) == (1, 70, 130)


def test_no_two_refusals_share_a_code_or_a_title() -> None:
    kinds: list[type[LauncherError]] = [LauncherError, *LauncherError.__subclasses__()]
    ours = [kind for kind in kinds if kind.__module__ == errors.__name__]
    codes = [kind.code for kind in ours] + [errors.BUG, errors.INTERRUPTED]
    assert len(set(codes)) == len(codes)
    titles = [kind.title for kind in ours]
    assert len(set(titles)) == len(titles)
    assert 0 not in codes


def test_the_module_docstring_names_every_refusal_with_its_code() -> None:
    lines = [line.split() for line in (errors.__doc__ or "").splitlines()]
    for name, code in CODES.items():
        assert any(name in words and str(code) in words for words in lines), name


def test_an_error_keeps_its_problems_apart() -> None:
    error = LauncherError("first.", "second.")
    assert error.problems == ("first.", "second.")
    assert str(error) == "first.\nsecond."


def test_an_error_without_a_sentence_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        LauncherError()


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("batchsize", "batch_size"),
        ("batch-size", "batch_size"),
        ("epoch", "epochs"),
        ("see", "seed"),
    ],
)
def test_the_nearest_known_word_is_named(word: str, near: str) -> None:
    known = ["seed", "epochs", "batch_size", "precision"]
    assert did_you_mean(word, known) == f" Did you mean '{near}'?"
    assert did_you_mean(word, iter(known)) == f" Did you mean '{near}'?"


@pytest.mark.parametrize("word", ["", "zzz", "learning_rate"])
def test_nothing_is_named_when_nothing_is_near(word: str) -> None:
    assert did_you_mean(word, ["seed", "epochs", "batch_size"]) == ""
    assert did_you_mean(word, []) == ""


@pytest.mark.parametrize(
    ("names", "most", "text"),
    [
        ([], 10, ""),
        (["a"], 10, "a"),
        (["a", "b", "c"], 3, "a, b, c"),
        (["a", "b", "c", "d"], 3, "a, b, c and 1 more"),
        (range(12), 10, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"),
    ],
)
def test_a_long_list_is_cut_with_the_count_of_the_rest(
    names: list[object], most: int, text: str
) -> None:
    assert listed(iter(names), most) == text
