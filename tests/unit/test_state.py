"""What an agent keeps: its versions, its limits, its hooks, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, field_validator

from agentray import (
    Agent,
    AgentFailed,
    AgentId,
    AgentOptions,
    App,
    ManagerClient,
    Prompt,
    action,
    on,
)
from agentray.errors import (
    ConfigurationError,
    DeadlineExceeded,
    StateRefused,
    StoreUnavailable,
)
from agentray.store.base import CommitOutcome, Effects, StateWrite
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

ADA = AgentId("account", "ada")


class Inner(BaseModel):
    value: float = 0.0


class Totals(BaseModel):
    total: int = 0
    orders: list[int] = []
    rate: float | None = 0.0
    more: Any = None


class Account(Agent):
    options = AgentOptions(name="account")
    state: Totals

    @action
    async def put(self, field: str, value: object) -> int:
        setattr(self.state, field, value)
        return self.state.total

    @action
    async def hold(self) -> None:
        """Put something into the state that stays in its process."""
        self.state.more = {"deep": [threading.Lock()]}

    @action
    async def replace(self, state: object) -> None:
        self.state = state  # pyright: ignore[reportAttributeAccessIssue]

    @action
    async def read(self) -> dict[str, Any]:
        return self.state.model_dump()

    @action
    async def add_slowly(self, amount: int) -> None:
        self.state.total += amount
        await asyncio.sleep(3600)


class KeptStore(MemoryStore):
    """Holds states as older or newer code has left them; can be away."""

    away = False

    def put(self, agent: AgentId, state: dict[str, Any], version: int = 1) -> None:
        self._states[agent] = (json.dumps(state), version)

    async def kept(self, agent: AgentId) -> StateWrite | None:
        return (await self.load_states([agent])).get(agent)

    async def commit(self, host: str, batch: Any) -> list[CommitOutcome]:
        if self.away and any(effects.states for effects in batch if isinstance(effects, Effects)):
            raise StoreUnavailable
        return await super().commit(host, batch)


@pytest.fixture
def store() -> KeptStore:
    return KeptStore()


@pytest.fixture
async def manager(store: KeptStore) -> AsyncIterator[ManagerClient]:
    async with LocalRuntime(hosts=1, store=store, max_state_bytes=1000) as manager:
        await manager.deploy(App("bank", [Account]))
        yield manager


# What cannot be kept


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("more", "x" * 2000, r"bytes of JSON, and AGENTRAY_MAX_STATE_BYTES is 1,000"),
        ("rate", math.nan, r"not JSON: .*rate.* is a float"),
        ("rate", math.inf, "not JSON"),
        ("more", [math.nan], r"not JSON: more\.0 is a float, nan"),
        ("more", {"a": [1.5, -math.inf]}, r"not JSON: more\.a\.1 is a float, -inf"),
        (
            "more",
            {"a": {1: (None, Inner(value=math.nan))}},
            r"not JSON: more\.a\.1\.1\.value is a float, nan",
        ),
        ("total", "many", r"total: .*integer"),
        ("orders", [1, "two"], r"orders\.1: .*integer"),
        ("more", "half \ud800 a pair", "surrogate"),
        ("more", {1.5: {b"\xff"}}, "not JSON"),
    ],
)
async def test_a_state_that_cannot_be_kept_fails_its_handler_and_the_one_before_stays(
    manager: ManagerClient, store: KeptStore, field: str, value: object, why: str
) -> None:
    account = manager.handle(Account, "ada")
    await account.put("total", 7)
    with pytest.raises(StateRefused, match=why) as caught:
        await account.put(field, value)
    assert caught.value.agent == "account/ada"
    assert (await account.read())["total"] == 7
    kept = await store.kept(ADA)
    assert kept is not None
    assert kept.state == Totals(total=7).model_dump()
    assert await account.put("total", 8) == 8  # and it goes on


class Odd(Agent):
    """Its model has a word of its own for what is no number."""

    class Model(BaseModel, ser_json_inf_nan="strings"):
        value: float = math.nan
        empty: int | None = None

    state: Model

    @action
    async def put(self, value: float) -> float:
        before, self.state.value = self.state.value, value
        return before


async def test_a_model_may_have_a_json_form_for_what_is_no_number(store: KeptStore) -> None:
    async with LocalRuntime(store=store) as manager:
        await manager.deploy(App("odd", [Odd]))
        await manager.handle(Odd, "x").put(-math.inf)
        assert (await manager.save_state("odd/x")).state == {"value": "-Infinity", "empty": None}
    async with LocalRuntime(store=store) as manager:
        await manager.deploy(App("odd", [Odd]))
        assert await manager.handle(Odd, "x").put(1.0) == -math.inf


async def test_what_has_no_json_form_is_refused_also_where_the_model_allows_it(
    manager: ManagerClient, store: KeptStore
) -> None:
    account = manager.handle(Account, "ada")
    with pytest.raises(StateRefused, match=r"\.more\['deep'\]\[0\] is a _thread\.lock"):
        await account.hold()
    assert await store.kept(ADA) is None
    assert (await account.read())["more"] is None


@pytest.mark.parametrize("state", [None, {"total": 1}, 5])
async def test_a_state_that_is_not_its_model_is_refused(
    manager: ManagerClient, state: object
) -> None:
    account = manager.handle(Account, "ada")
    await account.put("total", 7)
    with pytest.raises(StateRefused, match="not its model"):
        await account.replace(state)
    assert (await account.read())["total"] == 7


async def test_what_the_model_would_read_back_is_kept_in_the_models_form(
    manager: ManagerClient, store: KeptStore
) -> None:
    account = manager.handle(Account, "ada")
    await account.put("orders", (1, 2))
    await account.put("rate", 3)
    kept = await store.kept(ADA)
    assert kept is not None
    assert Totals.model_validate(kept.state) == Totals(orders=[1, 2], rate=3.0)


# What a failure leaves behind


async def test_a_handler_that_is_given_up_leaves_the_state_as_it_was(
    manager: ManagerClient,
) -> None:
    account = manager.handle(Account, "ada")
    await account.put("total", 7)
    with pytest.raises(DeadlineExceeded):
        await account.with_timeout(0.05).add_slowly(100)
    assert (await account.read())["total"] == 7


async def test_a_change_that_could_not_be_committed_is_undone_in_memory_too(
    manager: ManagerClient, store: KeptStore
) -> None:
    account = manager.handle(Account, "ada")
    await account.put("total", 7)
    store.away = True
    with pytest.raises(StoreUnavailable):
        await account.put("total", 8)
    store.away = False
    assert (await account.read())["total"] == 7
    await account.put("rate", 1.5)
    kept = await store.kept(ADA)
    assert kept is not None
    assert (kept.state["total"], kept.state["rate"]) == (7, 1.5)


class Helper(Agent):
    @action(idempotent=True)
    async def note(self) -> None: ...


class Patient(Agent):
    """Counts its prompts; a run whose helper was lost meanwhile is tried again."""

    state: Totals
    asked: ClassVar[asyncio.Event]
    go_on: ClassVar[asyncio.Event]

    @on(Prompt)
    async def receive(self, prompt: Prompt) -> str | None:
        self.state.total += 1
        await self.handle(Helper, prompt.text).note()
        if not Patient.asked.is_set():
            Patient.asked.set()
            await Patient.go_on.wait()
            return None
        return str(self.state.total)


async def test_a_run_that_is_tried_again_finds_the_state_as_it_was() -> None:
    Patient.asked, Patient.go_on = asyncio.Event(), asyncio.Event()
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(App("patience", [Helper, Patient]))
        patient = AgentId("patient", "p")
        helper = next(
            key
            for key in map(str, range(100))
            if runtime.host_of(AgentId("helper", key)) != runtime.host_of(patient)
        )
        run = asyncio.create_task(manager.prompt(helper, agent=patient))
        await Patient.asked.wait()
        lost = runtime.host_of(AgentId("helper", helper)) or ""
        await runtime.kill_host(lost)
        await eventually_async(lambda: _has_left(runtime, AgentId("helper", helper), lost))
        Patient.go_on.set()
        ended = await asyncio.wait_for(run, 20)
        assert (ended.attempt, ended.result) == (2, "1")


async def _has_left(runtime: LocalRuntime, agent: AgentId, host: str) -> bool:
    return runtime.host_of(agent) not in {None, host}


# Versions


class Person(BaseModel):
    first: str = ""
    last: str = ""

    @field_validator("last")
    @classmethod
    def capitalised(cls, last: str) -> str:
        if last and not last[0].isupper():
            raise ValueError("a name begins with a capital")
        return last


class Member(Agent):
    state: Person
    state_version: ClassVar[int] = 3
    migrated: ClassVar[list[int]] = []

    @classmethod
    def migrate_state(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        cls.migrated.append(version)
        first, last = data.pop("name").split()
        return {"first": first, "last": last}

    @action
    async def names(self) -> list[str]:
        return [self.state.first, self.state.last]

    @action
    async def marry(self, last: str) -> None:
        self.state.last = last


@pytest.fixture
async def members(store: KeptStore) -> AsyncIterator[ManagerClient]:
    Member.migrated.clear()
    async with LocalRuntime(hosts=1, store=store) as manager:
        await manager.deploy(App("members", [Member]))
        yield manager


async def test_an_older_state_is_migrated_and_kept_with_the_new_version(
    members: ManagerClient, store: KeptStore
) -> None:
    ada = AgentId("member", "ada")
    store.put(ada, {"name": "Ada Byron"}, version=2)
    member = members.handle(Member, "ada")
    assert await member.names() == ["Ada", "Byron"]
    assert Member.migrated == [2]
    await member.marry("Lovelace")
    kept = await store.kept(ada)
    assert kept == StateWrite(ada, {"first": "Ada", "last": "Lovelace"}, 3)


async def test_a_state_of_the_same_version_is_not_migrated(
    members: ManagerClient, store: KeptStore
) -> None:
    store.put(AgentId("member", "ada"), {"first": "Ada"}, version=3)
    assert await members.handle(Member, "ada").names() == ["Ada", ""]
    assert Member.migrated == []


@pytest.mark.parametrize(
    ("state", "version", "why"),
    [
        ({"first": "Ada"}, 4, "StateTooNew: .*version 4.*up to 3"),
        ({"name": "Ada"}, 1, r"StateInvalid: .*version 1.*ValueError: not enough values"),
        ({"name": "ada byron"}, 2, "StateInvalid: .*last: .*capital"),
        ({"first": ["Ada"]}, 3, "StateInvalid: .*first: .*string"),
    ],
)
async def test_a_kept_state_that_does_not_fit_fails_the_agent_and_stays_as_it_is(
    members: ManagerClient, store: KeptStore, state: dict[str, Any], version: int, why: str
) -> None:
    ada = AgentId("member", "ada")
    store.put(ada, state, version)
    with pytest.raises(AgentFailed, match=why) as caught:
        await asyncio.wait_for(members.handle(Member, "ada").names(), 30)
    assert caught.value.agent == "member/ada"
    assert await store.kept(ada) == StateWrite(ada, state, version)


async def test_without_a_migration_new_fields_get_their_defaults(store: KeptStore) -> None:
    class Later(Agent):
        state: Totals
        state_version: ClassVar[int] = 2

        @action
        async def read(self) -> dict[str, Any]:
            return self.state.model_dump()

    store.put(AgentId("later", "a"), {"total": 4}, version=1)
    async with LocalRuntime(hosts=1, store=store) as manager:
        await manager.deploy(App("later", [Later]))
        assert await manager.handle(Later, "a").read() == Totals(total=4).model_dump()


@pytest.mark.parametrize("version", [0, -1, "2", True, 1.5])
def test_a_version_is_a_number_from_one(version: object) -> None:
    with pytest.raises(ConfigurationError, match="state_version"):
        type("Odd", (Agent,), {"state_version": version})


# Hooks


class Board(Agent):
    """Keeps what is no model: plain attributes of its own."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], str] = {}
        self.changed = 0

    async def on_start(self) -> None:
        self.started = True

    def save_state(self) -> dict[str, Any]:
        assert self.started  # on_start has run
        return {"cells": [[*place, mark] for place, mark in self.cells.items()]}

    def load_state(self, data: dict[str, Any]) -> None:
        self.cells = {(x, y): mark for x, y, mark in data["cells"]}
        self.started = True

    @action
    async def set(self, x: int, y: int, mark: Any, *, then: Literal["", "fail"] = "") -> int:
        self.cells[x, y] = mark
        if then:
            raise RuntimeError(then)
        return len(self.cells)


