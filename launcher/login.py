"""Whether W&B is used, and how: what the user said, in settings or W&B's own places, and whether
somebody is logged in. Nothing here imports the W&B client, which takes half a second."""

import configparser
import netrc
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

from launcher.errors import SettingsError

Mode = Literal["online", "offline", "off"]
_OWN: Final = "https://api.wandb.ai"
_MODES: Final[Mapping[str, Mode]] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "off",
}


def mode(wanted: str, environ: Mapping[str, str] = os.environ) -> tuple[Mode, str]:
    """How W&B is used, and why. Of `auto`, WANDB_MODE decides, then W&B's settings files, then
    whether somebody is logged in.

    Raises SettingsError for a mode that was asked for and cannot be.
    """
    if wanted == "off":
        return "off", "wandb=off"
    if find_spec("wandb") is None:
        if wanted == "auto":
            return "off", "it is not installed"
        raise SettingsError(f"wandb={wanted}: it is not installed. pip install wandb, or wandb=off")
    if wanted == "offline":
        return "offline", "wandb=offline"
    if wanted == "online":
        if not logged_in(environ):
            raise SettingsError(
                "wandb=online, and nobody is logged in: run `wandb login`, set WANDB_API_KEY, or "
                "give wandb=offline."
            )
        return "online", "wandb=online"
    if environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "off", "WANDB_DISABLED"
    for word, source in (
        (environ.get("WANDB_MODE", ""), "WANDB_MODE"),
        (_settings(environ).get("mode", ""), "wandb's settings file"),
    ):
        if word in _MODES:
            return _MODES[word], f"{source} is {word}"
    return ("online", "logged in") if logged_in(environ) else ("offline", "nobody is logged in")


def logged_in(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a key, or an identity, for W&B's server; nobody asks whether it is valid."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(environ.get("NETRC") or "~/.netrc")
    server = environ.get("WANDB_BASE_URL") or _settings(environ).get("base_url") or _OWN
    try:
        host = urlsplit(without_user(server)).netloc
        return netrc.netrc(path.expanduser()).authenticators(host) is not None
    except (OSError, RuntimeError, ValueError, netrc.NetrcParseError):
        return False


def without_user(url: str) -> str:
    """A URL without the user and password that W&B's client has no use for, but would log."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    """W&B's own settings files: the user's, then the current folder's."""
    own = environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    here = Path(environ.get("WANDB_DIR") or ".") / "wandb"
    found = configparser.ConfigParser(interpolation=None)
    try:
        found.read([Path(own).expanduser() / "settings", here / "settings"])
    except (OSError, RuntimeError, UnicodeDecodeError, configparser.Error):
        return {}
    return dict(found["default"]) if found.has_section("default") else {}
