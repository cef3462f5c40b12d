"""A mirror: a URL of the user's own, under which data sets lie as they do in a `data_dir`.

Its user and password, if it has some, are sent to that server alone and shown nowhere.
"""

import base64
import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit

SCHEMES = ("http", "https", "file")


def problem(url: str) -> str | None:
    """Why a text cannot be a mirror; None when it can."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number raises
    except ValueError as error:
        return f"is no URL: {redacted(str(error))}"
    if parts.scheme not in SCHEMES:
        return "must start with http://, https:// or file:///"
    if any(character.isspace() or not character.isprintable() for character in url):
        return "has a blank or a control character in it"
    if parts.query or parts.fragment:
        return "must be the start of a URL, without ? and #"
    if parts.scheme == "file":
        fits = parts.netloc in ("", "localhost") and parts.path.startswith("/")
        return None if fits else "must name a folder of this machine: file:///FOLDER"
    return None if host else "names no server"


def redacted(words: str) -> str:
    """Words with the user and the password hidden in whatever looks like a URL."""
    return re.sub(r"(https?:/+)[^\s'\"]*@", r"\1***@", words, flags=re.IGNORECASE)


def join(prefix: str, path: str) -> str:
    """The URL of a file under a mirror."""
    return f"{prefix.rstrip('/')}/{quote(path)}"


def without_user(url: str) -> tuple[str, str | None]:
    """A URL as it is asked for, and the `Authorization` that its user and password make."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    token = base64.b64encode(unquote(user).encode()).decode("ascii")
    return urlunsplit(parts._replace(netloc=host)), f"Basic {token}"