class Secretive(Agent):
    """Keeps less than its model has."""

    state: Totals

    def save_state(self) -> dict[str, Any]:
        return self.state.model_dump(mode="json", exclude={"more"})

    @action
    async def put(self, total: int, more: str) -> None:
        self.state.total, self.state.more = total, more

    @action
    async def read(self) -> tuple[int, Any]:
        return self.state.total, self.state.more


async def test_hooks_say_what_is_kept_and_how_it_is_read(store: KeptStore) -> None:
    async with LocalRuntime(hosts=2, store=store) as manager:
        await manager.deploy(App("boards", [Board, Secretive]))
        board = manager.handle(Board, "b")
        assert await board.set(1, 2, "x") == 1
        kept = await store.kept(board.id)
        assert kept is not None
        assert kept.state == {"cells": [[1, 2, "x"]]}
        with pytest.raises(RuntimeError):
            await board.set(3, 4, "o", then="fail")
        assert await board.set(1, 2, "o") == 1  # the failed one left nothing

        secretive = manager.handle(Secretive, "s")
        await secretive.put(3, "secret")
        assert await secretive.read() == (3, "secret")

    async with LocalRuntime(hosts=2, store=store) as manager:
        assert await manager.handle(Board, "b").set(5, 6, "x") == 2
        assert await manager.handle(Secretive, "s").read() == (3, None)


async def test_a_failed_first_handler_leaves_an_agent_with_hooks_as_it_started() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("boards", [Board]))
        board = manager.handle(Board, "b")
        with pytest.raises(RuntimeError):
            await board.set(3, 4, "o", then="fail")
        assert await board.set(1, 2, "o") == 1


async def test_a_hook_that_returns_what_is_no_json_is_refused() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("boards", [Board]))
        with pytest.raises(StateRefused, match="not JSON"):
            await manager.handle(Board, "b").set(1, 2, math.nan)


def test_hooks_without_a_model_come_in_pairs() -> None:
    for hook, missing in (("save_state", "load_state"), ("load_state", "save_state")):
        with pytest.raises(ConfigurationError, match=f"no {missing} of its own"):
            type("Half", (Agent,), {hook: vars(Board)[hook]})
