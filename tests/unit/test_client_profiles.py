"""Gateways by name, in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentray.client.access import Access
from agentray.errors import ClusterNotRunning, ConfigurationError

PROFILES = """
default = "work"

[work]
url = "https://work.example/agents/v1"
key = "ar_work"
tenant = "acme"
proxy = "http://proxy:3128"
ca = "/etc/ssl/own.pem"

[home]
url = "http://home.example"
key_file = "KEY_FILE"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AGENTRAY_URL", "AGENTRAY_API_KEY", "AGENTRAY_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTRAY_HOME", str(tmp_path))
    (tmp_path / "home_key").write_text("ar_home\n")
    write(tmp_path, PROFILES.replace("KEY_FILE", str(tmp_path / "home_key")))
    return tmp_path


def write(home: Path, text: str, mode: int = 0o600) -> None:
    (home / "profiles.toml").write_text(text)
    (home / "profiles.toml").chmod(mode)


def test_the_default_and_others_by_name(home: Path, monkeypatch: pytest.MonkeyPatch):
    work = Access(
        "https://work.example/agents",
        "ar_work",
        tenant="acme",
        proxy="http://proxy:3128",
        ca=Path("/etc/ssl/own.pem"),
    )
    assert Access.find() == work
    assert Access.find(profile="home") == Access("http://home.example", "ar_home")
    monkeypatch.setenv("AGENTRAY_PROFILE", "home")
    assert Access.find().url == "http://home.example"
    assert Access.find(profile="work") == work
    assert home.exists()


def test_what_is_given_goes_before_a_profile(home: Path, monkeypatch: pytest.MonkeyPatch):
    assert Access.find("http://given", "k") == Access("http://given", "k")
    assert Access.find(api_key="k", tenant="other").tenant == "other"
    monkeypatch.setenv("AGENTRAY_URL", "http://from.env")
    assert Access.find(api_key="k") == Access("http://from.env", "k")
    # One that is asked for by its name is meant.
    assert Access.find(profile="home").url == "http://home.example"
    assert home.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[work", "no TOML"),
        ("[work]\nkey = 'ar_secret'", "url"),
        ("[work]\nurl = 'http://w'\nkye = 'ar_secret'", "kye"),
        ("[other]\nurl = 'http://w'", "it has: other"),
        ("work = 'http://w'", "it has: none"),
        ("[work]\nurl = 'http://w'\nkey_file = '/no/such'", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_without_the_key(home: Path, text: str, told: str):
    write(home, text)
    with pytest.raises(ConfigurationError) as caught:
        Access.find(profile="work")
    assert told in str(caught.value)
    assert "ar_secret" not in str(caught.value)


def test_a_file_with_a_key_that_others_may_read_is_refused(home: Path):
    write(home, "[work]\nurl = 'http://w'\nkey = 'ar_secret'", 0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Access.find(profile="work")
    write(home, "[work]\nurl = 'http://w'", 0o644)
    assert Access.find(profile="work").url == "http://w"


def test_without_a_file_everything_is_as_ever(home: Path):
    (home / "profiles.toml").unlink()
    with pytest.raises(ClusterNotRunning):
        Access.find()
    with pytest.raises(ConfigurationError, match="no profile 'work'"):
        Access.find(profile="work")
    write(home, "[work]\nurl = 'http://w'")
    with pytest.raises(ClusterNotRunning):
        Access.find()  # none is named, and none is the default
