"""A recipe file is loaded, or refused with the file, the line and the nearest name."""

import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import END, TINY, write_recipe

from launcher.errors import DataError, RecipeError
from launcher.recipe import Loaded, Recipe, blamed, call, load

FUNCTIONS = ("data", "model", "optimizer", "schedule", "loss", "metrics")


def refusal(path: Path) -> str:
    with pytest.raises(RecipeError) as error:
        load(path)
    return str(error.value)


def recipe_with(line: str) -> Path:
    """The tiny recipe with another last statement."""
    path = Path("other.py")
    path.write_text(f"{TINY}\n\n{line}\n")
    return path


def last_line(path: Path) -> int:
    return len(path.read_text().splitlines())


# ── loading ─────────────────────────────────────────────────────────────────────────────────────


def test_a_recipe_is_loaded_with_its_source() -> None:
    path = write_recipe()
    loaded = load(path)
    assert isinstance(loaded.recipe, Recipe)
    assert (loaded.path, loaded.source) == (path, path.read_bytes())
    assert loaded.recipe.hparams().batch_size == 16


def test_a_recipe_is_a_module_of_its_own_and_its_folder_is_the_first_on_the_path() -> None:
    Path("a").mkdir()
    load(write_recipe())
    paths, before = [write_recipe(), write_recipe(name="a/tiny.py")], sys.path[1:]
    loaded = [load(path) for path in paths]
    names = [one.recipe.hparams.__module__ for one in loaded]
    assert all(name.startswith("launcher_recipe_tiny_") for name in names)
    assert names[0] != names[1]
    for name, path in zip(names, paths, strict=True):
        assert Path(sys.modules[name].__file__ or "").resolve() == path.resolve()
    assert sys.path == [str(Path("a").resolve()), *before]


def test_annotations_may_be_text() -> None:
    """TINY has `from __future__ import annotations`: dataclasses look the module up by its name."""
    assert "from __future__ import annotations" in TINY
    assert load(write_recipe()).recipe.hparams(width=3).width == 3


def test_a_changed_file_is_another_recipe() -> None:
    path = write_recipe()
    before = load(path)
    path.write_text(path.read_text().replace("width: int = 8", "width: int = 9"))
    after = load(path)
    assert after.recipe.hparams().width == 9
    assert after.sha256 != before.sha256


def test_no_bytecode_is_left_beside_a_recipe() -> None:
    load(write_recipe())
    assert [path.name for path in Path().iterdir()] == ["tiny.py"]


# ── refusals ────────────────────────────────────────────────────────────────────────────────────


def test_a_syntax_error_has_file_line_and_column() -> None:
    path = recipe_with("def data(hparams:\n    pass")
    assert refusal(path).startswith(f"{path}:{last_line(path) - 1}:")
    path.write_text("x = 1\nclass = 2\n")
    assert refusal(path) == "other.py:2:7: invalid syntax."


@pytest.mark.parametrize("content", [b"x = 1\0\n", b"x = '\xff'\n", b"# coding: klingon\n"])
def test_a_file_that_is_no_python_text_is_refused_by_its_name(content: bytes) -> None:
    path = Path("other.py")
    path.write_bytes(content)
    assert refusal(path).startswith("other.py:")


def test_a_missing_recipe_is_refused_with_the_nearest_name() -> None:
    path = recipe_with("recipes = 1")
    assert refusal(path) == ("other.py defines no `recipe = Recipe(...)`. Did you mean 'recipes'?")


def test_a_recipe_that_is_something_else_is_refused() -> None:
    assert (
        refusal(recipe_with("recipe = dict()")) == "other.py: `recipe` must be a Recipe, not dict."
    )


def test_a_misspelt_field_is_refused_with_the_nearest_one() -> None:
    path = recipe_with(
        "recipe = Recipe(hparams=TinyHparams, data=data, model=model, optimiser=optimizer)"
    )
    message = refusal(path)
    assert message.startswith(f"other.py:{last_line(path)}: ")
    assert "'optimiser'" in message
    assert "Did you mean 'optimizer'?" in message
    known = "A Recipe has hparams, data, model, optimizer, schedule, loss, metrics, better."
    assert known in message


