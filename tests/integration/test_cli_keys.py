"""Commands about API keys, against a real gateway."""

from __future__ import annotations

import json

import pytest

from agentray.cli.exits import ExitCode
from tests.integration.test_cli_http import Shell
from tests.support.gateway import READ_KEY, Gateway


@pytest.fixture
def shell(gateway: Gateway) -> Shell:
    return Shell(gateway)


async def test_a_key_is_made_printed_once_and_revoked(shell: Shell):
    done = await shell("keys", "create", "--scopes", "invoke, read", "--name", "shop")
    secret = done.stdout.strip()
    assert (done.exit_code, secret[:3]) == (0, "ar_")
    assert secret not in done.stderr
    assert (await shell("prompt", "Ada", key=secret)).exit_code == 0

    listed = await shell("keys", "list", "--json")
    assert secret not in listed.stdout
    (key,) = [key for key in json.loads(listed.stdout)["keys"] if key["name"] == "shop"]
    assert "invoke, read" in (await shell("keys", "list")).stdout

    assert (await shell("keys", "revoke", key["id"])).stdout == f"{key['id']}: revoked\n"
    assert (await shell("prompt", "Ada", key=secret)).exit_code == ExitCode.REFUSED


async def test_a_key_of_a_tenant_as_json(shell: Shell):
    done = await shell("keys", "create", "--scopes", "read", "--tenant", "acme", "--json")
    made = json.loads(done.stdout)
    assert (made["tenant"], made["scopes"], made["secret"][:3]) == ("acme", ["read"], "ar_")
    done = await shell("runs", "--json", key=made["secret"])
    assert (done.exit_code, json.loads(done.stdout)["runs"] if done.stdout[:1] == "{" else []) == (
        0,
        [],
    )


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["create", "--scopes", "root"], ExitCode.USAGE, "'root' is no scope"),
        (["create", "--scopes", " , "], ExitCode.USAGE, "No scope is given"),
        (["create"], ExitCode.USAGE, "--scopes"),
        (["create", "--scopes", "read", "--tenant", "a b"], ExitCode.USAGE, "no name of a tenant"),
        (["revoke", "key_none"], ExitCode.NOT_FOUND, "There is no API key 'key_none'."),
    ],
)
async def test_what_cannot_be_is_said(shell: Shell, words: list[str], code: int, told: str):
    done = await shell("keys", *words)
    assert done.exit_code == code
    assert told in done.stderr


async def test_only_an_admin_makes_keys(shell: Shell):
    done = await shell("keys", "create", "--scopes", "read", key=READ_KEY)
    assert done.exit_code == ExitCode.REFUSED
    assert "lacks the scope 'admin'" in done.stderr
