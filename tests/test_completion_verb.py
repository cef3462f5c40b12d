"""Completion, asked for by a real bash where there is one."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANGS, ROOT, command

from launcher import cli, completion_verb
from launcher.completion_verb import candidates
from launcher.errors import SettingsError
from launcher.overview import STATES

RECIPE = '''\
class H(Hparams):
    peak_lr: float = 0.1
    """Learning rate."""
    dataset: str = "digits"
'''


@pytest.fixture(autouse=True)
def place() -> None:
    Path("recipes").mkdir()
    Path("recipes/one.py").write_text(RECIPE)
    Path("recipes/quick.yaml").touch()
    for name in ("cifar--quick", "cifar--peak_lr=0.1"):
        Path(f"checkpoints/{name}").mkdir(parents=True)
        Path(f"checkpoints/{name}/run.json").touch()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ru"], ["runs"]),
        (["reci"], ["recipes/"]),
        (["recipes/"], ["recipes/one.py"]),
        (["show", "recipes/o"], ["recipes/one.py"]),
        (["recipes/one.py", "peak"], ["peak_lr="]),
        (["recipes/one.py", "check"], ["checkpoint_every=", "checkpoint_minutes="]),
        (["recipes/one.py", "dataset=mn"], ["dataset=mnist"]),
        (["recipes/one.py", "--config", "recipes/"], ["recipes/quick.yaml"]),
        (["recipes/one.py", "--fr"], ["--fresh"]),
        (["recipes/one.py", "--resume", "m"], ["must"]),
        (["compare", "cifar--q"], ["cifar--quick"]),
        (["compare", "cifar--quick", "cifar--p"], ["cifar--peak_lr=0.1"]),
        (["runs", "--state", "d"], ["dead", "damaged"]),
        (["runs", "--sort", "b"], ["best"]),
        (["data", "fetch", "ci"], ["cifar10"]),
        (["completion", "z"], ["zsh"]),
        (["nosuch.py", "threa"], ["threads="]),
        (["\x00", "x"], []),
    ],
)
def test_what_may_come_next(words: list[str], expected: list[str]) -> None:
    assert candidates(words) == expected


def switches_of(verb: str) -> set[str]:
    """What the verb's own parser knows, asked when it is about to parse."""
    known = {"--help"}
    with pytest.MonkeyPatch.context() as patch:

        def see(parser: argparse.ArgumentParser, *_: object) -> None:
            known.update(parser._option_string_actions)
            raise SettingsError("seen")

        patch.setattr(argparse.ArgumentParser, "parse_intermixed_args", see)
        command(verb, "x.py")
    return known


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_switches_and_they_are_accepted(verb: str) -> None:
    assert {*completion_verb.SWITCHES[verb]} <= switches_of(verb)


LINES = {
    "launcher ru": ["runs"],
    "launcher compare cifar--q": ["cifar--quick"],
    # `=` breaks words in bash: what stands before it must not come back.
    "launcher compare cifar--peak_lr=0": ["0.1"],
    "launcher recipes/one.py dataset=ci": ["cifar10"],
    "launcher recipes/one.py peak_lr=0.1 --fr": ["--fresh"],
    "launcher recipes/one.py --config recipes/q": ["recipes/quick.yaml"],
    "launcher runs --state ": list(STATES),
}
DRIVER = """
eval "$(launcher completion bash)"
complete -p launcher | grep -q -- '-F _launcher' || exit 3
compopt() { :; }    # which only works while a line is edited
for line in "$@"; do
    COMP_LINE="$line" COMP_POINT=${#line}
    _launcher launcher "${line##*[[:space:]=]}" x
    echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes() -> None:
    """Bash splits the line as its Tab key does, and our function is the one it would call."""
    program = Path("bin/launcher")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m launcher "$@"\n')
    program.chmod(0o755)
    found = f"{program.parent.resolve()}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", DRIVER, "bash", *LINES], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": found}, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == list(LINES.values())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_and_its_shell_can_read_it(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("completion", shell) == 0
    script = capsys.readouterr().out
    assert "launcher completion words" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c", script], check=True, timeout=HANGS)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("completion", "bahs") == 2
    assert "Did you mean 'bash'?" in capsys.readouterr().err
    assert command("completion") == 2
