"""Whether W&B is used, and how, from settings, the environment and W&B's own files."""

from pathlib import Path

import pytest

from launcher import login
from launcher.errors import SettingsError


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which nobody is logged in."""
    return {"NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path / "config")}


def log_in(home: dict[str, str], host: str = "api.wandb.ai") -> None:
    Path(home["NETRC"]).write_text(f"machine {host}\n  login user\n  password 0123\n")


def configure(folder: Path, **values: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{key} = {value}" for key, value in values.items()]
    (folder / "settings").write_text("\n".join(["[default]", *lines]))


def test_auto_is_offline_when_nobody_is_logged_in(home: dict[str, str]) -> None:
    assert login.mode("auto", home) == ("offline", "nobody is logged in")


@pytest.mark.parametrize("variable", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_auto_is_online_with_a_key_in_the_environment(home: dict[str, str], variable: str) -> None:
    assert login.mode("auto", home | {variable: "x"}) == ("online", "logged in")


def test_auto_is_online_after_wandb_login(home: dict[str, str]) -> None:
    log_in(home)
    assert login.mode("auto", home) == ("online", "logged in")


def test_a_login_at_another_server_is_none(home: dict[str, str], tmp_path: Path) -> None:
    log_in(home, "wandb.example:8080")
    assert not login.logged_in(home)
    assert login.logged_in(home | {"WANDB_BASE_URL": "http://me:pw@wandb.example:8080"})
    configure(tmp_path / "config", base_url="http://wandb.example:8080")
    assert login.logged_in(home)


def test_a_netrc_that_cannot_be_read_is_no_login(home: dict[str, str]) -> None:
    Path(home["NETRC"]).write_text("machine")
    assert not login.logged_in(home)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}, "offline"),
        ({"WANDB_MODE": "dryrun", "WANDB_API_KEY": "x"}, "offline"),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "x"}, "off"),
        ({"WANDB_DISABLED": "true", "WANDB_API_KEY": "x"}, "off"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "nonsense"}, "offline"),
    ],
)
def test_auto_does_what_the_environment_says(
    variables: dict[str, str], expected: str, home: dict[str, str]
) -> None:
    assert login.mode("auto", home | variables)[0] == expected


def test_auto_does_what_the_commands_wandb_offline_and_wandb_disabled_left(
    home: dict[str, str], tmp_path: Path
) -> None:
    log_in(home)
    configure(tmp_path / "config", mode="offline")
    assert login.mode("auto", home) == ("offline", "wandb's settings file is offline")
    configure(Path("wandb"), mode="disabled")  # the current folder's wins
    assert login.mode("auto", home)[0] == "off"
    Path("wandb/settings").write_text("[default\n")
    assert login.mode("auto", home)[0] == "online"


@pytest.mark.parametrize("wanted", ["offline", "off"])
def test_a_setting_is_stronger_than_the_environment(wanted: str, home: dict[str, str]) -> None:
    found, why = login.mode(wanted, home | {"WANDB_MODE": "online", "WANDB_API_KEY": "x"})
    assert (found, why) == (wanted, f"wandb={wanted}")


def test_online_without_a_login_is_refused_with_what_to_do(home: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"nobody is logged in.*wandb login.*wandb=offline"):
        login.mode("online", home)
    log_in(home)
    assert login.mode("online", home) == ("online", "wandb=online")


@pytest.mark.parametrize("wanted", ["online", "offline"])
def test_what_is_not_installed_is_refused_when_it_was_asked_for(
    wanted: str, home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5: and works without, when it was not."""
    monkeypatch.setattr(login, "find_spec", lambda name: None)
    assert login.mode("auto", home) == ("off", "it is not installed")
    assert login.mode("off", home)[0] == "off"
    with pytest.raises(SettingsError, match="not installed"):
        login.mode(wanted, home)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:pw@127.0.0.1:80/x", "http://127.0.0.1:80/x"),
        ("https://me@host", "https://host"),
        ("https://host/a@b", "https://host/a@b"),
    ],
)
def test_user_and_password_are_taken_out_of_an_address(url: str, shown: str) -> None:
    assert login.without_user(url) == shown
