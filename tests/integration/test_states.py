"""States on a real cluster: they outlive hosts, are replaced at work, and go out and in by file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from pathlib import Path

import pytest

from agentray import AgentId, ManagerClient, StateRecord
from agentray.errors import StateInvalid, UnknownState
from tests.support.cluster import Cluster, until_complete
from tests.support.helpers import Ledger

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("helper_app")]


async def test_a_state_is_read_replaced_and_forgotten(manager: ManagerClient):
    ledger = manager.handle(Ledger, "one")
    assert await ledger.add(7) == 7
    assert await manager.save_state(ledger.id) == StateRecord(ledger.id, {"total": 7}, 1)
    await manager.load_state(ledger.id, {"total": 100})
    assert await ledger.add(1) == 101
    with pytest.raises(StateInvalid, match="total"):
        await manager.load_state(ledger.id, {"total": "many"})
    assert await ledger.add(1) == 102
    await manager.delete_state(ledger.id)
    with pytest.raises(UnknownState):
        await manager.save_state(ledger.id)
    assert await ledger.add(1) == 1


async def test_states_go_out_to_a_file_and_in_again(
    cluster: Cluster, manager: ManagerClient, tmp_path: Path
):
    ledgers = [manager.handle(Ledger, f"file-{n}") for n in range(20)]
    await asyncio.gather(*(ledger.add(n) for n, ledger in enumerate(ledgers)))
    file = tmp_path / "states.jsonl"
    done = cluster.agentray("state", "export", "helpers", str(file), "--type", "ledger")
    assert done.exit_code == 0, done
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert (lines[0], lines[-1]) == (
        {"format": 1, "app": "helpers"},
        {"agents": len(lines) - 2},
    )
    assert {"agent": "ledger/file-7", "schema_version": 1, "state": {"total": 7}} in lines

    await asyncio.gather(*(ledger.add(1000) for ledger in ledgers))
    done = cluster.agentray("state", "import", str(file))
    assert (done.exit_code, done.stdout) == (0, f"helpers: {len(lines) - 2} agents imported\n")
    found = await asyncio.gather(*(ledger.add(0) for ledger in ledgers))
    assert found == list(range(20))
    # It is in the Store, not in a memory: it outlives the hosts.
    hosts = await until_complete(manager)
    for pid in hosts.values():
        os.kill(pid, signal.SIGKILL)
    await until_complete(manager, without=hosts.values())
    assert (await manager.save_state(AgentId("ledger", "file-7"))).state == {"total": 7}
    assert await asyncio.gather(*(ledger.add(0) for ledger in ledgers)) == list(range(20))


def test_what_cannot_be_exported_or_imported_is_told(cluster: Cluster, tmp_path: Path):
    file = tmp_path / "states.jsonl"
    for words, why in (
        (("export", "nothing"), "There is no app 'nothing'"),
        (("export", "helpers", "--type", "nothing"), "no agent type 'nothing'"),
        (("export", "helpers", str(tmp_path / "no" / "file")), "cannot be written"),
        (("import", str(file)), "cannot be read"),
    ):
        done = cluster.agentray("state", *words)
        assert done.exit_code == 2, done
        assert why in done.complaint
    file.write_text('{"format": 1, "app": "helpers"}\n')
    assert "the file was cut off" in cluster.agentray("state", "import", str(file)).complaint
