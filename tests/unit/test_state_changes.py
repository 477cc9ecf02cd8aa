"""What operators do with states: read, replace, forget, export, import, while agents work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentFailed,
    AgentId,
    AgentOptions,
    App,
    ConfigurationError,
    DeadlineExceeded,
    Handle,
    ManagerClient,
    PayloadError,
    StateRecord,
    UnknownAgentType,
    action,
)
from agentray.errors import StateInvalid, StateRefused, StateTooNew, UnknownState
from agentray.protocol.states import footer, header, line_of, read_lines
from agentray.store.base import StateWrite
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Totals(BaseModel):
    total: int = 0
    note: str = ""


class Account(Agent):
    state: Totals
    state_version: ClassVar[int] = 2
    stopped: ClassVar[list[int]] = []
    gate: ClassVar[asyncio.Event]
    reached: ClassVar[asyncio.Event]

    @classmethod
    def migrate_state(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        assert version == 1
        return {"total": data["amount"]}

    @action
    async def add(self, amount: int) -> int:
        self.state.total += amount
        return self.state.total

    @action
    async def add_when_told(self, amount: int) -> int:
        self.reached.set()
        await self.gate.wait()
        self.state.total += amount
        return self.state.total

    @action
    async def ask_back(self) -> int:
        """Call an agent that calls this one back, while its own state is being replaced."""
        self.reached.set()
        await self.gate.wait()
        return await self.handle(Asker, "a").ask(self.id.key)

    async def on_stop(self) -> None:
        self.stopped.append(self.state.total)


class Asker(Agent):
    @action
    async def ask(self, key: str) -> int:
        return await self.handle(Account, key).add(5)


class Busy(Agent):
    options = AgentOptions(concurrency=None)
    state: Totals

    @action
    async def add(self, amount: int) -> int:
        await asyncio.sleep(0.001 * (amount % 3))
        self.state.total += amount
        return self.state.total


class Other(Agent):
    state: Totals

    @action
    async def add(self, amount: int) -> int:
        self.state.total += amount
        return self.state.total


Cluster = tuple[LocalRuntime, ManagerClient]
ADA = AgentId("account", "ada")


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    Account.stopped.clear()
    Account.gate, Account.reached = asyncio.Event(), asyncio.Event()
    runtime = LocalRuntime(hosts=2, max_state_bytes=1000)
    async with runtime as manager:
        await manager.deploy(App("bank", [Account, Asker, Busy]))
        await manager.deploy(App("shop", [Other]))
        yield runtime, manager


# One agent


async def test_what_is_kept_of_an_agent_is_read_after_its_last_handler(cluster: Cluster) -> None:
    _, manager = cluster
    with pytest.raises(UnknownState, match="account/ada"):
        await manager.save_state(ADA)
    await manager.handle(ADA).add(7)
    assert await manager.save_state("account/ada") == StateRecord(ADA, {"total": 7, "note": ""}, 2)


async def test_a_loaded_state_is_seen_by_the_next_message_and_kept(cluster: Cluster) -> None:
    _, manager = cluster
    account = manager.handle(Account, ADA.key)
    await account.add(7)
    await manager.load_state(ADA, {"total": 100})
    assert Account.stopped == [7]  # it left memory in good order
    assert (await manager.save_state(ADA)).state == {"total": 100}
    assert await account.add(1) == 101
    await manager.load_state(AgentId("account", "new"), {"total": 5})
    assert await manager.handle("account/new").add(1) == 6


async def test_a_record_of_an_older_version_is_migrated(cluster: Cluster) -> None:
    _, manager = cluster
    await manager.load_state(ADA, StateRecord(ADA, {"amount": 40}, 1))
    assert await manager.handle(ADA).add(2) == 42


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        ({"total": "many"}, StateInvalid, "total: .*integer"),
        (StateRecord(ADA, {"total": 1}, 3), StateTooNew, "version 3.*up to 2"),
        (StateRecord(ADA, {"total": 1}, 1), StateInvalid, "KeyError: 'amount'"),
        ({"total": float("nan")}, StateRefused, "not JSON"),
        ({"note": "x" * 1000}, StateRefused, "AGENTRAY_MAX_STATE_BYTES"),
    ],
)
async def test_a_state_that_the_code_cannot_read_changes_nothing(
    cluster: Cluster, data: Any, kind: type[Exception], why: str
) -> None:
    _, manager = cluster
    await manager.handle(ADA).add(7)
    with pytest.raises(kind, match=why):
        await manager.load_state(ADA, data)
    assert Account.stopped == []
    assert await manager.handle(ADA).add(1) == 8


async def test_types_without_a_state_and_unknown_ones_are_told(cluster: Cluster) -> None:
    _, manager = cluster
    with pytest.raises(ConfigurationError, match="asker keep no state"):
        await manager.load_state("asker/a", {})
    with pytest.raises(UnknownAgentType):
        await manager.load_state("nobody/a", {})
    with pytest.raises(ConfigurationError, match="not an agent id"):
        await manager.load_state("nobody", {})


async def test_a_handler_under_way_ends_and_is_kept_before_the_state_is_replaced(
    cluster: Cluster,
) -> None:
    _, manager = cluster
    account = manager.handle(Account, ADA.key)
    under_way = asyncio.create_task(account.add_when_told(1))
    await Account.reached.wait()
    waiting = [asyncio.create_task(account.add(1)) for _ in range(3)]
    loading = asyncio.create_task(manager.load_state(ADA, {"total": 100}))
    for _ in range(20):
        await asyncio.sleep(0)
    late = asyncio.create_task(account.add(1))
    Account.gate.set()
    await loading
    assert await under_way == 1
    assert Account.stopped == [1]
    assert sorted(await asyncio.gather(*waiting, late)) == [101, 102, 103, 104]


async def test_an_agent_that_is_busy_for_too_long_goes_on_as_it_was(cluster: Cluster) -> None:
    _, manager = cluster
    account = manager.handle(Account, ADA.key)
    under_way = asyncio.create_task(account.add_when_told(1))
    await Account.reached.wait()
    with pytest.raises(DeadlineExceeded):
        await manager.load_state(ADA, {"total": 100}, timeout=0.05)
    waiting = asyncio.create_task(account.add(1))
    Account.gate.set()
    assert await under_way == 1
    assert await waiting == 2
    assert Account.stopped == []


async def test_a_call_that_comes_back_to_the_agent_is_let_in(cluster: Cluster) -> None:
    _, manager = cluster
    under_way = asyncio.create_task(manager.handle(ADA).ask_back())
    await Account.reached.wait()
    loading = asyncio.create_task(manager.load_state(ADA, {"total": 100}))
    for _ in range(20):
        await asyncio.sleep(0)
    Account.gate.set()
    assert await asyncio.wait_for(under_way, 60) == 5
    await loading
    assert await manager.handle(ADA).add(1) == 101


async def test_nothing_is_lost_or_mixed_while_states_are_replaced_under_load(
    cluster: Cluster,
) -> None:
    _, manager = cluster
    agents: list[Handle[Any]] = [manager.handle(Account, "ada"), manager.handle(Busy, "b")]
    for agent in agents:
        found: list[int] = []

        async def work(agent: Any = agent, found: list[int] = found) -> None:
            for _ in range(40):
                found += [await agent.add(1)]

        workers = [asyncio.create_task(work()) for _ in range(5)]
        for n in range(1, 6):
            await manager.load_state(agent.id, {"total": 1000 * n})
        await asyncio.gather(*workers)
        after_the_last = [value for value in found if value > 5000]
        assert sorted(after_the_last) == list(range(5001, 5001 + len(after_the_last)))
        kept = await manager.save_state(agent.id)
        assert kept.state["total"] == 5000 + len(after_the_last)
        assert len(found) == 200


async def test_two_operators_at_once_both_come_through(cluster: Cluster) -> None:
    _, manager = cluster
    await asyncio.gather(
        *(manager.load_state(ADA, {"total": 10 * n}) for n in range(1, 9)),
        manager.handle(ADA).add(1),
    )
    total = (await manager.save_state(ADA)).state["total"]
    assert await manager.handle(ADA).add(1) == total + 1


async def test_a_failed_agent_comes_back_with_a_state_that_fits(cluster: Cluster) -> None:
    runtime, manager = cluster
    await runtime.store.put_states([StateWrite(ADA, {"total": 1}, 9)])
    with pytest.raises(AgentFailed, match="StateTooNew"):
        await manager.handle(ADA).add(1)
    await manager.load_state(ADA, {"total": 100})
    assert await manager.handle(ADA).add(1) == 101


async def test_a_state_is_forgotten(cluster: Cluster) -> None:
    _, manager = cluster
    await manager.handle(ADA).add(7)
    await manager.delete_state(ADA)
    with pytest.raises(UnknownState):
        await manager.save_state(ADA)
    assert await manager.handle(ADA).add(1) == 1
    await manager.delete_state(AgentId("account", "never"))


async def test_the_state_of_a_stopped_apps_agent_can_be_replaced(cluster: Cluster) -> None:
    _, manager = cluster
    await manager.stop("bank")
    await manager.load_state(ADA, {"total": 100})
    await manager.deploy(App("bank", [Account, Asker, Busy]))
    assert await manager.handle(ADA).add(1) == 101


# A whole app


class SmallPages(MemoryStore):
    pages = 0

    async def list_states(
        self, agent_type: str, *, after: str = "", limit: int = 10, max_bytes: int = 10_000
    ) -> list[StateWrite]:
        self.pages += 1
        return await super().list_states(agent_type, after=after, limit=limit, max_bytes=max_bytes)


async def records(manager: ManagerClient, *what: str) -> list[StateRecord]:
    return [record async for record in manager.export_state(*what)]


async def test_an_app_is_exported_page_by_page_and_imported_elsewhere() -> None:
    store = SmallPages()
    async with LocalRuntime(hosts=2, store=store) as manager:
        await manager.deploy(App("bank", [Account, Asker, Busy]))
        await manager.deploy(App("shop", [Other]))
        calls = [manager.handle(Account, f"a{n}").add(n) for n in range(35)]
        await asyncio.gather(
            *calls, manager.handle(Busy, "b").add(1), manager.handle(Other, "o").add(1)
        )
        all_of_it = await records(manager, "bank")
        assert store.pages >= 5
        assert {r.agent.type for r in all_of_it} == {"account", "busy"}
        assert len(all_of_it) == 36
        assert await records(manager, "bank", "busy") == [
            StateRecord(AgentId("busy", "b"), {"total": 1, "note": ""}, 1)
        ]
        for what, why in (
            (("none",), "no app 'none'"),
            (("bank", "other"), "no agent type 'other'"),
        ):
            with pytest.raises(ConfigurationError, match=why):
                await records(manager, *what)

    lines = [header("bank"), *map(line_of, all_of_it), footer(len(all_of_it))]
    app, read = read_lines(lines)
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("bank", [Account, Asker, Busy]))
        assert await manager.import_state(app, read) == 36
        assert await records(manager, "bank") == all_of_it
        assert await manager.handle(Account, "a30").add(1) == 31


async def test_an_import_reaches_agents_that_are_in_memory_and_at_work(cluster: Cluster) -> None:
    _, manager = cluster
    account = manager.handle(Account, ADA.key)
    await account.add(1)
    under_way = asyncio.create_task(account.add_when_told(1))
    await Account.reached.wait()
    await manager.import_state("bank", [StateRecord(ADA, {"total": 100}, 2)])
    Account.gate.set()
    # What it had done to the old state is not written: it is repeated on the new one.
    assert await under_way == 101
    assert await account.add(1) == 102
    assert (await manager.save_state(ADA)).state["total"] == 102


@pytest.mark.parametrize(
    ("bad", "kind", "why"),
    [
        (StateRecord(AgentId("other", "o"), {}), ConfigurationError, "not of the app 'bank'"),
        (StateRecord(AgentId("account", "a"), {}), ConfigurationError, "account/a is there twice"),
        (
            StateRecord(AgentId("account", "b"), {"total": {1.0: b"\xff"}}),
            PayloadError,
            "account/b",
        ),
        (StateRecord(AgentId("account", "b"), {"total": "x"}, 2), StateInvalid, "account/b.*total"),
        (StateRecord(AgentId("account", "b"), {"total": 1}, 9), StateTooNew, "account/b"),
    ],
)
async def test_an_import_is_all_or_nothing(
    cluster: Cluster, bad: StateRecord, kind: type[Exception], why: str
) -> None:
    _, manager = cluster
    good = StateRecord(AgentId("account", "a"), {"total": 1}, 2)
    assert await manager.handle(Account, "b").add(3) == 3
    before = await records(manager, "bank")
    with pytest.raises(kind, match=why):
        await manager.import_state("bank", [good, bad])
    assert await records(manager, "bank") == before
    assert await manager.handle(Account, "b").add(1) == 4


# The file


def record(key: str = "ada") -> StateRecord:
    return StateRecord(AgentId("account", key), {"total": 1}, 2)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "Line 1 .*no header"),
        ([header("bank")], "last line is missing"),
        ([header("bank"), line_of(record())], "Line 2 .*last line is missing"),
        ([header("bank"), line_of(record()), footer(2)], "Line 3 .*2 agents .*1 are there"),
        ([header("bank"), footer(0), line_of(record())], "Line 3 .*follows the last line"),
        ([json.dumps({"format": 2, "app": "bank"}), footer(0)], "Line 1 .*no header"),
        ([line_of(record()), footer(1)], "Line 1 .*no header"),
        ([header("bank"), "{", footer(0)], "Line 2 .*not JSON"),
        ([header("bank"), "[]", footer(0)], "Line 2 .*not a JSON object"),
        ([header("bank"), '{"agent": "a/b", "state": {"x": NaN}}'], "NaN is not JSON"),
        ([header("bank"), '{"agent": 5}'], "agent is not a text"),
        ([header("bank"), '{"agent": "nokey", "state": {}, "schema_version": 1}'], "type/key"),
        ([header("bank"), '{"agent": "a/b", "state": []}'], "state is not a JSON object"),
        (
            [header("bank"), '{"agent": "a/b", "state": {}, "schema_version": 0}'],
            "schema_version is not a number from 1",
        ),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_its_line(lines: list[str], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read_lines(lines)


def test_a_file_is_read_as_it_was_written() -> None:
    found = [record("a/b"), record("é\n"), StateRecord(ADA, {"deep": [{"x": None}]})]
    lines = [header("bank"), *map(line_of, found), "", footer(3)]
    assert read_lines(f"{line}\n" for line in lines) == ("bank", found)


class Reluctant(Agent):
    """Takes its time to start, and lets one message wait."""

    options = AgentOptions(mailbox=1)
    state: Totals
    gate: ClassVar[asyncio.Event]

    async def on_start(self) -> None:
        await self.gate.wait()

    @action
    async def add(self, amount: int) -> int:
        self.state.total += amount
        return self.state.total


async def test_a_state_is_loaded_into_an_agent_that_starts_with_a_full_mailbox() -> None:
    Reluctant.gate = asyncio.Event()
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("slow", [Reluctant]))
        agent = manager.handle(Reluctant, "r")
        calls = [asyncio.create_task(agent.add(1)) for _ in range(4)]
        await eventually_async(lambda: has_queued(agent, 2))
        loading = asyncio.create_task(manager.load_state(agent.id, {"total": 10}))
        await asyncio.sleep(0)
        assert await agent.ping() < 10  # its host goes on
        Reluctant.gate.set()
        await loading
        await asyncio.gather(*calls, return_exceptions=True)
        assert await agent.add(1) == 11


async def has_queued(agent: Handle[Any], count: int) -> bool:
    return (await agent.status())["queued"] == count
