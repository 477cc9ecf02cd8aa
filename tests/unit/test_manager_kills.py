"""The manager is killed at every awkward moment: what comes back finds its way from there.

A fuse counts what the manager does to the world: each write into the Store, each thing that it asks
of a host or of the factory. At a number that hypothesis picks, the manager dies, before the deed or
after it; what it had begun never goes on. Another one comes, as Ray starts it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, cast

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from agentray import Agent, AgentOptions, App, ManagerClient, Pool, action
from agentray.ids import SLOTS, AgentId
from agentray.protocol.deployment import PoolSpec
from agentray.protocol.snapshot import HostRef
from agentray.store.base import Store
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async

KEYS = [f"{n}" for n in range(8)]

_LOOKS = ("get_", "list_", "load_", "find_", "count_", "read_", "unfinished_", "live_", "types_")
_DEEDS_OF_HOSTS = {"start", "update", "load", "release", "stop"}


class Total(BaseModel):
    n: int = 0


class Adder(Agent):
    state: Total

    @action(idempotent=True)
    async def add(self) -> int:
        self.state.n += 1
        return self.state.n

    @action
    async def version(self) -> int:
        return 1


Adder1 = Adder


def second_version() -> type[Agent]:
    class Adder(Agent):
        state: Total

        @action(idempotent=True)
        async def add(self) -> int:
            self.state.n += 1
            return self.state.n

        @action
        async def version(self) -> int:
            return 2

    return Adder


class Lonely(Agent):
    options = AgentOptions(pool="lonely")

    @action
    async def hello(self) -> str:
        return "hello"


class Fuse:
    """Kills the manager at its n-th deed."""

    def __init__(self) -> None:
        self.left = -1  # it does not burn
        self.after = False
        self.died = asyncio.Event()

    async def do(self, deed: Callable[[], Awaitable[Any]]) -> Any:
        self.left -= 1
        if self.left != 0:
            return await deed()
        if self.after:
            await deed()
        self.died.set()
        return await asyncio.get_running_loop().create_future()  # the dead do nothing more


class Watched:
    """Something that the manager acts on, behind a fuse."""

    def __init__(self, target: Any, fuse: Fuse, is_deed: Callable[[str], bool]) -> None:
        self._target, self._fuse, self._is_deed = target, fuse, is_deed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not self._is_deed(name):
            return found

        async def deed(*args: Any, **kwargs: Any) -> Any:
            return await self._fuse.do(lambda: found(*args, **kwargs))

        return deed


class FusedStore(MemoryStore):
    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def as_manager(self, epoch: int) -> Store:
        def is_write(name: str) -> bool:
            return name not in {"open", "close", "ping"} and not name.startswith(_LOOKS)

        return cast("Store", Watched(super().as_manager(epoch), self.fuse, is_write))


def fused(runtime: LocalRuntime, fuse: Fuse) -> None:
    """Let the factory, and what it makes, have the fuse."""
    create, adopt = runtime.network.create, runtime.network.adopt

    async def fused_create(
        host: HostRef, pool: PoolSpec, avoid: Collection[str] = (), prefer: str | None = None
    ) -> Any:
        made = await fuse.do(lambda: create(host, pool, avoid, prefer))
        return Watched(made, fuse, _DEEDS_OF_HOSTS.__contains__)

    async def fused_adopt(host: HostRef) -> Any:
        found = await adopt(host)
        return None if found is None else Watched(found, fuse, _DEEDS_OF_HOSTS.__contains__)

    runtime.network.create, runtime.network.adopt = fused_create, fused_adopt


async def deploy_another(manager: ManagerClient, _: LocalRuntime) -> None:
    await manager.deploy(App("lonely", [Lonely], pools=[Pool("lonely", hosts=2)]))


async def deploy_new_code(manager: ManagerClient, _: LocalRuntime) -> None:
    await manager.deploy(App("adding", [second_version()]))


async def resize(manager: ManagerClient, _: LocalRuntime) -> None:
    await manager.add_pool("default", hosts=3)


async def add_pool(manager: ManagerClient, _: LocalRuntime) -> None:
    await manager.add_pool("more", hosts=2)


async def change_demand(manager: ManagerClient, _: LocalRuntime) -> None:
    await manager.add_pool("default", hosts=2, num_cpus=1)


async def move_to_another_pool(manager: ManagerClient, _: LocalRuntime) -> None:
    await manager.add_pool("more", hosts=2)
    await manager.set_default_pool("more")


async def remove_a_pool(manager: ManagerClient, _: LocalRuntime) -> None:
    await manager.add_pool("more", hosts=2)
    await manager.set_default_pool("more")
    await manager.set_default_pool("default")
    await manager.remove_pool("more")


async def lose_a_host(_: ManagerClient, runtime: LocalRuntime) -> None:
    await runtime.kill_host(runtime.hosts[0])
    await until_whole(runtime)


async def come_back(_: ManagerClient, runtime: LocalRuntime) -> None:
    await runtime.restart_manager()


OPERATIONS = {
    f.__name__: f
    for f in (
        *(deploy_another, deploy_new_code, resize, add_pool, change_demand),
        *(move_to_another_pool, remove_a_pool, lose_a_host, come_back),
    )
}


async def until_whole(runtime: LocalRuntime) -> None:
    """Wait until every pool has its hosts and every slot a holder, and nothing is left over."""

    async def whole() -> str:
        return await trouble(runtime)

    async def is_whole() -> bool:
        return not await whole()

    try:
        await eventually_async(is_whole, timeout_s=120.0, interval_s=0.5)
    except AssertionError:
        raise AssertionError(await whole()) from None


async def trouble(runtime: LocalRuntime) -> str:
    """Return what is not as it should be; "" when everything is."""
    status = runtime.manager.status()
    hosts = {h["id"]: h for h in status["hosts"]}
    if any(h["status"] != "live" for h in hosts.values()):
        return f"hosts in between: {hosts}"
    rows = await runtime.store.list_hosts()
    known = sorted(hosts)
    if known != sorted(runtime.hosts):
        return f"it knows {known}, there are {sorted(runtime.hosts)}"
    if known != sorted(row.id for row in rows):
        return f"it knows {known}, the Store {rows}"
    for pool in status["pools"]:
        there = [i for i, h in hosts.items() if h["pool"] == pool["name"]]
        if pool["last_error"] or len(there) != pool["wanted"]:
            return f"{pool} has {there}"
        leases = [lease for lease in await runtime.store.list_slots(pool["name"]) if there]
        if there and (len(leases) != SLOTS or any(lease.host not in there for lease in leases)):
            return f"{pool['name']}: leases of others than {there}"
        snapshot = await runtime.manager.watch(-1)
        if snapshot is None or any(
            snapshot.pools[pool["name"]].slots[lease.slot] != lease.host for lease in leases
        ):
            return f"{pool['name']}: the snapshot says otherwise"
    if any(row.before is not None for row in await runtime.store.list_apps()):
        return "a deployment is half made"
    return ""


async def dies(work: Coroutine[Any, Any, None], fuse: Fuse) -> bool:
    """Do something until the manager dies or it has ended; return whether it died."""
    doing = asyncio.create_task(work)
    dying = asyncio.create_task(fuse.died.wait())
    await asyncio.wait((doing, dying), return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    doing.cancel()  # Ray fails the calls of whoever waits for a manager that dies
    await asyncio.gather(doing, dying, return_exceptions=True)
    died = fuse.died.is_set()
    fuse.died.clear()
    return died


async def scenario(operation: str, deeds: int, *, after: bool, twice: int) -> bool:
    """Do something, kill the manager in its midst, and see what comes of it.

    Returns:
        Whether it died before the operation had ended.
    """
    fuse = Fuse()
    runtime = LocalRuntime(hosts=2, store=FusedStore(fuse))
    fused(runtime, fuse)
    async with runtime as manager:
        await manager.deploy(App("adding", [Adder1]))
        await until_whole(runtime)
        added = {key: await manager.handle("adder", key).add() for key in KEYS}
        fuse.after, fuse.left = after, deeds
        died = await dies(OPERATIONS[operation](manager, runtime), fuse)
        if died:
            # Messages flow meanwhile; those to a host that was lost wait for the next manager.
            sent = {key: asyncio.create_task(manager.handle("adder", key).add()) for key in KEYS}
            if operation != "lose_a_host":
                await asyncio.gather(*sent.values())
            fuse.left = twice  # and once more while it comes back; 0: not
            while await dies(runtime.restart_manager(), fuse):
                pass
            added = {key: await adding for key, adding in sent.items()}
        fuse.left = -1
        await until_whole(runtime)
        for key in KEYS:
            now = await manager.handle("adder", key).add()
            # One that was sent again, because its host was lost, may count twice.
            assert added[key] < now <= added[key] + 2, "its state is what was acknowledged"
        versions = {await manager.handle("adder", key).version() for key in KEYS}
        assert len(versions) == 1, f"half of the agents have other code: {versions}"
        [row] = [a for a in await runtime.store.list_apps() if a.name == "adding"]
        if operation != "deploy_new_code":
            assert versions == {1}
        # And all that may be asked for again succeeds.
        if operation not in {"lose_a_host", "come_back", "remove_a_pool"}:
            await OPERATIONS[operation](manager, runtime)
            await until_whole(runtime)
            if operation == "deploy_new_code":
                assert {await manager.handle("adder", key).version() for key in KEYS} == {2}
        assert row.status == "running"
        assert runtime.host_of(AgentId("adder", "0")) in runtime.hosts
    return died


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    operation=st.sampled_from(sorted(OPERATIONS)),
    deeds=st.integers(1, 25),
    after=st.booleans(),
    twice=st.integers(0, 6),
)
@example(operation="deploy_new_code", deeds=1, after=True, twice=0)
@example(operation="deploy_new_code", deeds=6, after=True, twice=1)
@example(operation="change_demand", deeds=1, after=True, twice=0)
@example(operation="change_demand", deeds=14, after=False, twice=3)
@example(operation="remove_a_pool", deeds=20, after=False, twice=0)
def test_whenever_the_manager_dies_the_next_one_makes_everything_whole(
    operation: str, deeds: int, *, after: bool, twice: int
) -> None:
    run(scenario(operation, deeds, after=after, twice=twice))


def test_the_fuse_kills_managers() -> None:
    assert run(scenario("resize", 2, after=True, twice=0))
    assert not run(scenario("add_pool", 1000, after=True, twice=0))
