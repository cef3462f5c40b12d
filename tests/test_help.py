"""`--help`: read from source, at once, without running anything."""

import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from conftest import HANGS

from launcher import cli, help, outline, settings
from launcher.layers import scalar
from launcher.outline import Setting
from launcher.settings import Hparams, RunSettings

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.py"))

RAISES = '''\
"""A recipe that cannot be run."""

raise SystemExit("a recipe was run to show its help")


@dataclass(frozen=True, kw_only=True)
class MineHparams(Hparams):
    """The docstring of the class is not that of a field."""

    epochs: int = 30
    batch_size: int
    lr: float = 3e-4
    """The learning
    rate."""
    momentum: float = 0.9
    # a comment
    clip: float | None = None
    """Longest gradient."""
    widths: tuple[int, ...] = (256, 128)
    names: list[str] = field(default_factory=list)
    low: float = -1.5
    flip: bool = True
    words: str = "1 epoch"
    doubled = 3

    def method(self) -> None:
        inner: int = 3


class Other:
    not_mine: int = 3
'''


def test_fields_are_read_from_the_source_of_a_recipe_that_cannot_run() -> None:
    assert list(outline.fields(RAISES, {"Hparams"})) == [
        Setting("epochs", "int", "30", ""),
        Setting("batch_size", "int", "required", ""),
        Setting("lr", "float", "0.0003", "The learning rate."),
        Setting("momentum", "float", "0.9", ""),
        Setting("clip", "float | None", "none", "Longest gradient."),
        Setting("widths", "tuple[int, ...]", "[256,128]", ""),
        Setting("names", "list[str]", "field(default_factory=list)", ""),
        Setting("low", "float", "-1.5", ""),
        Setting("flip", "bool", "true", ""),
        Setting("words", "str", "1 epoch", ""),
    ]


@pytest.mark.parametrize("base", ["Hparams", "launcher.Hparams", "settings.Hparams", "A, Hparams"])
def test_a_class_is_found_by_its_base(base: str) -> None:
    assert list(outline.fields(f"class Mine({base}):\n    lr: int = 1\n", {"Hparams"})) == [
        Setting("lr", "int", "1", "")
    ]


def test_a_class_that_derives_from_one_that_derives_from_hparams_is_found_too() -> None:
    source = "class A(Hparams):\n    a: int = 1\n\nclass B(A):\n    b: int = 2\n"
    assert [found.name for found in outline.fields(source, {"Hparams"})] == ["a", "b"]


@pytest.mark.parametrize("cls", [Hparams, RunSettings])
def test_the_help_of_our_own_settings_is_what_dataclasses_say(cls: type) -> None:
    """`ast` sees every field, and every default as a user would type it."""
    source = Path(settings.__file__).read_text()
    found = {field.name: field.default for field in outline.fields(source, {cls.__name__})}
    assert found == {
        field.name: "required" if field.default is MISSING else scalar(field.default)
        for field in fields(cls)
    }


def test_every_setting_of_ours_says_what_it_means() -> None:
    source = Path(settings.__file__).read_text()
    found = [*outline.fields(source, {"Hparams"}), *outline.fields(source, {"RunSettings"})]
    silent = {field.name for field in found if not field.doc}
    assert silent == set()


# ── as a person sees it ──────────────────────────────────────────────────────────────────────────


def shown(capsys: pytest.CaptureFixture[str], recipe: Path | None) -> str:
    help.show("train", recipe)
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_field_of_a_shipped_recipe_is_shown(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, recipe).splitlines()
    last, rows = "", dict[str, str]()  # each default whole, where its cell has several lines
    for line in (line for line in lines if line.startswith("│")):
        key, default = (cell.strip() for cell in line.split("│")[1:3])
        last = key or last
        rows[last] = rows.get(last, "") + default
    own = list(outline.fields(recipe.read_text(), {"Hparams"}))
    assert own
    for field in own:
        assert field.default == rows[field.name]
    names = {field.name for cls in (Hparams, RunSettings) for field in fields(cls)}
    assert names <= rows.keys()


def test_a_field_that_a_recipe_redefines_keeps_its_docstring(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine.py").write_text(RAISES)
    out = shown(capsys, Path("mine.py"))
    (epochs,) = (line for line in out.splitlines() if line.startswith("│ epochs "))
    assert "30" in epochs
    assert "Passes over the training split" in epochs


def test_every_switch_of_the_command_line_is_in_the_help() -> None:
    for switch in ("--config", "--resume", "--fresh", "--allow-change", "--dry-run", "--json"):
        assert f"  {switch}" in help.USAGE


def test_square_brackets_are_shown_and_not_taken_for_colours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shown(capsys, None)
    assert "launcher [train] RECIPE.py [--config FILE]... [key=value]..." in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"def broken(:\n", "cannot be shown"),
        (b"# \xff\n", "cannot be shown"),
        (b"x = 1\n", "batch_size"),
        (b"", "batch_size"),
        (b"\0", "cannot be shown"),
    ],
)
def test_help_survives_any_recipe(
    content: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_bytes(content)
    out = shown(capsys, Path("mine.py"))
    assert words in out
    assert "log_every" in out


@pytest.mark.parametrize("words", [["--help"], ["recipes/fashion_mlp.py", "--help"], ["-h"]])
def test_help_imports_neither_torch_nor_the_recipe(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from launcher.cli import main\n"
        f"code = main({words!r})\n"
        "slow = {'torch', 'accelerate', 'torchvision', 'sklearn', 'wandb', 'matplotlib'}\n"
        "found = slow & {name.partition('.')[0] for name in sys.modules}\n"
        "found |= {name for name in sys.modules if name.startswith('launcher_recipe')}\n"
        "sys.exit(f'exit code {code}, imported {found}' if code or found else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Usage: launcher" in done.stdout
    assert ("widths" in done.stdout) == (len(words) == 2)


def test_python_dash_m_launcher_shows_its_help() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "launcher", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: launcher")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "launcher.cli" in imported, "the negative control: imports are seen"
    assert "torch" not in imported


def test_each_verb_has_a_usage_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    first = {}
    for words in ((), ("train",), ("show",)):
        assert cli.main([*words, "--help"]) == 0
        first[words] = capsys.readouterr().out.partition("Hyperparameters of")[0]
    assert "doctor" in first[()]
    for verb in ("train", "show"):
        assert "doctor" not in first[(verb,)]
    assert "--resume" in first[("train",)]
    assert "--resume" not in first[("show",)]
    assert "--json" in first[("show",)]


def test_no_words_are_answered_in_a_dozen_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    said = capsys.readouterr()
    assert 5 < len(said.out.splitlines()) <= 12
    assert "launcher --help" in said.out
    assert "no recipe is given" in said.err
    for verb in cli.VERBS:
        assert verb in said.out
