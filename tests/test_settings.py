"""Hyperparameters and run settings: every mistake refused at once, each with where it came from."""

from dataclasses import FrozenInstanceError, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from launcher import settings
from launcher.errors import SettingsError
from launcher.layers import from_argument, from_file, scalar
from launcher.settings import Hparams, Origins, RunSettings


@dataclass(frozen=True, kw_only=True)
class Mine(Hparams):
    """The hyperparameters of a recipe: two of every recipe's with defaults, and its own."""

    epochs: int = 30
    batch_size: int = 8
    dataset: str = "cifar10"
    label: str | None = None
    peak_lr: float = 0.1
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    widths: tuple[int, ...] = (256,)
    pairs: tuple[tuple[float, ...], ...] = ()
    either: int | str = 0
    init: Literal["normal", "xavier"] = "normal"
    flip: bool = True


@dataclass(frozen=True, kw_only=True)
class Careful(Hparams):
    """A recipe that checks more than types."""

    epochs: int = 1
    batch_size: int = 8
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")


def hparams(*arguments: str) -> Mine:
    return settings.resolve_hparams(Mine, map(from_argument, arguments))[0]


def run(*arguments: str) -> RunSettings:
    return settings.resolve_run(map(from_argument, arguments))[0]


def problems(*arguments: str) -> tuple[str, ...]:
    """What is refused, of hyperparameters."""
    with pytest.raises(SettingsError) as refused:
        hparams(*arguments)
    return refused.value.problems


# ── one bad value ────────────────────────────────────────────────────────────────────────────────

BAD: list[tuple[str, str]] = [
    # unknown, with the nearest known name, also among the run settings
    ("batchsize=8", "unknown setting 'batchsize' (from argument). Did you mean 'batch_size'?"),
    ("peaklr=1", "unknown setting 'peaklr' (from argument). Did you mean 'peak_lr'?"),
    ("log_evry=5", "unknown setting 'log_evry' (from argument). Did you mean 'log_every'?"),
    ("Epochs=3", "unknown setting 'Epochs' (from argument). Did you mean 'epochs'?"),
    ("zzzzz=1", "unknown setting 'zzzzz' (from argument)."),
    ("__class__=1", "unknown setting '__class__' (from argument)."),
    # the wrong type
    ("epochs=three", "should be a valid integer; got 'three'"),
    ("epochs=1.5", "should be a valid integer; got '1.5'"),
    ("epochs=3.0", "should be a valid integer; got '3.0'"),
    ("epochs=1e3", "should be a valid integer; got '1e3'"),
    ("epochs=true", "should be a valid integer; got 'true'"),
    ("epochs=none", "should be a valid integer; got 'none'"),
    ("epochs=", "should be a valid integer; got ''"),
    ("epochs='3'", "should be a valid integer; got \"'3'\""),
    ("epochs=[3]", "should be a valid integer; got '[3]'"),
    ("epochs=0x10", "should be a valid integer; got '0x10'"),
    ("epochs=1_000", "should be a valid integer; got '1_000'"),
    ("epochs={a: 1}", "should be a valid integer; got '{a: 1}'"),
    ("seed=" + "1" * 5000, "should be a valid integer"),
    ("peak_lr=fast", "should be a valid number; got 'fast'"),
    ("peak_lr=true", "should be a valid number; got 'true'"),
    ("peak_lr=none", "should be a valid number; got 'none'"),
    ("peak_lr=0,1", "should be a valid number; got '0,1'"),
    ("peak_lr=[0.1]", "should be a valid number; got '[0.1]'"),
    ("flip=yes", "should be a valid boolean; got 'yes'"),
    ("flip=1", "should be a valid boolean; got '1'"),
    ("flip=on", "should be a valid boolean; got 'on'"),
    ("flip=True", "should be a valid boolean; got 'True'"),
    ("init=kaiming", "should be 'normal' or 'xavier'; got 'kaiming'"),
    ("precision=fp8", "should be 'no', 'fp16', 'bf16' or 'auto'; got 'fp8'"),
    ("precision=16", "should be 'no', 'fp16', 'bf16' or 'auto'; got '16'"),
    ("widths=[1,a]", "should be a valid integer; got '[1,a]'"),
    ("widths=[1,2.5]", "should be a valid integer; got '[1,2.5]'"),
    ("widths=[1,[2]]", "should be a valid integer; got '[1,[2]]'"),
    ("widths=[true]", "should be a valid integer; got '[true]'"),
    # out of range
    ("epochs=0", "should be greater than or equal to 1; got '0'"),
    ("epochs=-1", "should be greater than or equal to 1; got '-1'"),
    ("batch_size=0", "should be greater than or equal to 1; got '0'"),
    ("micro_batch_size=0", "should be greater than or equal to 1; got '0'"),
    ("seed=-1", "should be greater than or equal to 0; got '-1'"),
    ("seed=9223372036854775808", "should be less than 9223372036854775808"),
    ("grad_clip=0", "should be greater than 0; got '0'"),
    ("grad_clip=-1", "should be greater than 0; got '-1'"),
    ("share=1.01", "should be less than or equal to 1; got '1.01'"),
    # not finite
    ("peak_lr=nan", "must be a finite number; got 'nan'"),
    ("peak_lr=inf", "must be a finite number; got 'inf'"),
    ("peak_lr=-inf", "must be a finite number; got '-inf'"),
    ("peak_lr=.inf", "must be a finite number; got '.inf'"),
    ("peak_lr=1e400", "must be a finite number; got '1e400'"),
    ("peak_lr=1" + "0" * 400, "must be a finite number; got '1000"),
    ("grad_clip=1" + "0" * 400, "must be a finite number; got '1000"),
    ("pairs=[[1],[nan]]", "must be a finite number; got '[[1],[nan]]'"),
    ("pairs=[[1e400]]", "must be a finite number; got '[[1e400]]'"),
    # no text that the next reader could write
    ("dataset=\udcff", "got '\\udcff'"),
]


