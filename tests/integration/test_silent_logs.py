"""What logs must not tell: prompts, arguments and keys, whatever becomes of them."""

from __future__ import annotations

import json
import secrets

import pytest

from agentray import ManagerClient
from agentray.client import AsyncAgentClient, ClientError
from tests.support.cluster import Cluster, lines_of, text_of
from tests.support.eventually import eventually
from tests.support.helpers import Ledger, Parrot

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("helper_app")]


async def test_no_log_has_a_prompt_an_argument_or_a_key(cluster: Cluster, manager: ManagerClient):
    marker, wrong_key = f"marker{secrets.token_hex(8)}", f"ar_{secrets.token_hex(16)}"
    async with cluster.client() as client:
        run = await client.prompt(f"{marker} as prompt", "parrot", wait_s=60)
        assert run.result == {"text": f"{marker} as prompt"}
        with pytest.raises(ClientError):
            await client.prompt(f"{marker} to nobody", "nobody")
        with pytest.raises(ClientError):
            await client.prompt(marker, "parrot", idempotency_key="k" * 10_000)
    async with AsyncAgentClient(cluster.url, wrong_key, timeout=30) as stranger:
        with pytest.raises(ClientError):
            await stranger.prompt(marker, "parrot")
    parrot = manager.handle(Parrot, "silent")
    assert await parrot.echo(marker) == marker
    with pytest.raises(ValueError, match=marker):
        await parrot.fail(marker)
    with pytest.raises(TypeError):
        await parrot.twice(1, marker)
    await manager.handle(Ledger, "silent").add(7)
    assert (await manager.prompt(f"{marker} by a driver", agent="parrot")).result is not None
    assert cluster.agentray("prompt", marker, "--agent", "parrot").exit_code == 0

    # These are the logs that we mean: the manager has told of its hosts.
    eventually(lambda: any('"action": "host_live"' in text_of(path) for path in cluster.logs()))
    files = cluster.logs()
    assert len(files) > 10
    telling = {
        (str(path), what)
        for path in files
        for what, text in (("prompt", marker), ("key", cluster.key), ("wrong key", wrong_key))
        if text in text_of(path)
    }
    assert telling == set()
    lines = [line for path in files for line in lines_of(path)]
    ours = [json.loads(line) for line in lines if line.startswith('{"time"')]
    assert ours
    assert all("action" in line for line in ours if line["logger"].startswith("agentray"))
