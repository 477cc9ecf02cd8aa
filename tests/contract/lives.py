"""How agents are launched, kept, looked at, and what they may be sent: for both ways of hosting.

Collected as `hosting.py` is, by `test_hosting_local.py` and by
`tests/integration/test_hosting_on_ray.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentFailed,
    AgentId,
    AgentOptions,
    AgentStopped,
    App,
    ConfigurationError,
    Handle,
    Launch,
    ManagerClient,
    PayloadError,
    RestartPolicy,
    StateRecord,
    UnknownAgent,
    action,
    payloads,
)
from agentray.errors import StateRefused
from agentray.ids import new_id
from tests.support.eventually import eventually_async


class Page(BaseModel):
    number: int
    words: list[str] = []


@dataclass
class Stamp:
    name: str
    pages: list[Page]


class Seal:
    """Does not pickle, and is registered."""

    def __init__(self, motto: str) -> None:
        self.motto = motto
        self.lock = threading.Lock()


payloads.register(Seal, encode=lambda seal: seal.motto, decode=Seal)


class Drawer(BaseModel):
    things: dict[str, Any] = {}


class Registrar(Agent):
    """Keeps things, and says who it is."""

    options = AgentOptions(restart=RestartPolicy(max_restarts=0))
    state: Drawer
    state_version = 2

    def __init__(self, desk: str = "none", *, sits: bool = True) -> None:
        self.desk, self.sits = desk, sits

    @classmethod
    def migrate_state(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        return {"things": {"from": version, **data}}

    async def on_start(self) -> None:
        if self.desk == "broken":
            raise ValueError("the desk is broken")

    @action(idempotent=True)
    async def place(self) -> tuple[str, bool]:
        """Return where it sits."""
        return self.desk, self.sits

    @action
    async def keep(self, name: str, thing: Any) -> None:
        self.state.things[name] = thing

    @action
    async def kept(self) -> dict[str, Any]:
        return self.state.things

    @action
    async def fail(self) -> None:
        raise ValueError("as told")


class Registry(Agent):
    """Launches registrars."""

    @action
    async def hire(self, name: str, *, owned: bool) -> Handle[Registrar]:
        return await self.launch(Registrar, args=("hired",), name=name, owned=owned)


class Crafted(Agent):
    """Comes from a factory that sees its id."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    @action
    async def made_as(self) -> str:
        return self.mark


async def make(agent_id: AgentId) -> Crafted:
    await asyncio.sleep(0)
    return Crafted(f"for {agent_id.key}")


class Copyist(Agent):
    """Yields, and takes whatever it is given."""

    options = AgentOptions(concurrency=None)

    def __init__(self) -> None:
        self.left = 0

    @action
    async def count(self, upto: int, fail_at: int | None = None) -> AsyncIterator[int]:
        try:
            for number in range(upto):
                if number == fail_at:
                    raise ValueError("out of ink")
                yield number
        finally:
            self.left += 1

    @action
    async def times_left(self) -> int:
        return self.left

    @action
    async def same(self, thing: Any) -> Any:
        return thing

    @action
    async def motto(self, seal: Seal) -> str:
        return seal.motto

    @action
    async def total(self, array: Any) -> tuple[float, bool]:
        return float(array.sum()), bool(array.flags.writeable)

    @action
    async def unsendable(self) -> Any:
        return {"deep": [threading.Lock()]}


LIVES = App("lives", [Registrar, Registry, Crafted, Copyist], factories={Crafted: make})


