"""`launcher doctor`: what would fail is found by doing it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import command

from launcher import checkup, storage
from launcher.checkup import Finding
from launcher.errors import DistributedError, StorageError


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the two processes, which take seconds."""
    monkeypatch.setattr(
        checkup, "exchange", lambda backend: Finding("two processes", "ok", "tried elsewhere")
    )


def found(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert command("doctor", *words, "--json") == code
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}


@pytest.mark.usefixtures("quick")
def test_what_is_here_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    seen = found(capsys)
    assert "torch" in seen["versions"]["found"]
    assert "digits" in seen["data sets"]["found"]
    assert "launcher data fetch mnist" in seen["data sets"]["advice"]
    assert seen["disk"]["verdict"] == "ok"
    assert seen["accelerate config"]["verdict"] == "ok"
    assert command("doctor") == 0
    out = capsys.readouterr().out
    assert "two processes" in out
    assert os.listdir() == [], "and nothing is left"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("driver", [True, False])
def test_a_driver_is_to_be_mended_only_where_there_is_one(
    driver: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("launcher.checkup._has_nvidia", lambda: driver)
    seen = found(capsys)["devices"]
    assert ("nvidia-smi" in seen["advice"]) == driver
    assert seen["verdict"] == ("note" if driver else "ok")


@pytest.mark.usefixtures("quick")
def test_a_hidden_config_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(os.environ["HF_HOME"]) / "accelerate" / "default_config.yaml"
    path.parent.mkdir()
    path.write_text("num_processes: 2\n")
    seen = found(capsys)["accelerate config"]
    assert seen["verdict"] == "note"
    assert str(path) in seen["found"]


@pytest.mark.usefixtures("quick")
def test_a_disk_that_refuses_fails_with_its_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoSync(storage.Disk):
        def fsync(self, descriptor: int) -> None:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "disk", NoSync())
    seen = found(capsys, code=StorageError.code)
    assert seen["disk"]["verdict"] == "fails"
    assert seen["disk"]["code"] == StorageError.code
    assert "Input/output error" in seen["disk"]["found"]


def test_a_current_folder_that_was_deleted_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert found(capsys, code=2)["current folder"]["verdict"] == "fails"


@pytest.mark.usefixtures("quick")
def test_a_damaged_data_set_fails_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("data/cifar-10-batches-py")
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(b"x" * 10)
    seen = found(capsys, code=4)
    assert seen["cifar10"]["verdict"] == "fails"
    assert "launcher data fetch cifar10" in seen["cifar10"]["advice"]
    assert command("doctor", "data_dir=elsewhere") == 0


@pytest.mark.usefixtures("quick")
def test_a_start_that_would_be_refused_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert found(capsys, code=2)["start"]["verdict"] == "fails"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("key", "verdict"), [("", "note"), ("0" * 40, "ok")])
def test_the_login_is_said_and_the_key_is_not(
    key: str, verdict: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", "nowhere")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    seen = found(capsys)
    assert seen["W&B"]["verdict"] == verdict
    assert not key or key not in json.dumps(seen)


@pytest.mark.usefixtures("quick")
def test_a_wrong_setting_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "data_dri=x") == 2
    assert "Did you mean 'data_dir'?" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_really_exchange_a_number() -> None:
    assert checkup.exchange("gloo").verdict == "ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda env: env | {"MASTER_ADDR": "192.0.2.1"}, ""),  # nobody is there (RFC 5737)
        (lambda env: env | {"GLOO_SOCKET_IFNAME": "nosuch0"}, "nosuch0"),
        (lambda env: env | {"WORLD_SIZE": "3"}, ""),
    ],
)
def test_two_processes_that_do_not_meet_are_found_in_time(
    broken: Callable[[dict[str, str]], dict[str, str]], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = checkup._environments
    monkeypatch.setattr(checkup, "_environments", lambda port: [broken(e) for e in real(port)])
    monkeypatch.setattr(checkup, "MOST_IMPORT", 40.0)
    seen = checkup.exchange("gloo", patience=3)
    assert seen.verdict == "fails"
    assert seen.error is DistributedError
    assert words in seen.said
    left = subprocess.run(["pgrep", "-f", "launcher.exchange import meet"], check=False,
                          capture_output=True, text=True)  # fmt: skip
    mine = [pid for pid in left.stdout.split() if _parent(pid) == os.getpid()]
    assert mine == []


def _parent(process: str) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