@pytest.mark.parametrize(("argument", "words"), BAD, ids=[argument[:30] for argument, _ in BAD])
def test_a_bad_value_is_refused_with_what_it_must_be_and_where_it_is(
    argument: str, words: str
) -> None:
    (problem,) = problems(argument)
    assert words in problem
    assert "(from argument)" in problem
    assert argument.partition("=")[0] in problem


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("workers=-1", "greater than or equal to 0"),
        ("workers=3000", "less than or equal to 1024"),
        ("workers=true", "'auto'"),
        ("workers=some", "'auto'"),
        ("resident=no", "'auto'"),
        ("threads=0", "greater than or equal to 1"),
        ("strategy=fsdp", "'auto', 'ddp' or 'dp'"),
        ("compile=no", "'off'"),
        ("log_every=0", "greater than or equal to 1"),
        ("log_every=1 epoch", "valid integer"),
        ("keep=1", "greater than or equal to 2"),
        ("checkpoint_minutes=0", "greater than 0"),
        ("checkpoint_minutes=inf", "finite"),
        ("wandb=false", "'auto', 'online', 'offline' or 'off'"),
        ("evaluate_every=0", "a duration is a number of steps"),
        ("evaluate_every=1.5", "a number of steps is whole"),
        ("evaluate_every=often", "a duration is a number of steps"),
        ("checkpoint_every=none", "a duration is a number of steps"),
        ("checkpoint_every=5 minutes", "a duration is a number of steps"),
        ("evaluate_every=" + "9" * 400 + " epochs", "duration"),
        ("checkpoint_minutes=1" + "0" * 400, "finite"),
    ],
)
def test_a_bad_run_setting_is_refused(argument: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        run(argument)
    (problem,) = refused.value.problems
    assert words in problem
    assert "(from argument)" in problem
    assert argument.partition("=")[0] in problem


# ── good values ──────────────────────────────────────────────────────────────────────────────────

GOOD: list[tuple[str, Any]] = [
    ("peak_lr=3e-4", 3e-4),
    ("peak_lr=3", 3.0),
    ("peak_lr=1e-400", 0.0),
    ("epochs=1", 1),
    ("seed=9223372036854775807", 2**63 - 1),
    ("grad_clip=none", None),
    ("grad_clip=null", None),
    ("grad_clip=1", 1.0),
    ("micro_batch_size=none", None),
    ("precision=no", "no"),
    ("precision=none", None),
    ("flip=false", False),
    ("widths=[1,2]", (1, 2)),
    ("widths=[ 1 , 2 ]", (1, 2)),
    ("widths=[]", ()),
    ("pairs=[[1,0.5],[]]", ((1.0, 0.5), ())),
    ("share=1", 1.0),
    # a text field keeps the text as typed
    ("dataset=no", "no"),
    ("dataset=1e3", "1e3"),
    ("dataset=007", "007"),
    ("dataset=true", "true"),
    ("dataset=none", "none"),
    ("dataset=null", "null"),
    ("dataset=", ""),
    ("dataset='quoted'", "'quoted'"),
    ("dataset=[a]", "[a]"),
    ("dataset=a: b", "a: b"),
    ("dataset=a # b", "a # b"),
    ("dataset=data/\u00e9", "data/\u00e9"),
    # but a text that may be none is none when it says so
    ("label=none", None),
    ("label=null", None),
    ("label=1e3", "1e3"),
    ("label=no", "no"),
]


@pytest.mark.parametrize(("argument", "value"), GOOD)
def test_a_good_value_is_taken(argument: str, value: Any) -> None:
    found = getattr(hparams(argument), argument.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("wandb=off", "off"),
        ("compile=off", "off"),
        ("workers=auto", "auto"),
        ("workers=0", 0),
        ("resident=true", True),
        ("resident=auto", "auto"),
        ("checkpoint_minutes=5", 5.0),
        ("evaluate_every=200", "200"),
        ("evaluate_every=5%", "5%"),
        ("evaluate_every=0.5 epochs", "0.5 epochs"),
        ("name=none", None),
        ("name=1e3", "1e3"),
        ("data_dir=no", "no"),
    ],
)
def test_a_good_run_setting_is_taken(argument: str, value: Any) -> None:
    found = getattr(run(argument), argument.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


def test_a_file_keeps_texts_as_typed_too() -> None:
    Path("x.yaml").write_text("dataset: 1e3\nlabel: 'none'\npeak_lr: 3e-4\nwidths: [1, 2]\n")
    found, _ = settings.resolve_hparams(Mine, from_file(Path("x.yaml")))
    assert (found.dataset, found.label, found.peak_lr) == ("1e3", "none", 3e-4)
    assert found.widths == (1, 2)


def test_every_default_is_a_value_that_may_be_given() -> None:
    for name, value in settings.as_json(RunSettings()).items():
        assert getattr(run(f"{name}={scalar(value)}"), name) == getattr(RunSettings(), name)


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(FrozenInstanceError):
        hparams().epochs = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        run().keep = 3  # type: ignore[misc]


# ── several values ───────────────────────────────────────────────────────────────────────────────


def test_all_mistakes_are_reported_at_once_each_with_its_source() -> None:
    Path("a.yaml").write_text("epochs: 0\nflip: yes\n")
    Path("b.yaml").write_text("# b\npeak_lr: fast\n")
    given = [*from_file(Path("a.yaml")), *from_file(Path("b.yaml")), from_argument("sed=3")]
    with pytest.raises(SettingsError) as refused:
        settings.resolve_hparams(Mine, given)
    assert refused.value.problems == (
        "epochs: should be greater than or equal to 1; got '0' (from config a.yaml:1).",
        "flip: should be a valid boolean; got 'yes' (from config a.yaml:2).",
        "peak_lr: should be a valid number; got 'fast' (from config b.yaml:2).",
        "unknown setting 'sed' (from argument). Did you mean 'seed'?",
    )


def test_the_last_value_wins_and_the_origin_says_over_what() -> None:
    Path("x.yaml").write_text("dataset: digits\nepochs: 4\n")
    given = [*from_file(Path("x.yaml")), from_argument("epochs=5")]
    found, origins = settings.resolve_hparams(Mine, given)
    assert found.epochs == 5
    assert origins["epochs"] == "argument, over config x.yaml:2"
    assert origins["dataset"] == "config x.yaml:1"
    assert origins["peak_lr"] == "default"


def test_an_origin_names_every_layer() -> None:
    for name, value in (("a.yaml", 1), ("b.yaml", 2)):
        Path(name).write_text(f"epochs: {value}\n")
    given = [*from_file(Path("a.yaml")), *from_file(Path("b.yaml")), from_argument("epochs=3")]
    found, origins = settings.resolve_hparams(Mine, given)
    assert found.epochs == 3
    assert origins["epochs"] == "argument, over config b.yaml:1, over config a.yaml:1"


def test_a_value_that_a_later_one_replaces_is_not_held_against_the_user() -> None:
    assert hparams("epochs=0", "epochs=3").epochs == 3
    assert problems("epochs=3", "epochs=0") == (
        "epochs: should be greater than or equal to 1; got '0' (from argument).",
    )


def test_without_values_everything_is_a_default() -> None:
    found, origins = settings.resolve_hparams(Mine, [])
    assert found == Mine()
    assert {origins[f.name] for f in fields(Mine)} == {"default"}
    assert Origins({})["anything"] == "default"


def test_values_that_must_be_given_are_asked_for_together() -> None:
    with pytest.raises(SettingsError) as refused:
        settings.resolve_hparams(Hparams, [from_argument("sed=3")])
    assert refused.value.problems == (
        "unknown setting 'sed' (from argument). Did you mean 'seed'?",
        "no value for epochs, batch_size: give it as epochs=VALUE.",
    )
    given = [from_argument("epochs=1"), from_argument("batch_size=2")]
    assert settings.resolve_hparams(Hparams, given)[0] == Hparams(epochs=1, batch_size=2)


def test_a_value_that_is_bad_is_not_asked_for_again() -> None:
    with pytest.raises(SettingsError) as refused:
        settings.resolve_hparams(Hparams, map(from_argument, ("epochs=0", "batch_size=8")))
    assert len(refused.value.problems) == 1


def test_run_settings_and_hyperparameters_are_told_apart() -> None:
    words = ("epochs=1", "keep=3", "unknown=2", "name=x")
    for_run, rest = settings.split(map(from_argument, words))
    assert [given.key for given in for_run] == ["keep", "name"]
    assert [given.key for given in rest] == ["epochs", "unknown"]


def test_no_name_is_both_a_run_setting_and_a_hyperparameter() -> None:
    assert not {f.name for f in fields(RunSettings)} & {f.name for f in fields(Hparams)}


# ── what a recipe adds ───────────────────────────────────────────────────────────────────────────


def test_a_recipe_that_redefines_a_field_keeps_its_bounds() -> None:
    """`Mine` has `epochs: int = 30`, and a plain int would take 0."""
    assert problems("epochs=0") == (
        "epochs: should be greater than or equal to 1; got '0' (from argument).",
    )

    @dataclass
    class NoHparams:
        epochs: int = 30

    found, _ = settings.resolve_hparams(NoHparams, [from_argument("epochs=0")])
    assert found.epochs == 0, "the negative control"


def test_what_a_recipe_refuses_itself_is_a_refusal() -> None:
    given = [from_argument("low=2")]
    with pytest.raises(SettingsError, match=r"Careful: low=2.0 is above high=1.0"):
        settings.resolve_hparams(Careful, given)
    assert settings.resolve_hparams(Careful, [*given, from_argument("high=3")])[0].high == 3.0


def test_a_field_may_be_a_number_or_a_text() -> None:
    """A union with a text takes the text as typed: a recipe that wants the number says `int`."""
    assert hparams("either=abc").either == "abc"


def test_a_default_factory_is_a_default() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Made(Hparams):
        epochs: int = 1
        batch_size: int = 1
        widths: tuple[int, ...] = field(default_factory=lambda: (1, 2))

    assert settings.resolve_hparams(Made, [])[0].widths == (1, 2)


def test_hyperparameters_are_json() -> None:
    document = settings.as_json(hparams("widths=[1,2]", "grad_clip=1"))
    assert document["widths"] == [1, 2]
    assert document["grad_clip"] == 1.0
    assert list(document) == [f.name for f in fields(Mine)]


# ── the run's name ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "/a",
        "..",
        ".",
        "../x",
        ".hidden",
        "a\nb",
        "a\n",
        "a\x1bb",
        "a\tb",
        "a\0b",
        "-x",
        "--config",
        "_x",
        "=x",
        "+x",
        "",
        "a b",
        "a\\b",
        "a:b",
        "a*",
        "~",
        "\u00e9t\u00e9",
        "\u0661",
        "x" * 101,
    ],
)
def test_a_name_that_is_no_safe_folder_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be a folder under checkpoints"):
        settings.check_name(name, "argument")


