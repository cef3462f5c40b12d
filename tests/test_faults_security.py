"""Secrets that must not be written, files that others can change, names and configs that attack.

What damaged or hostile checkpoints can do is tested elsewhere.
"""

import os
import re
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import HANGS, ROOT, command, write_recipe

from launcher import storage

RUN = Path("checkpoints/r")
NOBODY = 65534


def run(extra: str = "", *given: str) -> int:
    return command(write_recipe(extra), "name=r", "threads=1", *given)


# ── files that others can change ─────────────────────────────────────────────────────────────────


def warned(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "can be changed by" in line]


@pytest.mark.parametrize("what", ["tiny.py", "data", "checkpoints/r"])
def test_what_everybody_can_change_is_warned_of_in_one_line(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """H6: the recipe is code, and the data and the checkpoints decide what is learned."""
    path = Path(what)
    write_recipe()
    if what != "tiny.py":
        path.mkdir(parents=True)
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    assert command("tiny.py", "name=r", "threads=1") == 0
    (line,) = warned(capsys)
    assert f"{what} can be changed by everybody" in line


def test_what_only_we_can_change_is_not_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """H6: a file that the group can write to is what many systems make of every file."""
    write_recipe().chmod(0o664)
    Path("data").mkdir()
    assert command("tiny.py", "name=r", "threads=1") == 0
    assert not warned(capsys)


@pytest.mark.parametrize(
    ("us", "owner", "who"),
    [
        (1000, 1001, "user 1001"),
        (1000, 1000, None),
        (1000, 0, None),
        (0, 1001, None),
    ],
)
def test_what_belongs_to_another_user_is_known(
    us: int, owner: int, who: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H6: root, in a container, is told nothing."""
    path = Path("file")
    path.touch()
    about = list(path.stat())
    about[stat.ST_UID] = owner
    monkeypatch.setattr(os, "geteuid", lambda: us)
    monkeypatch.setattr(Path, "stat", lambda self: os.stat_result(about))
    assert storage.exposed(path) == who


def test_what_is_not_there_is_not_warned_of() -> None:
    """H6: a data set that needs no folder has none."""
    assert storage.exposed(Path("nothing/here")) is None


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────

SECRETS = {
    name: f"canary{number}0f1e2d3c4b5a69788796a5b4c3d2e1f"
    for number, name in enumerate(
        ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "GITHUB_TOKEN", "DB_PASSWORD")
    )
}
ENDS = {
    "a run": ("", (), 0),
    "a dry run": ("", ("--dry-run",), 0),
    "a refusal": ("", ("epochs=x", "worker=3"), 2),
    "a mistake in the recipe": (
        "def loss(model, batch):\n    token = os.environ['HF_TOKEN']\n    return token[1 << 9]",
        (), 3,
    ),
    "a mistake in a library": (
        "def loss(model, batch):\n    key = os.environ['WANDB_API_KEY']\n"
        "    return torch.ones(len(key)) @ 3", (), 3,
    ),
    "a bug of the launcher": (
        "from launcher import meter\nmeter.Meter.pace = None", (), 70,
    ),
    "weights that are not finite": ("", ("lr=1e20",), 6),
}  # fmt: skip


def written(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_no_secret_of_the_environment_is_written_or_shown(end: str, tmp_path: Path) -> None:
    """H7: whatever way the run ends, in no file below the current, home and temporary folder."""
    extra, given, code = ENDS[end]
    write_recipe(extra)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "launcher", "tiny.py", "name=r", "threads=1", "log_every=1", *given],
        env={**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"),
             "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode == code, ran.stderr
    found = written(tmp_path) | {"stdout": ran.stdout, "stderr": ran.stderr}
    assert len(found) > 2
    for name, content in found.items():
        assert b"canary" not in content, name


@pytest.mark.slow
def test_no_secret_is_written_by_two_processes(tmp_path: Path) -> None:
    """H7: the launcher's environment goes to each process, and nowhere else."""
    write_recipe()
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
         "launcher", "tiny.py", "name=r", "threads=1"],
        env={**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for name, content in (written(tmp_path) | {"out": ran.stdout, "err": ran.stderr}).items():
        assert b"canary" not in content, name


# ── names ────────────────────────────────────────────────────────────────────────────────────────

NAMES = [
    "../../x", "..", ".", "/etc/x", "a/b", "a\\b", "$(id)", "`id`", "-rf", "--fresh", "a\nb",
    "a\rb", "a\tb", "a\x00b", "a\x1b[31m", "\x1b]0;title\x07", "a b", "a\u202eb", "a\x9bb", "~root",
    "é", "😀", "con|x", "a;b", "a&b", "x" * 101, "x" * 10_000, "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:20] for name in NAMES])
def test_a_hostile_name_is_refused_and_never_reaches_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """H8: as an argument and from a config; nothing is made, and no byte of it is obeyed."""
    write_recipe()
    Path("name.yaml").write_bytes(
        b"name: " + repr(name).encode("ascii", "backslashreplace").replace(b"'", b'"') + b"\n"
    )
    assert command("tiny.py", f"name={name}") == 2
    assert command("tiny.py", "--config", "name.yaml") == 2
    captured = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", captured.out + captured.err)
    assert len(captured.err) < 20_000
    assert sorted(os.listdir()) == ["name.yaml", "tiny.py"]


ESCAPE = "a\x1b[31m\x07b"


def test_the_name_of_a_recipe_or_a_config_never_controls_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """H8: in a run, in its refusals, in its tracebacks, and in the name of the run's folder."""
    recipe = write_recipe(name=f"{ESCAPE}.py")
    config = Path(f"{ESCAPE}.yaml")
    config.write_text("lr: 0.1\n")
    assert command(recipe, "--config", config, "threads=1") == 0
    (folder,) = Path("checkpoints").iterdir()
    assert re.fullmatch(r"[A-Za-z0-9._=,+-]{1,100}", folder.name)
    config.write_text('"lr\\e[31m": 1\n')
    assert command(recipe, "--config", config) == 2
    assert command(f"no{ESCAPE}.py") == 2
    write_recipe("def model(hparams, data): return nn.Linear(3, 4)", name=f"{ESCAPE}.py")
    assert command(recipe, "name=r") == 3
    write_recipe("def model(hparams, data): raise ValueError('\\x1b[31m')", name=f"{ESCAPE}.py")
    assert command(recipe, "name=r") == 3
    captured = capfd.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\x07" not in captured.out + captured.err


# ── configs ──────────────────────────────────────────────────────────────────────────────────────

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
ATTACKS = {
    "a call": "lr: !!python/object/apply:os.system ['touch pwned']\n",
    "a call among others": "lr: 1\nepochs: [1, !!python/object/apply:os.system ['touch pwned']]\n",
    "a new object": "lr: !!python/object/new:subprocess.Popen [['touch', 'pwned']]\n",
    "a module": "lr: !!python/module:antigravity\n",
    "a name": "lr: !!python/name:os.system\n",
    "a tag of its own": "%TAG ! tag:yaml.org,2002:python/\n---\nlr: !name:os.system\n",
    "a key that is a call": "? !!python/object/apply:os.system ['touch pwned']\n: 1\n",
    "an alias bomb": BOMB,
    "a merge": "base: &b {lr: 1}\n<<: *b\n",
    "a deep list": "lr: " + "[" * 100_000 + "\n",
    "a deep map": "lr: " + "{a: " * 20_000 + "\n",
    "many keys": "".join(f"k{number}: 1\n" for number in range(20_000)),
    "a large file": "lr: " + "1" * (1 << 21),
    "a second document": "lr: 1\n---\nlr: 2\n",
    "a long number": "seed: " + "9" * 900_000 + "\n",
    "binary": "lr: !!binary cG93bmVk\n",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_config_that_attacks_is_refused_soon_and_runs_nothing(
    attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """H9: in bounded time, memory and words."""
    write_recipe()
    Path("bad.yaml").write_text(ATTACKS[attack])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    assert command("tiny.py", "--config", "bad.yaml", "name=r") == 2
    assert time.process_time() - began < 10  # idle: less than 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert len(capsys.readouterr().err) < 20_000
    assert sorted(os.listdir()) == ["bad.yaml", "tiny.py"]


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.system ['touch pwned']", "&a [*a, *a]", "{" * 5000, "[" * 5000],
)
def test_an_argument_that_attacks_is_a_text(value: str) -> None:
    """H9: which the field's type refuses."""
    write_recipe()
    assert command("tiny.py", f"lr={value}", "name=r") == 2
    assert os.listdir() == ["tiny.py"]