def test_a_missing_field_is_named_and_not_taken_for_a_misspelt_one() -> None:
    message = refusal(recipe_with("recipe = Recipe(hparams=TinyHparams, data=data, model=model)"))
    assert "'optimizer'" in message
    assert "Did you mean" not in message


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_signature_is_refused_with_the_right_one_and_yours(name: str) -> None:
    message = refusal(write_recipe(f"def {name}(this, that, other): pass"))
    assert f"Recipe.{name} must be a function {name}(" in message
    assert f"yours is {name}(this, that, other)." in message


def test_all_wrong_signatures_are_reported_together() -> None:
    path = write_recipe("def data(): pass\ndef model(hparams): pass\nschedule = 0.5")
    with pytest.raises(RecipeError) as error:
        load(path)
    assert len(error.value.problems) == 3
    assert "Recipe.schedule must be a function schedule(hparams, progress), not 0.5." in str(
        error.value
    )


def test_arguments_beyond_the_needed_ones_may_have_defaults() -> None:
    load(write_recipe("def schedule(hparams, progress, power=2): return progress**power"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("loss = nn.CrossEntropyLoss(label_smoothing=0.1)", "a CrossEntropyLoss takes other"),
        ("loss = nn.functional.cross_entropy", "torch.nn.functional.cross_entropy takes other"),
        ("loss = partial(nn.functional.mse_loss, reduction='sum')", "functional.mse_loss takes"),
        ("class Focal(nn.Module):\n    def forward(self, logits, label): pass\nloss = Focal()",
         "a Focal takes other arguments"),
        ("metrics = nn.L1Loss()", "give lambda model, batch: ...."),
        ("model = nn.Linear(16, 4)", "give lambda hparams, data: ...."),
        ("optimizer = torch.optim.SGD", "torch.optim.sgd.SGD takes other arguments"),
        ("schedule = torch.optim.lr_scheduler.StepLR", "lr_scheduler.StepLR takes other"),
    ],
)  # fmt: skip
def test_what_is_torchs_own_is_refused_with_a_function_that_calls_it(line: str, words: str) -> None:
    name = line.rpartition("\n")[2].partition(" ")[0]
    message = refusal(write_recipe(f"from functools import partial\n{line}"))
    assert f"Recipe.{name} must be a function {name}(" in message
    assert words in message
    if name == "loss":
        assert 'give lambda model, batch: F.cross_entropy(model(batch["image"]), ' in message


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("TinyHparams = dict", "Recipe.hparams must be a subclass of Hparams"),
        ("TinyHparams = None", "Recipe.hparams must be a subclass of Hparams, not None"),
        ("class Bare(Hparams): pass\nTinyHparams = Bare", "Bare must be decorated with @dataclass"),
    ],
)
def test_other_hyperparameters_than_a_dataclass_of_ours_are_refused(lines: str, words: str) -> None:
    assert words in refusal(write_recipe(lines))


def test_an_exception_while_loading_names_the_file_and_the_line() -> None:
    path = write_recipe("import not_there")
    line = path.read_text().splitlines().index("import not_there") + 1
    assert refusal(path) == (
        f"tiny.py:{line}: the recipe raised ModuleNotFoundError: No module named 'not_there'."
    )


def test_an_exit_while_loading_is_a_refusal() -> None:
    assert "ended the program with exit(0)" in refusal(write_recipe("raise SystemExit(0)"))


# ── calling ─────────────────────────────────────────────────────────────────────────────────────


def loaded_with(extra: str) -> Loaded:
    return load(write_recipe(extra))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_exception_in_a_function_names_the_recipe_and_its_line(name: str) -> None:
    loaded = loaded_with(f"def {name}(a, b=None):\n    return [][1]  # here")
    line = [n for n, text in enumerate(loaded.source.decode().splitlines(), 1) if "# here" in text]
    with pytest.raises(RecipeError) as error:
        call(loaded, name, object, *([None] if name == "data" else [None, None]))
    assert str(error.value) == (
        f"tiny.py:{line[0]}: recipe.{name} raised IndexError: list index out of range."
    )
    assert isinstance(error.value.__cause__, IndexError)


