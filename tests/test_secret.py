"""What is not to be written, known by its name."""

import pytest

from launcher.secret import redacted


@pytest.mark.parametrize(
    "name",
    ["password", "db_passwd", "api_key", "wandb_api_key", "aws_secret_access_key", "token",
     "hf_token", "auth_token", "client_secret", "credentials", "API_KEY", "ssh_passphrase",
     "hf-token", "private-key", "auth", "authorization", "proxy_auth"],
)  # fmt: skip
def test_text_in_a_setting_named_like_a_secret_is_hidden(name: str) -> None:
    hidden = redacted(name, "canary")
    assert "canary" not in hidden
    assert hidden.startswith("hidden-")
    assert hidden != redacted(name, "another"), "a change is noticed"


@pytest.mark.parametrize(
    "name",
    [
        "seed",
        "max_tokens",
        "token_mixing",
        "key_size",
        "monkey",
        "tokenizer",
        "dataset",
        "name",
        "author",
        "authored_by",
    ],
)
def test_other_settings_are_what_they_are(name: str) -> None:
    assert redacted(name, "cifar10") == "cifar10"


@pytest.mark.parametrize("value", [7, 0.5, True, None, "", [1, 2]])
def test_what_is_no_text_is_no_secret(value: object) -> None:
    assert redacted("token", value) == value
