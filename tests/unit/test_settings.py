"""Settings that cannot be meant are refused, before anything is started with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentray import Settings
from agentray.cli.command import read_settings
from agentray.errors import ConfigurationError


@pytest.mark.parametrize(
    "url", ["garbage", "mysql://x", "postgresql://ada:secret@host:99999/x", "postgresql://[::1/x"]
)
def test_a_database_url_that_is_none_is_refused_without_telling_it(
    monkeypatch: pytest.MonkeyPatch, url: str
):
    monkeypatch.setenv("AGENTRAY_DATABASE_URL", url)
    with pytest.raises(ConfigurationError, match="AGENTRAY_DATABASE_URL: it ") as refused:
        read_settings()
    assert "secret" not in str(refused.value) + str(refused.value.__cause__)


@pytest.mark.parametrize(
    "url", ["postgresql:///agentray?host=%2Frun%2Fpg", "postgres://ada:s@h:5432/x"]
)
def test_a_database_url_is_kept_as_it_is(url: str):
    assert Settings(database_url=url).database_url == url


@pytest.mark.parametrize("home", ["here", "./here", ""])
def test_a_home_that_depends_on_the_working_directory_is_refused(
    monkeypatch: pytest.MonkeyPatch, home: str
):
    monkeypatch.setenv("AGENTRAY_HOME", home)
    with pytest.raises(ConfigurationError, match="AGENTRAY_HOME: it must be an absolute path"):
        read_settings()


def test_a_home_may_begin_with_the_users_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert Settings(home=Path("~/rays")).home == Path("/home/ada/rays")