def test_the_innermost_line_of_the_recipe_is_named() -> None:
    loaded = loaded_with("def deep():\n    int('x')  # here\n\n\ndef data(hparams): deep()")
    line = [n for n, text in enumerate(loaded.source.decode().splitlines(), 1) if "# here" in text]
    with pytest.raises(RecipeError, match=rf"^tiny\.py:{line[0]}: recipe.data raised ValueError"):
        call(loaded, "data", object, None)


def test_an_exit_in_a_function_is_a_refusal() -> None:
    loaded = loaded_with("import sys\n\n\ndef data(hparams): sys.exit(0)")
    with pytest.raises(RecipeError, match=r"recipe\.data in tiny\.py .* exit\(0\)"):
        call(loaded, "data", object, None)


def test_a_refusal_of_ours_passes_through() -> None:
    loaded = loaded_with(
        "from launcher.errors import DataError\n\n\ndef data(hparams): raise DataError('no file')"
    )
    with pytest.raises(DataError, match=r"^no file$"):
        call(loaded, "data", object, None)


def test_a_wrong_kind_of_result_is_refused() -> None:
    loaded = loaded_with("def data(hparams): return [1]")
    with pytest.raises(RecipeError) as error:
        call(loaded, "data", Recipe, None)
    assert str(error.value) == "recipe.data in tiny.py must return Recipe, but returned list."


@pytest.mark.parametrize(("value", "result"), [("1", 1.0), ("0.5", 0.5)])
def test_a_factor_may_be_any_number(value: str, result: float) -> None:
    loaded = loaded_with(f"def schedule(hparams, progress): return {value}")
    assert call(loaded, "schedule", float, None, 0.5) == result


@pytest.mark.parametrize("value", ["True", "'1'", "None", "1j"])
def test_a_factor_that_is_no_number_is_refused(value: str) -> None:
    loaded = loaded_with(f"def schedule(hparams, progress): return {value}")
    with pytest.raises(RecipeError, match=r"recipe\.schedule in tiny\.py must return float"):
        call(loaded, "schedule", float, None, 0.5)


def test_a_recipe_without_a_schedule_keeps_its_learning_rate() -> None:
    path = recipe_with(
        "recipe = Recipe(hparams=TinyHparams, data=data, model=model, optimizer=optimizer)"
    )
    assert "schedule=" in END
    assert call(load(path), "schedule", float, None, 0.5) == 1.0


@pytest.mark.parametrize("decorator", ["@dataclass", "@dataclass(frozen=True)"])
def test_a_class_of_hyperparameters_is_told_how_to_be_decorated(decorator: str) -> None:
    path = recipe_with(
        f"{decorator}\nclass H(Hparams):\n"
        "    epochs: int = 1\n    batch_size: int = 2\n    lr: float"
    )
    with pytest.raises(RecipeError) as error:
        load(path)
    (said,) = error.value.problems
    assert "write @dataclass(frozen=True, kw_only=True) above a class of hyperparameters." in said
    assert re.match(r"other\.py:\d+: ", said)
    assert not error.value.frames


def test_a_layer_of_the_wrong_size_shows_no_lines_of_torch_calling_layers() -> None:
    loaded = loaded_with(
        "net = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1))\n\n\n"
        "def loss(model, batch):\n    return net(torch.zeros(1, 2))  # here"
    )
    with pytest.raises(RecipeError, match="cannot be multiplied") as error:
        call(loaded, "loss", object, None, None)
    assert "# here" in error.value.frames or "net(torch.zeros" in error.value.frames
    assert "linear.py" in error.value.frames
    assert "modules/module.py" not in error.value.frames
    assert "container.py" not in error.value.frames


def test_the_stack_of_torchs_own_code_is_left_out() -> None:
    """Of a number that is no C integer, say: forty lines of frames."""
    with pytest.raises(RecipeError) as refusal, blamed(Path("r.py"), "recipe.model"):
        torch.empty((10**21, 3))
    said = str(refusal.value)
    assert said.endswith('with error "Overflow when unpacking long long".')
    assert "\n" not in said


def test_what_a_recipe_says_of_frames_is_left() -> None:
    for words in ("no frame #3: of 4", "Exception raised from the video reader"):
        with pytest.raises(RecipeError, match=words), blamed(Path("r.py"), "recipe.data"):
            raise ValueError(words)
