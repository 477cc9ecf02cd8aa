"""Pools at run time: added, changed, redirected, removed, pending, growing; nothing gets lost."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentOptions,
    App,
    ConfigurationError,
    DeploymentStopped,
    HostDied,
    ManagerClient,
    Pool,
    PoolPending,
    Prompt,
    RunStatus,
    TerminateEvent,
    action,
    on,
)
from agentray.cli.exits import ExitCode, exit_code_of
from agentray.cli.pools import check_new
from agentray.core import scaling
from agentray.errors import UnknownPart
from agentray.protocol.deployment import PoolSpec
from agentray.runtime.pool_packing import pack_pool
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support import virtual_time
from tests.support.eventually import eventually_async

Move = Callable[[ManagerClient], Coroutine[Any, Any, None]]


class Where(TerminateEvent):
    host: str


class Plain(Agent):
    """Lives where agents live that name no pool."""

    @action
    async def add(self, n: int) -> int:
        self.total = getattr(self, "total", 0) + n
        return self.total

    @action
    async def slow(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Where:
        await asyncio.sleep(float(prompt.text))
        return Where(host="it ended")


class OnGpu(Agent):
    options = AgentOptions(pool="gpu", concurrency=None)

    @action
    async def work(self, seconds: float = 0.0) -> str:
        await asyncio.sleep(seconds)
        return "worked"


async def pool(manager: ManagerClient, name: str) -> dict[str, Any]:
    return next(row for row in await manager.pools() if row["name"] == name)


def hosts_in(runtime: LocalRuntime, status: dict[str, Any], name: str) -> set[str]:
    return {h["id"] for h in status["hosts"] if h["pool"] == name} & set(runtime.hosts)


# Adding and removing


async def test_an_added_pool_runs_the_agents_that_name_it_and_is_removed_with_its_hosts() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        added = await manager.add_pool("gpu", hosts=1, num_gpus=0.5)
        assert (added["status"], added["hosts"], added["resources"]) == ("live", 1, {"GPU": 0.5})
        await manager.deploy(App("shared", [OnGpu], pools=["gpu"]))
        assert await manager.handle(OnGpu, "a").work() == "worked"
        host = runtime.host_of(manager.handle(OnGpu, "a").id)
        assert {host} == hosts_in(runtime, await manager.status(), "gpu")

        with pytest.raises(ConfigurationError, match=r"live in the pool 'gpu': on_gpu.*Stop"):
            await manager.remove_pool("gpu")
        await manager.stop("shared")
        await manager.remove_pool("gpu")
        assert [row["name"] for row in await manager.pools()] == ["default"]
        assert host not in runtime.hosts
        with pytest.raises(UnknownPart, match=r"There is no pool 'gpu'. There are: default"):
            await manager.remove_pool("gpu")


async def test_what_is_not_there_is_told_with_what_is():
    async with LocalRuntime() as manager:
        await manager.deploy(App("shared", [Plain]))
        (host, *_) = [row["id"] for row in (await manager.status())["hosts"]]
        with pytest.raises(UnknownPart, match=rf"no host 'nope'. There are: .*{host}") as unknown:
            await manager.drain_host("nope")
        assert exit_code_of(unknown.value) is ExitCode.NOT_FOUND
        with pytest.raises(UnknownPart, match="no node 'nope'"):
            await manager.drain_node("nope")
        with pytest.raises(UnknownPart, match=r"no pool 'nope'. There are: default"):
            await manager.scale_pool("nope", 2)


async def test_what_a_removed_pools_agents_do_ends_first() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.add_pool(Pool("gpu", hosts=2))
        await manager.deploy(App("shared", [OnGpu], pools=["gpu"]))
        calls = [asyncio.create_task(manager.handle(OnGpu, f"{n}").work(0.3)) for n in range(20)]
        await asyncio.sleep(0.1)
        await manager.stop("shared")
        await manager.remove_pool("gpu")
        assert await asyncio.gather(*calls) == ["worked"] * 20


async def test_an_app_whose_pool_is_nowhere_is_refused() -> None:
    async with LocalRuntime() as manager:
        with pytest.raises(ConfigurationError, match=r"on_gpu wants the pool 'gpu'.*add_pool"):
            await manager.deploy(App("shared", [OnGpu], pools=["gpu"]))
        assert await manager.deploy(App("own", [OnGpu], pools=[Pool("gpu", hosts=1)])) == "added"
        assert (await pool(manager, "gpu"))["agents"] == ["on_gpu"]


async def test_two_apps_may_share_a_pool_that_both_declare_alike() -> None:
    class AlsoOnGpu(Agent):
        options = AgentOptions(pool="gpu")

    async with LocalRuntime() as manager:
        await manager.deploy(App("one", [OnGpu], pools=[Pool("gpu", hosts=1)]))
        with pytest.raises(ConfigurationError, match=r"'one' declares the pool 'gpu' otherwise"):
            await manager.deploy(App("two", [AlsoOnGpu], pools=[Pool("gpu", hosts=2)]))
        await manager.deploy(App("two", [AlsoOnGpu], pools=[Pool("gpu", hosts=1)]))


async def test_wrong_settings_are_refused_before_anything_starts() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(App("plain", [Plain]))
        before = runtime.hosts
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"hosts": (3, 2)}, "least number comes first"),
            ({"hosts": 0}, "greater than 0"),
            ({"num_cpus": -1}, "greater than or equal to 0"),
            ({"resources": {"GPU": 1}}, "num_gpus"),
            ({"runtime_env": {"working_dir": "/nowhere/at/all"}}, "no directory or archive"),
            ({"runtime_env": {"env_vars": {"A": 1}}}, "env_vars"),
            ({"runtime_env": {"pip": 3}}, "pip"),
            ({"runtime_env": {"py_modules": "one"}}, "py_modules"),
            ({"runtime_env": {"conda": "base"}}, "conda"),
            ({"isolation": "process"}, "shared"),
            ({"placement": "strict"}, "pack"),
        ]
        for settings, why in wrong:
            with pytest.raises(ConfigurationError, match=why):
                await manager.add_pool("odd", **settings)
        with pytest.raises(ConfigurationError, match="not both"):
            await manager.add_pool(Pool("odd"), hosts=3)
        assert runtime.hosts == before
        assert [row["name"] for row in await manager.pools()] == ["default"]


async def test_a_pool_is_resized_and_keeps_the_hosts_that_it_may_keep() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(App("own", [OnGpu], pools=[Pool("gpu", hosts=1)]))
        first = hosts_in(runtime, await manager.status(), "gpu")
        resized = await manager.add_pool("gpu", hosts=3)
        assert (resized["hosts"], resized["wanted"], resized["added"]) == (3, 3, True)
        assert first < hosts_in(runtime, await manager.status(), "gpu")
        replaced = await manager.add_pool("gpu", hosts=3, num_cpus=1)
        assert replaced["resources"] == {"CPU": 1.0}

        async def only_new_ones() -> bool:
            return not first & hosts_in(runtime, await manager.status(), "gpu")

        await eventually_async(only_new_ones)


# The default, and successors


async def test_another_default_takes_all_that_name_no_pool_and_loses_nothing() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(App("plain", [Plain]))
        plain = [manager.handle(Plain, f"{n}") for n in range(20)]
        await asyncio.gather(*(agent.add(1) for agent in plain))
        await manager.add_pool("big", hosts=3)
        calls = [asyncio.create_task(agent.slow(0.3)) for agent in plain]
        runs = [asyncio.create_task(manager.prompt("0.3", agent=Plain)) for _ in range(5)]
        await asyncio.sleep(0.1)
        await manager.set_default_pool("big")
        assert await asyncio.gather(*calls) == ["done"] * 20
        for run in await asyncio.gather(*runs):
            assert run.status is RunStatus.SUCCEEDED, run.error
        status = await manager.status()
        big = hosts_in(runtime, status, "big")
        assert {runtime.host_of(agent.id) for agent in plain} <= big
        assert (await pool(manager, "big"))["default"] is True
        run = await manager.prompt("0", agent=Plain)
        assert run.status is RunStatus.SUCCEEDED

        with pytest.raises(ConfigurationError, match=r"'big' is the default"):
            await manager.remove_pool("big")
        await manager.set_default_pool("default")
        assert await plain[0].add(1) == 1  # moved: what was in memory only is gone
        assert (await pool(manager, "default"))["default"] is True
        await manager.remove_pool("big")
        assert {row["name"] for row in await manager.pools()} == {"default"}


async def test_a_pool_that_takes_over_runs_the_agents_of_a_removed_one() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(App("own", [OnGpu, Plain], pools=[Pool("gpu", hosts=1)]))
        calls = [asyncio.create_task(manager.handle(OnGpu, f"{n}").work(0.3)) for n in range(10)]
        await asyncio.sleep(0.1)
        await manager.remove_pool("gpu", successor="default")
        assert await asyncio.gather(*calls) == ["worked"] * 10
        assert await manager.handle(OnGpu, "x").work() == "worked"
        assert runtime.host_of(manager.handle(OnGpu, "x").id) in hosts_in(
            runtime, await manager.status(), "default"
        )
        assert (await pool(manager, "default"))["agents"] == ["on_gpu", "plain"]
        with pytest.raises(UnknownPart, match="There is no pool 'gpu'"):
            await manager.set_default_pool("gpu")

        # Added again, it has its agents back.
        await manager.add_pool("gpu", hosts=1)
        assert await manager.handle(OnGpu, "x").work() == "worked"
        assert (await pool(manager, "gpu"))["agents"] == ["on_gpu"]


class Noted(BaseModel):
    lines: list[str] = []


class Scribe(Agent):
    """Writes when the test lets it."""

    state: Noted
    gate: ClassVar[asyncio.Event]
    handled: ClassVar[list[str]]

    @action
    async def write(self, line: str, *, wait: bool = False) -> list[str]:
        self.handled.append(line)
        if wait:
            await self.gate.wait()
        self.state.lines.append(line)
        return self.state.lines


class MovedScribe(Scribe):
    """The same agents, whose class was edited: they live in another pool."""

    options = AgentOptions(name="scribe", pool="other")


class Neighbour(Agent):
    state: Noted

    @action
    async def write(self, line: str) -> list[str]:
        self.state.lines.append(line)
        return self.state.lines


@asynccontextmanager
async def writing() -> AsyncGenerator[tuple[LocalRuntime, ManagerClient, asyncio.Task[Any]]]:
    """Give a scribe that has written one line and is at another, and a pool that is empty."""
    Scribe.gate, Scribe.handled = asyncio.Event(), []
    runtime = LocalRuntime(hosts=1)
    async with runtime as manager:
        await manager.add_pool("other", hosts=1)
        await manager.deploy(App("scribes", [Scribe]))
        scribe = manager.handle(Scribe, "s").with_timeout(None)
        assert await scribe.write("first") == ["first"]
        late = asyncio.create_task(scribe.write("late", wait=True))
        await asyncio.sleep(0.1)
        yield runtime, manager, late


async def to_another_default(manager: ManagerClient) -> None:
    await manager.set_default_pool("other")


async def to_another_pool_of_its_class(manager: ManagerClient) -> None:
    await manager.deploy(App("scribes", [MovedScribe], pools=["other"]))


moves = pytest.mark.parametrize("move", [to_another_default, to_another_pool_of_its_class])


@moves
def test_a_host_of_the_pool_that_agents_have_left_writes_nothing_any_more(move: Move) -> None:
    async def story() -> None:
        async with writing() as (runtime, manager, late):
            scribe = manager.handle(Scribe, "s")
            lost = runtime.host_of(scribe.id)
            assert lost is not None
            runtime.cut_off(lost)  # it does not hear of what comes, and goes on working
            await move(manager)
            assert await scribe.write("second") == ["first", "second"]
            assert lost in runtime.hosts
            Scribe.gate.set()
            # Nothing of it was written, so the next host does it.
            assert await late == ["first", "second", "late"]
            kept = (await manager.save_state(scribe.id)).state
            assert kept == {"lines": ["first", "second", "late"]}

    virtual_time.run(story())


@moves
def test_agents_that_get_another_pool_finish_what_they_do(move: Move) -> None:
    async def story() -> None:
        async with writing() as (runtime, manager, late):
            await manager.deploy(App("neighbours", [Neighbour]))
            neighbour = manager.handle(Neighbour, "n")
            assert await neighbour.write("first") == ["first"]
            scribe = manager.handle(Scribe, "s")
            before = runtime.host_of(scribe.id)
            moving = asyncio.create_task(move(manager))
            await asyncio.sleep(5.0)
            assert not moving.done()
            Scribe.gate.set()
            assert await late == ["first", "late"]
            await moving
            assert await scribe.write("last") == ["first", "late", "last"]
            assert Scribe.handled == ["first", "late", "last"], "nothing was done twice"
            assert runtime.host_of(scribe.id) != before
            assert await neighbour.write("last") == ["first", "last"]

    virtual_time.run(story())


def test_an_isolated_agent_whose_class_gets_a_shared_pool_moves_there_and_back() -> None:
    async def story() -> None:
        Scribe.gate, Scribe.handled = asyncio.Event(), []
        runtime = LocalRuntime(hosts=1)
        async with runtime as manager:
            await manager.add_pool("other", hosts=2, isolation="actor")
            await manager.deploy(App("scribes", [MovedScribe], pools=["other"]))
            scribe = manager.handle(Scribe, "s")
            alone = (await scribe.write("alone"), runtime.host_of(scribe.id))
            await manager.deploy(App("scribes", [Scribe]))
            shared = (await scribe.write("shared"), runtime.host_of(scribe.id))
            await manager.deploy(App("scribes", [MovedScribe], pools=["other"]))
            again = (await scribe.write("again"), runtime.host_of(scribe.id))
            assert again[0] == ["alone", "shared", "again"]
            assert len({alone[1], shared[1], again[1]}) == 3

    virtual_time.run(story())


def test_a_pool_that_an_app_does_not_declare_any_more_stays_until_its_agents_have_left() -> None:
    async def story() -> None:
        Scribe.gate, Scribe.handled = asyncio.Event(), []
        runtime = LocalRuntime(hosts=1)
        async with runtime as manager:
            pool = Pool("other", hosts=1)
            await manager.deploy(App("scribes", [MovedScribe], pools=[pool]))
            scribe = manager.handle(Scribe, "s")
            late = asyncio.create_task(scribe.write("late", wait=True))
            await asyncio.sleep(0.1)
            moving = asyncio.create_task(manager.deploy(App("scribes", [Scribe])))
            await asyncio.sleep(5.0)
            Scribe.gate.set()
            assert await late == ["late"]
            assert await moving == "replaced"
            assert await scribe.write("last") == ["late", "last"]
            assert [row["name"] for row in await manager.pools()] == ["default"]

    virtual_time.run(story())


async def test_a_run_that_was_accepted_for_the_old_pool_ends_in_the_new_one() -> None:
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(App("plain", [Plain]))
        await manager.add_pool("big", hosts=1)
        run = asyncio.create_task(manager.prompt("15", agent=Plain))
        await asyncio.sleep(0.2)
        stored = await runtime.store.unfinished_runs(created_before=datetime.now(UTC))
        assert [one.pool for one in stored] == ["default"]
        for host in hosts_in(runtime, await manager.status(), "default"):
            runtime.cut_off(host)  # it goes on working, and nobody can tell it to stop
        moved = asyncio.create_task(manager.set_default_pool("big"))
        run.cancel()  # the prompter goes; the run is accepted
        await asyncio.wait_for(moved, 60)
        again = (await runtime.store.get_run(stored[0].run.id)) or stored[0]
        assert again.run.status in {RunStatus.QUEUED, RunStatus.RUNNING}


# Restarts of the manager


async def test_pools_survive_a_restart_of_everything() -> None:
    store = MemoryStore()
    async with LocalRuntime(store=store) as manager:
        await manager.deploy(App("own", [OnGpu, Plain], pools=[Pool("gpu", hosts=1)]))
        await manager.add_pool("big", hosts=(1, 3), memory=10, load_per_host=2)
        await manager.set_default_pool("big")
        await manager.remove_pool("gpu", successor="big")
    runtime = LocalRuntime(store=store)
    async with runtime as manager:
        assert await manager.handle(OnGpu, "x").work() == "worked"
        assert [row["name"] for row in await manager.pools()] == ["big"]
        big = await pool(manager, "big")
        assert (big["min_hosts"], big["max_hosts"], big["resources"]) == (1, 3, {"memory": 10})
        assert big["agents"] == ["on_gpu", "plain"]


async def test_a_manager_that_comes_back_goes_on_and_ends_starts_that_wait_for_room() -> None:
    runtime = LocalRuntime(resources={"CPU": 1})
    async with runtime as manager:
        await manager.add_pool("gpu", hosts=1, num_gpus=1)
        (waiting,) = [h["id"] for h in (await manager.status())["hosts"] if h["pool"] == "gpu"]
        await manager.add_pool("grown", hosts=(1, 3))
        before = hosts_in(runtime, await manager.status(), "grown")
        await runtime.restart_manager()

        async def waits_again() -> bool:
            return (await pool(manager, "gpu"))["status"] == "pending"

        await eventually_async(waits_again)
        assert waiting not in runtime.hosts, "nobody would ever stop it"
        assert hosts_in(runtime, await manager.status(), "grown") == before


def test_a_spec_of_an_older_version_is_understood() -> None:
    spec = PoolSpec("gpu", 3, 0.5, 1.0)
    reduced = spec.__reduce_ex__(4)
    older = (*reduced[:2], list(pickle.loads(pickle.dumps(reduced[2])))[:4])
    restored = object.__new__(PoolSpec)
    restored.__setstate__(older[2])
    assert restored == spec
    assert restored.most == 3


# Waiting for room


async def test_a_pool_that_no_machine_could_hold_is_pending_and_says_why() -> None:
    async with LocalRuntime(resources={"CPU": 4, "GPU": 0}) as manager:
        added = await manager.add_pool("huge", hosts=1, num_cpus=1000)
        assert added["status"] == "pending"
        assert added["pending"] == "a host needs 1000 CPU, and the largest machine has 4 CPU"
        (waiting,) = [h for h in (await manager.status())["hosts"] if h["pool"] == "huge"]
        assert (waiting["status"], waiting["pending"]) == ("pending", added["pending"])
        with pytest.raises(PoolPending, match="1000 CPU"):
            await manager.set_default_pool("huge")
        assert (await pool(manager, "default"))["default"] is True
        await manager.remove_pool("huge")
        assert all(h["pool"] == "default" for h in (await manager.status())["hosts"])


async def test_an_app_on_a_pending_pool_says_so_at_once_and_runs_when_there_is_room() -> None:
    runtime = LocalRuntime(resources={"CPU": 4})
    async with runtime as manager:
        app = App("own", [OnGpu], pools=[Pool("gpu", hosts=1, num_gpus=1)])
        with pytest.raises(PoolPending, match=r"the app 'own' is pending.*needs 1 GPU"):
            await manager.deploy(app, pending_timeout=0.1)
        agent = manager.handle(OnGpu, "a")
        with pytest.raises(DeploymentStopped, match="no machine has GPU") as caught:
            await agent.work()
        assert isinstance(caught.value, PoolPending)
        assert (caught.value.pool, caught.value.target) == ("gpu", "on_gpu/a")

        waits = asyncio.create_task(manager.deploy(app, pending_timeout=None))
        await asyncio.sleep(0.2)
        assert not waits.done()
        runtime.provide({"CPU": 4, "GPU": 1})
        assert await waits == "unchanged"
        assert await agent.work() == "worked"
        assert (await pool(manager, "gpu"))["status"] == "live"


async def test_a_pool_that_asks_for_less_is_not_pending_for_what_it_asked_before() -> None:
    async with LocalRuntime(resources={"CPU": 4}) as manager:
        app = App("own", [OnGpu], pools=[Pool("gpu", hosts=1, num_gpus=1)])
        with pytest.raises(PoolPending):
            await manager.deploy(app, pending_timeout=0.1)
        added = await manager.add_pool("gpu", hosts=1)
        assert (added["status"], added["pending"]) == ("live", "")
        assert await manager.handle(OnGpu, "a").work() == "worked"


async def test_a_stopped_app_no_longer_asks_for_room() -> None:
    async with LocalRuntime(resources={"CPU": 4}) as manager:
        app = App("own", [OnGpu], pools=[Pool("gpu", hosts=2, num_gpus=1)])
        with pytest.raises(PoolPending):
            await manager.deploy(app, pending_timeout=0)
        await manager.stop("own")

        async def nobody_waits() -> bool:
            return all(h["pool"] != "gpu" for h in (await manager.status())["hosts"])

        await eventually_async(nobody_waits)
        assert (await pool(manager, "gpu"))["status"] == "idle"


async def test_with_room_for_some_hosts_the_pool_works_and_shows_what_the_others_wait_for() -> None:
    async with LocalRuntime(resources={"GPU": 1}) as manager:
        await manager.deploy(App("own", [OnGpu], pools=[Pool("gpu", hosts=3, num_gpus=1)]))
        assert await manager.handle(OnGpu, "a").work() == "worked"

        async def told() -> bool:
            row = await pool(manager, "gpu")
            return (row["hosts"], row["wanted"], row["status"]) == (1, 3, "pending")

        await eventually_async(told)
        assert "no machine has that free" in (await pool(manager, "gpu"))["pending"]


async def test_new_code_takes_the_place_of_the_old_where_there_is_room_for_one_only() -> None:
    def app(mark: int) -> App:
        class Marked(Agent):
            options = AgentOptions(name="marked", pool="gpu")

            @action
            async def mark(self) -> int:
                return mark

        # The same source with another value: as after an edit, the digest must be another one.
        return App("own", [Marked], pools=[Pool("gpu", hosts=1, num_gpus=1, memory=mark)])

    async with LocalRuntime(resources={"GPU": 1, "memory": 10}) as manager:
        assert await manager.deploy(app(1)) == "added"
        assert await manager.handle("marked", "a").mark() == 1
        assert await manager.deploy(app(2)) == "replaced"
        assert await manager.handle("marked", "a").mark() == 2

        # One that fits nowhere leaves what runs alone.
        with pytest.raises(PoolPending, match="memory"):
            await manager.deploy(app(11), pending_timeout=0.2)
        assert await manager.handle("marked", "a").mark() == 2


def test_a_host_that_waits_longer_than_a_start_may_take_has_not_failed() -> None:
    async def wait() -> None:
        runtime = LocalRuntime(resources={"CPU": 1})
        async with runtime as manager:
            await manager.add_pool("gpu", hosts=1, num_gpus=1)
            await asyncio.sleep(1000)
            waiting = await pool(manager, "gpu")
            assert (waiting["status"], waiting["last_error"]) == ("pending", "")
            runtime.provide({"CPU": 1, "GPU": 1})
            await asyncio.sleep(5)
            assert (await pool(manager, "gpu"))["status"] == "live"

    virtual_time.run(wait())


# Growing and shrinking


def test_a_pool_grows_with_its_load_and_shrinks_without_losing_a_call() -> None:
    async def grow_and_shrink() -> None:
        runtime = LocalRuntime()
        async with runtime as manager:
            gpu = Pool("gpu", hosts=(1, 3), load_per_host=10, grace_s=300)
            await manager.deploy(App("own", [OnGpu], pools=[gpu]))
            agents = [manager.handle(OnGpu, f"{n}").with_timeout(600) for n in range(25)]
            calls = [asyncio.create_task(agent.work(120)) for agent in agents]
            await asyncio.sleep(10)
            row = await pool(manager, "gpu")
            assert (row["hosts"], row["wanted"]) == (3, 3)
            assert await asyncio.gather(*calls) == ["worked"] * 25

            steady = [asyncio.create_task(agent.work(200)) for agent in agents[:5]]
            await asyncio.sleep(scaling.SHRINK_AFTER_S + 30)
            assert (await pool(manager, "gpu"))["wanted"] == 1
            assert await asyncio.gather(*steady) == ["worked"] * 5
            await asyncio.sleep(30)
            row = await pool(manager, "gpu")
            assert (row["hosts"], row["wanted"]) == (1, 1)
            assert await manager.handle(OnGpu, "new").work() == "worked"

    virtual_time.run(grow_and_shrink())


# Packing


def test_a_packed_pool_holds_its_directories_and_is_the_same_again(tmp_path: Any) -> None:
    code = tmp_path / "code"
    (code / "package").mkdir(parents=True)
    (code / "package" / "__init__.py").write_text("VALUE = 1")
    (code / "package" / "notes.txt").write_text("not needed")
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "x.pyc").write_text("no")
    (tmp_path / "requirements.txt").write_text("# ours\nrequests==2\n\n")
    env = {
        "working_dir": str(code),
        "excludes": ["*.txt"],
        "py_modules": [code, "https://example.org/more.zip"],
        "pip": str(tmp_path / "requirements.txt"),
        "env_vars": {"A": "b"},
    }
    spec = pack_pool(Pool("gpu", runtime_env=env))
    assert spec == pack_pool(Pool("gpu", runtime_env=env))
    assert spec.runtime_env["pip"] == ["requests==2"]
    assert spec.runtime_env["py_modules"][1] == "https://example.org/more.zip"
    assert len(spec.packages) == 2  # one with its own name above, as a module is imported
    assert str(code) not in str(spec.runtime_env)
    (code / "package" / "__init__.py").write_text("VALUE = 2")
    assert not spec.same_host(pack_pool(Pool("gpu", runtime_env=env)))


def test_a_call_that_outlasts_the_grace_of_a_move_ends_with_an_error() -> None:
    async def move() -> None:
        async with LocalRuntime() as manager:
            await manager.deploy(App("own", [OnGpu], pools=[Pool("gpu", hosts=1, grace_s=5)]))
            agents = [manager.handle(OnGpu, f"{n}").with_timeout(600) for n in range(10)]
            calls = [asyncio.create_task(agent.work(60)) for agent in agents]
            await asyncio.sleep(1)
            await manager.add_pool("gpu", hosts=2, grace_s=5)
            await asyncio.sleep(10)
            moved = [call for call in calls if call.done()]
            assert 0 < len(moved) < 10, "those whose slots have moved, and only those"
            for call in moved:
                assert isinstance(call.exception(), HostDied)
            left = [call for call in calls if call not in moved]
            assert await asyncio.gather(*left) == ["worked"] * len(left)

    virtual_time.run(move())


async def test_the_command_line_changes_no_pool_by_mistake() -> None:
    async with LocalRuntime() as manager:
        check_new("more", await manager.pools())
        with pytest.raises(ConfigurationError, match="--replace"):
            check_new("default", await manager.pools())


# Changing some settings


async def test_what_is_not_said_of_a_pool_stays() -> None:
    async with LocalRuntime(resources={"GPU": 8.0, "CPU": 8.0}) as manager:
        told = {"num_gpus": 1.0, "runtime_env": {"env_vars": {"A": "b"}}, "load_per_host": 3.0}
        await manager.add_pool(Pool("gpu", hosts=1, placement="spread", **told))  # pyright: ignore[reportArgumentType] - settings of several types
        before = await pool(manager, "gpu")
        hosts = {h["id"] for h in (await manager.status())["hosts"] if h["pool"] == "gpu"}

        changed = await manager.update_pool("gpu", hosts=(2, 3))
        assert (changed["min_hosts"], changed["max_hosts"]) == (2, 3)
        same = ("resources", "placement", "runtime_env", "isolation")
        assert {name: changed[name] for name in same} == {name: before[name] for name in same}
        after = {h["id"] for h in (await manager.status())["hosts"] if h["pool"] == "gpu"}
        assert hosts < after, "a host was replaced, though hosts demand the same"

        changed = await manager.update_pool("gpu", num_cpus=2.0)
        assert changed["resources"] == {"GPU": 1.0, "CPU": 2.0}
        assert (changed["min_hosts"], changed["max_hosts"]) == (2, 3)
        assert changed["runtime_env"] == ["env_vars"]


async def test_a_pool_that_an_app_declares_can_be_changed() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(
            App("plain", [OnGpu], pools=[Pool("gpu", hosts=1, placement="spread")])
        )
        changed = await manager.update_pool("gpu", hosts=2)
        assert (changed["hosts"], changed["placement"], changed["added"]) == (2, "spread", True)
        assert await manager.handle(OnGpu, "a").call_by_name("work") == "worked"


async def test_a_pool_is_not_changed_by_mistake() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("plain", [Plain]))
        with pytest.raises(UnknownPart, match="no pool 'nope'"):
            await manager.update_pool("nope", hosts=2)
        with pytest.raises(ConfigurationError, match="what is to change"):
            await manager.update_pool("default")
        with pytest.raises(ConfigurationError, match="num_cpus"):
            await manager.update_pool("default", num_cpus=-1)
        with pytest.raises(ConfigurationError, match="isolation"):
            await manager.update_pool("default", isolation="actor")
        assert (await pool(manager, "default"))["resources"] == {}