@pytest.mark.parametrize("name", ["a/b", "..", "a\nb", "-x", "x" * 101])
def test_a_bad_name_is_refused_as_a_run_setting(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be a folder") as refused:
        run(f"name={name}")
    assert "(from argument)" in str(refused.value)


@pytest.mark.parametrize("name", ["a", "0", "x" * 100, "cifar_resnet--quick,peak_lr=0.05", "a..b"])
def test_a_name_that_is_a_safe_folder_is_taken(name: str) -> None:
    assert settings.check_name(name, "argument") == name
    assert run(f"name={name}").name == name


def test_an_instruction_to_the_terminal_in_a_name_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        settings.check_name("a\x1b[2Jb", "argument")
    assert "\x1b" not in str(refused.value)


def test_a_default_of_the_recipe_is_checked_like_any_value() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Hparams):
        epochs: int = 0
        batch_size: int = 4

    with pytest.raises(SettingsError, match=r"epochs: should be greater than or equal to 1; got 0"):
        settings.resolve_hparams(Wrong, [])


@pytest.mark.parametrize(
    ("text", "widths"), [("64,32", (64, 32)), ("64", (64,)), ("[64, 32]", (64, 32)), ("[]", ())]
)
def test_a_list_may_be_typed_without_brackets(text: str, widths: tuple[int, ...]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wide(Hparams):
        epochs: int = 1
        batch_size: int = 4
        widths: tuple[int, ...] = (1,)

    hparams, _ = settings.resolve_hparams(Wide, [from_argument(f"widths={text}")])
    assert hparams.widths == widths
