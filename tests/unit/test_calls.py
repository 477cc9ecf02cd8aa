"""Calls, as a user of agents sees them: values, errors, deadlines, turns, deaths."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentFailed,
    AgentId,
    AgentOptions,
    App,
    ConfigurationError,
    DeadlineExceeded,
    DeploymentStopped,
    Handle,
    HostDied,
    ManagerClient,
    Overloaded,
    PayloadError,
    RemoteError,
    RestartPolicy,
    UnknownAction,
    UnknownAgentType,
    action,
)
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class OddError(Exception):
    """An error with a constructor that pickle cannot repeat."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class HoldingError(Exception):
    """An error that holds something which stays in its process."""

    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


class Echo(Agent):
    started = 0

    @action
    async def echo(self, value: object) -> object:
        return value

    @action(idempotent=True)
    def twice(self, value: int) -> int:
        return 2 * value

    @action
    async def fail(self, kind: str) -> None:
        match kind:
            case "value":
                raise ValueError("no such value")
            case "odd":
                raise OddError(1, 2)
            case "holding":
                raise HoldingError
            case _:
                raise SystemExit(3)

    @action
    async def unserialisable(self) -> object:
        return asyncio.Lock().__class__, (x for x in ())

    @action
    async def ask_to_sleep(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "awake"


class Blocked(Agent):
    """Holds its turn until it is let go."""

    options = AgentOptions(mailbox=2)
    cancelled = 0
    order: list[int]

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.order = []
        self.cancelled = 0

    @action
    async def hold(self, number: int = 0) -> int:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.order.append(number)
        return number

    @action(idempotent=True)
    async def again(self) -> str:
        await asyncio.sleep(0.2)
        return "done"


class Ping(Agent):
    @action
    async def serve(self, depth: int) -> int:
        if depth == 0:
            return 0
        return 1 + await self.handle(Pong, "p").smash(depth - 1)


class Pong(Agent):
    @action
    async def smash(self, depth: int) -> int:
        if depth == 0:
            return 0
        return 1 + await self.handle(Ping, "p").serve(depth - 1)


class Nested(Agent):
    @action
    async def ask(self, seconds: float) -> str:
        return await self.handle(Echo, "inner").with_timeout(None).ask_to_sleep(seconds)


class Fragile(Agent):
    options = AgentOptions(
        restart=RestartPolicy(max_restarts=2, backoff_s=0.001, max_backoff_s=0.002)
    )
    attempts: dict[str, int] = {}  # noqa: RUF012 - shared by all incarnations on purpose

    async def on_start(self) -> None:
        count = Fragile.attempts.get(self.id.key, 0) + 1
        Fragile.attempts[self.id.key] = count
        if count <= int(self.id.key.split("-")[1]):
            raise RuntimeError(f"attempt {count}")

    @action
    async def attempts_made(self) -> int:
        return Fragile.attempts[self.id.key]


class Named(Agent):
    def __init__(self, greeting: str, *, mark: str = "!") -> None:
        self.text = greeting + mark

    @action(idempotent=True)
    async def greet(self) -> str:
        return self.text


Cluster = tuple[LocalRuntime, ManagerClient]
APP = App("calls", [Echo, Blocked, Ping, Pong, Nested, Fragile, Named])


@pytest.fixture
async def runtime() -> AsyncIterator[Cluster]:
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(APP)
        yield runtime, manager


async def test_an_action_returns_its_value_through_attribute_and_typed_call(
    runtime: Cluster,
) -> None:
    _, manager = runtime
    handle: Handle[Echo] = manager.handle(Echo, "a")
    assert await handle.echo({"x": [1, 2]}) == {"x": [1, 2]}
    assert await handle.twice(21) == 42
    assert await handle.call(Echo.echo, value="typed") == "typed"


async def test_many_calls_at_once_each_get_their_own_reply(runtime: Cluster) -> None:
    _, manager = runtime
    handles = [manager.handle(Echo, f"k{i % 50}") for i in range(2000)]
    values = await asyncio.gather(*(h.echo(i) for i, h in enumerate(handles)))
    assert values == list(range(2000))


async def test_the_handlers_own_exception_arrives_with_its_remote_traceback(
    runtime: Cluster,
) -> None:
    _, manager = runtime
    with pytest.raises(ValueError, match="no such value") as caught:
        await manager.handle(Echo, "a").fail("value")
    assert "in fail" in "".join(caught.value.__notes__)


async def test_an_exception_that_cannot_travel_is_told_as_a_remote_error(runtime: Cluster) -> None:
    _, manager = runtime
    with pytest.raises(RemoteError) as caught:
        await manager.handle(Echo, "a").fail("holding")
    assert caught.value.type_name == "HoldingError"
    assert "held" in caught.value.remote_message


async def test_an_exception_whose_constructor_cannot_be_repeated_arrives_as_itself(
    runtime: Cluster,
) -> None:
    _, manager = runtime
    with pytest.raises(OddError) as caught:
        await manager.handle(Echo, "a").fail("odd")
    assert caught.value.args == ("1 and 2",)


async def test_an_agent_that_exits_fails_its_caller_and_not_its_host(runtime: Cluster) -> None:
    _, manager = runtime
    with pytest.raises(RemoteError, match="SystemExit"):
        await manager.handle(Echo, "a").fail("exit")
    assert await manager.handle(Echo, "a").twice(1) == 2


async def test_a_value_that_cannot_be_serialised_is_an_error_that_names_it(
    runtime: Cluster,
) -> None:
    _, manager = runtime
    with pytest.raises(PayloadError, match=r"argument 1 of echo\(\)"):
        await manager.handle(Echo, "a").echo(x for x in ())
    with pytest.raises(PayloadError, match=r"result of unserialisable\(\)"):
        await manager.handle(Echo, "a").unserialisable()


async def test_wrong_addresses_are_told_at_once(runtime: Cluster) -> None:
    _, manager = runtime
    with pytest.raises(UnknownAgentType, match="nobody"):
        await manager.handle("nobody", "x").anything()
    with pytest.raises(UnknownAction, match="sing"):
        await manager.handle(Echo, "a").sing()
    with pytest.raises(TypeError, match="twice"):
        await manager.handle(Echo, "a").twice(1, 2, 3)


async def test_a_call_ends_at_its_deadline_and_its_handler_is_cancelled(runtime: Cluster) -> None:
    _, manager = runtime
    handle = manager.handle(Blocked, "d")
    with pytest.raises(DeadlineExceeded):
        await handle.with_timeout(0.05).hold()
    # The turn is free again: the handler was cancelled, not left behind.
    assert await handle.again() == "done"


async def test_nested_calls_inherit_the_deadline(runtime: Cluster) -> None:
    _, manager = runtime
    with pytest.raises(DeadlineExceeded):
        await manager.handle(Nested, "n").with_timeout(0.1).ask(30.0)


async def test_cancelling_a_call_cancels_the_handler_and_what_it_called(runtime: Cluster) -> None:
    _, manager = runtime
    task = asyncio.create_task(manager.handle(Nested, "c").ask(30.0))
    await eventually_async(lambda: _status(manager, "echo/inner", "running"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually_async(lambda: _status(manager, "echo/inner", "idle"))


async def _status(manager: ManagerClient, agent: str, status: str) -> bool:
    return any(a["agent"] == agent and a["status"] == status for a in await manager.agents())


async def test_messages_are_handled_one_at_a_time_in_order(runtime: Cluster) -> None:
    rt, manager = runtime
    handle = manager.handle(Blocked, "o")
    tasks = [asyncio.create_task(handle.hold(i)) for i in range(3)]
    await eventually_async(lambda: _queued(manager, "blocked/o", 2))
    _agent(rt, handle.id).gate.set()
    assert await asyncio.gather(*tasks) == [0, 1, 2]
    assert _agent(rt, handle.id).order == [0, 1, 2]


async def _queued(manager: ManagerClient, agent: str, count: int) -> bool:
    return any(a["agent"] == agent and a["queued"] == count for a in await manager.agents())


def _agent(runtime: LocalRuntime, agent_id: AgentId) -> Any:
    host = runtime.network.hosts[runtime.host_of(agent_id) or ""]
    return host._host.find(agent_id).agent  # type: ignore[union-attr]


async def test_a_full_mailbox_refuses_and_says_when_to_come_back(runtime: Cluster) -> None:
    rt, manager = runtime
    handle = manager.handle(Blocked, "f")
    tasks = [asyncio.create_task(handle.hold(i)) for i in range(3)]
    await eventually_async(lambda: _queued(manager, "blocked/f", 2))
    with pytest.raises(Overloaded) as caught:
        await handle.hold(9)
    assert caught.value.retry_after_s > 0
    _agent(rt, handle.id).gate.set()
    await asyncio.gather(*tasks)


async def test_calls_in_a_circle_do_not_deadlock(runtime: Cluster) -> None:
    _, manager = runtime
    assert await manager.handle(Ping, "p").with_timeout(5.0).serve(9) == 9


async def test_a_host_that_dies_fails_calls_that_may_have_run_and_repeats_idempotent_ones(
    runtime: Cluster,
) -> None:
    rt, manager = runtime
    handle = manager.handle(Blocked, "dying")
    lost = asyncio.create_task(handle.hold())
    await eventually_async(lambda: _status(manager, "blocked/dying", "running"))
    other = manager.handle(Blocked, "also")
    while rt.host_of(other.id) != rt.host_of(handle.id):
        other = manager.handle(Blocked, other.id.key + "x")
    repeated = asyncio.create_task(other.again())
    await eventually_async(lambda: _status(manager, str(other.id), "running"))
    await rt.kill_host(rt.host_of(handle.id) or "")
    with pytest.raises(HostDied):
        await lost
    assert await repeated == "done"


async def test_agents_of_a_dead_host_answer_again_elsewhere(runtime: Cluster) -> None:
    rt, manager = runtime
    handle = manager.handle(Echo, "survivor")
    assert await handle.twice(2) == 4
    await rt.kill_host(rt.host_of(handle.id) or "")
    assert await handle.twice(3) == 6
    await eventually_async(lambda: _live_hosts(manager, 2))


async def _live_hosts(manager: ManagerClient, count: int) -> bool:
    status = await manager.status()
    return [h["status"] for h in status["hosts"]] == ["live"] * count


async def test_a_start_that_fails_is_tried_again_as_often_as_the_policy_says(
    runtime: Cluster,
) -> None:
    _, manager = runtime
    assert await manager.handle(Fragile, "ok-2").attempts_made() == 3
    with pytest.raises(AgentFailed, match="attempt 3"):
        await manager.handle(Fragile, "bad-9").attempts_made()
    with pytest.raises(AgentFailed):
        await manager.handle(Fragile, "bad-9").attempts_made()
    assert Fragile.attempts["bad-9"] == 3


async def test_launched_agents_keep_their_arguments_across_a_hosts_death(runtime: Cluster) -> None:
    rt, manager = runtime
    handle = await manager.launch(Named, args=("Hello",), kwargs={"mark": "?"}, name="n")
    assert await handle.greet() == "Hello?"
    assert await manager.launch(Named, args=("Hello",), kwargs={"mark": "?"}, name="n") == handle
    with pytest.raises(ConfigurationError, match="other arguments"):
        await manager.launch(Named, args=("Bye",), name="n")
    await rt.kill_host(rt.host_of(handle.id) or "")
    assert await handle.greet() == "Hello?"


async def test_an_agent_that_needs_arguments_says_so_when_it_was_never_launched(
    runtime: Cluster,
) -> None:
    _, manager = runtime
    with pytest.raises(AgentFailed, match="never launched"):
        await manager.handle(Named, "nobody").greet()


async def test_launching_a_class_that_no_app_has_deploys_it(runtime: Cluster) -> None:
    _, manager = runtime

    class Stray(Agent):
        @action
        async def here(self) -> bool:
            return True

    assert await (await manager.launch(Stray)).here()


async def test_a_stopped_app_refuses_and_serves_again_when_deployed(runtime: Cluster) -> None:
    _, manager = runtime
    await manager.stop("calls")
    with pytest.raises(DeploymentStopped):
        await manager.handle(Echo, "a").twice(1)
    assert await manager.deploy(APP) == "started"
    assert await manager.handle(Echo, "a").twice(1) == 2


async def test_tell_returns_before_the_work_is_done(runtime: Cluster) -> None:
    rt, manager = runtime
    handle = manager.handle(Blocked, "t")
    await handle.hold.tell(7)
    await eventually_async(lambda: _status(manager, "blocked/t", "running"))
    _agent(rt, handle.id).gate.set()
    assert await handle.again() == "done"  # its turn comes after
    assert _agent(rt, handle.id).order == [7]


def test_an_action_cannot_hide_behind_a_method_of_every_handle() -> None:
    with pytest.raises(ConfigurationError, match="every handle"):

        @action
        async def ping(self: Agent) -> None: ...


async def test_handles_pickle_and_reconnect(runtime: Cluster) -> None:
    _, manager = runtime
    handle = pickle.loads(pickle.dumps(manager.handle(Echo, "p").with_timeout(3.0)))
    assert await handle.twice(4) == 8
    assert handle == manager.handle(Echo, "p")
    assert await handle.ping() >= 0.0


async def test_an_unreachable_host_is_not_dead(runtime: Cluster) -> None:
    rt, manager = runtime
    handle = manager.handle(Echo, "cut")
    assert await handle.twice(1) == 2
    host = rt.host_of(handle.id) or ""
    rt.cut_off(host)
    call = asyncio.create_task(handle.twice(5))
    await asyncio.sleep(0.1)
    assert not call.done()
    rt.cut_off(host, cut=False)
    assert await call == 10
    assert rt.host_of(handle.id) == host