class LivesContract:
    """Subclass it with a fixture `lives`: a manager's client with the app deployed."""

    # Launching

    async def test_a_launched_agent_has_its_arguments_and_is_found(
        self, lives: ManagerClient
    ) -> None:
        tag = new_id("tag")
        registrar = await lives.launch(
            Registrar, args=("window",), kwargs={"sits": False}, labels={"tag": tag}
        )
        assert await registrar.place() == ("window", False)
        found = await lives.find(type=Registrar, labels={"tag": tag}, action="place")
        assert [record.handle.id for record in found] == [registrar.id]
        assert registrar.id in await lives.running()
        again = await lives.launch(
            Registrar, args=("window",), kwargs={"sits": False}, name=registrar.id.key
        )
        assert again.id == registrar.id
        with pytest.raises(ConfigurationError, match="other arguments"):
            await lives.launch(Registrar, args=("door",), name=registrar.id.key)

    async def test_an_instance_can_be_launched(self, lives: ManagerClient) -> None:
        registrar = await lives.launch(Registrar("corner", sits=False))
        assert await registrar.place() == ("corner", False)

    async def test_a_registered_agent_starts_with_its_first_message(
        self, lives: ManagerClient
    ) -> None:
        registrar = await lives.register(Registrar, args=("later",))
        assert registrar.id not in await lives.running()
        assert await (await lives.get_handle(registrar.id)).place() == ("later", True)
        with pytest.raises(UnknownAgent):
            await lives.get_handle(AgentId("registrar", new_id("nobody")))

    async def test_a_batch_is_launched_as_a_whole_or_not_at_all(self, lives: ManagerClient) -> None:
        good, bad = Launch(Registrar, args=("a",)), Launch(Registrar, args=("broken",))
        with pytest.raises(AgentFailed, match="the desk is broken"):
            await lives.launch_batch([good, bad])
        for launch in (good, bad):
            with pytest.raises(UnknownAgent):
                await lives.get_handle(launch.id)
        handles = await lives.launch_batch(
            [Launch(Registrar, args=("a",)), Launch(Registrar, args=("b",))]
        )
        assert [await handle.place() for handle in handles] == [("a", True), ("b", True)]

    async def test_a_shut_down_agent_refuses_its_callers_until_it_is_launched(
        self, lives: ManagerClient
    ) -> None:
        registrar = await lives.launch(Registrar, args=("desk",))
        waiting = asyncio.create_task(lives.wait([registrar], timeout=60.0))
        await lives.shutdown(registrar)
        ended, others = await waiting
        assert (len(ended), len(others)) == (1, 0)
        with pytest.raises(AgentStopped):
            await registrar.place()
        await lives.launch(registrar)
        assert await registrar.place() == ("desk", True)

    async def test_an_owned_agent_ends_with_its_owner_and_another_does_not(
        self, lives: ManagerClient
    ) -> None:
        registry = await lives.launch(Registry)
        own = await registry.hire(new_id("own"), owned=True)
        free = await registry.hire(new_id("free"), owned=False)
        await lives.shutdown(registry)
        with pytest.raises(AgentStopped):
            await own.place()
        assert await free.place() == ("hired", True)

    # Identity

    async def test_a_factory_makes_each_agent_once_and_knows_its_id(
        self, lives: ManagerClient
    ) -> None:
        key = new_id("crafted")
        marks = await asyncio.gather(*(lives.handle(Crafted, key).made_as() for _ in range(20)))
        assert set(marks) == {f"for {key}"}

    # Looking at agents

    async def test_an_agent_can_be_looked_at(self, lives: ManagerClient) -> None:
        registrar = lives.handle(Registrar, new_id("registrar"))
        assert await registrar.ping() >= 0.0
        assert (await registrar.status())["status"] == "not in memory"
        await registrar.place()
        with pytest.raises(ValueError, match="as told"):
            await registrar.fail()
        stats = await registrar.stats()
        assert (stats["completed"], stats["failed"]) == (1, 1)
        assert "as told" in stats["last_error"]
        described = await registrar.describe()
        assert described["actions"]["place"]["doc"] == "Return where it sits."

    # Streams

    async def test_a_stream_gives_what_is_yielded_in_order_and_its_error_last(
        self, lives: ManagerClient
    ) -> None:
        copyist = lives.handle(Copyist, new_id("copyist"))
        assert [n async for n in copyist.count(1000)] == list(range(1000))
        seen: list[int] = []

        async def read() -> None:
            async for number in copyist.count(10, fail_at=3):
                seen.append(number)  # noqa: PERF401 - a list of all would be lost with the error

        with pytest.raises(ValueError, match="out of ink"):
            await read()
        assert seen == [0, 1, 2]

    async def test_leaving_a_stream_ends_it_at_the_agent(self, lives: ManagerClient) -> None:
        copyist = lives.handle(Copyist, new_id("copyist"))
        async for number in copyist.count(1_000_000_000):
            if number == 5:
                break

        async def left() -> bool:
            return await copyist.times_left() == 1

        await eventually_async(left)

    # State

    async def test_an_older_state_is_migrated(self, lives: ManagerClient) -> None:
        registrar = lives.handle(Registrar, new_id("registrar"))
        await lives.import_state("lives", [StateRecord(registrar.id, {"pen": "blue"}, 1)])
        assert await registrar.kept() == {"from": 1, "pen": "blue"}

    async def test_a_state_that_cannot_be_kept_fails_its_handler_and_changes_nothing(
        self, lives: ManagerClient
    ) -> None:
        registrar = lives.handle(Registrar, new_id("registrar"))
        await registrar.keep("pen", "blue")
        with pytest.raises(StateRefused):
            await registrar.keep("book", "x" * 20_000_000)
        with pytest.raises(StateRefused):
            await registrar.keep("odd", object)
        assert await registrar.kept() == {"pen": "blue"}

    # Payloads

    async def test_models_dataclasses_and_own_types_travel(self, lives: ManagerClient) -> None:
        copyist = lives.handle(Copyist, new_id("copyist"))
        stamp = Stamp("s", [Page(number=1, words=["a"]), Page(number=2)])
        assert await copyist.same(stamp) == stamp
        assert await copyist.motto(Seal("semper")) == "semper"

    async def test_an_array_arrives_without_being_copied_again(self, lives: ManagerClient) -> None:
        numpy = pytest.importorskip("numpy")
        copyist = lives.handle(Copyist, new_id("copyist"))
        assert await copyist.total(numpy.ones(1_000_000)) == (1_000_000.0, False)

    async def test_what_cannot_be_sent_is_named_where_it_was_sent(
        self, lives: ManagerClient
    ) -> None:
        copyist = lives.handle(Copyist, new_id("copyist"))
        with pytest.raises(PayloadError, match=r"argument 1 of same\(\)") as at_caller:
            await copyist.same({"config": {"lock": threading.Lock()}})
        assert "lock" in at_caller.value.path
        with pytest.raises(PayloadError, match="deep"):
            await copyist.unsendable()
