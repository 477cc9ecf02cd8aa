"""Groups of agents: who is restarted, in which order, and when a group gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentray import (
    Agent,
    AgentFailed,
    AgentOptions,
    App,
    ConfigurationError,
    ManagerClient,
    RestartPolicy,
    action,
    loop,
)
from agentray.core.groups import counts, plan
from agentray.patterns import Group, GroupAgent, Member
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async

diary: list[str] = []
doomed: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def _forget() -> None:
    diary.clear()
    doomed.clear()


class Part(Agent):
    """A member that fails when it is told to."""

    async def on_start(self) -> None:
        await asyncio.sleep(1.0)  # the next one waits for it
        diary.append(f"start {self.id.key}")

    async def on_stop(self) -> None:
        diary.append(f"stop {self.id.key}")

    @loop
    async def live(self) -> None:
        event = doomed[self.id.key] = asyncio.Event()
        await event.wait()
        raise ValueError(f"{self.id.key} broke")

    @action
    async def hello(self) -> str:
        return self.id.key


MEMBERS = [Member(Part, "a"), Member(Part, "b"), Member(Part, "c")]


class OneForOne(GroupAgent):
    group = Group(MEMBERS, strategy="one_for_one", max_restarts=2, period_s=60)


class OneForAll(GroupAgent):
    group = Group(MEMBERS, strategy="one_for_all")


class RestForOne(GroupAgent):
    group = Group(MEMBERS, strategy="rest_for_one")


class Mixed(GroupAgent):
    group = Group(
        [Member(Part, "t", restart="temporary"), Member(Part, "u", restart="transient")],
    )


class Outer(GroupAgent):
    group = Group([Member(OneForOne, "inner"), Member(Part, "z")], max_restarts=1, period_s=600)


class Named(GroupAgent):
    options = AgentOptions(name="crew")
    group = Group(MEMBERS, max_restarts=0)


APP = App("groups", [Part, OneForOne, OneForAll, RestForOne, Mixed, Outer, Named])


async def until(check: Callable[[], bool]) -> None:
    async def checked() -> bool:
        return check()

    await eventually_async(checked, timeout_s=60)


async def break_(key: str) -> None:
    doomed[key].set()


async def break_again(key: str, starts: int) -> None:
    """Break a member when it has been started so often."""
    await until(lambda: diary.count(f"start {key}") == starts and key in doomed)
    await asyncio.sleep(0.1)  # its loop begins
    doomed[key].set()


def cluster(body: Callable[[ManagerClient, LocalRuntime], Awaitable[None]]) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(hosts=3)
        async with runtime as manager, asyncio.timeout(2000):
            await manager.deploy(APP)
            await body(manager, runtime)

    run(whole())


STARTED = ["start a", "start b", "start c"]


def test_members_start_in_order_and_stop_in_reverse():
    async def body(manager: ManagerClient, _: LocalRuntime) -> None:
        group = await manager.launch(OneForOne, name="g")
        assert diary == STARTED
        assert {m["status"] for m in await group.members()} <= {"running", "idle"}
        await manager.shutdown(group)
        assert diary == [*STARTED, "stop c", "stop b", "stop a"]

    cluster(body)


@pytest.mark.parametrize(
    ("group", "after"),
    [
        (OneForOne, ["stop b", "start b"]),
        (OneForAll, ["stop b", "stop c", "stop a", "start a", "start b", "start c"]),
        (RestForOne, ["stop b", "stop c", "start b", "start c"]),
    ],
)
def test_the_strategy_says_who_is_restarted(group: type[GroupAgent], after: list[str]):
    async def body(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.launch(group, name="g")
        await until(lambda: len(doomed) == 3)
        await break_("b")
        await until(lambda: len(diary) >= 3 + len(after))
        assert diary[3:] == after
        assert await manager.handle(Part, "b").hello() == "b"

    cluster(body)


def test_a_group_whose_members_end_too_often_is_failed_and_can_be_reset():
    async def body(manager: ManagerClient, _: LocalRuntime) -> None:
        group = await manager.launch(OneForOne, name="g")
        for number in range(1, 4):
            await break_again("b", number)

        async def failed() -> bool:
            return (await group.status())["status"] == "failed"

        await eventually_async(failed, timeout_s=100)
        told = await group.status()
        assert (
            "more than 2 times in 60 s; the last one was part/b: ValueError: b broke"
            in (told["last_error"])
        )
        assert "GroupFailed" in told["traceback"]
        assert [line for line in diary if line.startswith("stop")][-2:] == ["stop c", "stop a"]
        with pytest.raises(AgentFailed):
            await group.members()
        diary.clear()
        assert await group.reset()
        await until(lambda: diary == STARTED)
        assert await manager.handle(Part, "a").hello() == "a"

    cluster(body)


def test_a_reset_starts_a_group_with_options_of_its_own_before_anybody_sends_it_a_message():
    async def body(manager: ManagerClient, _: LocalRuntime) -> None:
        group = await manager.launch(Named, name="g")
        await break_again("b", 1)

        async def failed() -> bool:
            return (await group.status())["status"] == "failed"

        await eventually_async(failed, timeout_s=100)
        diary.clear()
        assert await manager.reset_agent(group)
        await until(lambda: diary == STARTED)  # nobody has sent it anything

    cluster(body)


def test_a_group_that_would_not_be_permanent_is_refused():
    with pytest.raises(ConfigurationError, match="Fleeting is a group, which is permanent"):

        class Fleeting(GroupAgent):  # pyright: ignore[reportUnusedClass] - it cannot be made
            options = AgentOptions(restart=RestartPolicy(restart="temporary"))


def test_temporary_members_are_not_restarted_and_transient_ones_when_they_failed():
    async def body(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.launch(Mixed, name="g")
        await until(lambda: len(doomed) == 2)
        await break_("t")
        await break_("u")
        await until(lambda: diary.count("start u") == 2)
        assert diary.count("start t") == 1
        await manager.shutdown("part/u")
        await asyncio.sleep(30)
        assert diary.count("start u") == 2

    cluster(body)


def test_the_group_and_its_members_survive_the_death_of_any_host():
    async def body(manager: ManagerClient, runtime: LocalRuntime) -> None:
        group = await manager.launch(OneForOne, name="g")
        for host in runtime.hosts:
            await runtime.kill_host(host)

            async def whole() -> bool:
                try:
                    states = {m["status"] for m in await group.with_timeout(5).members()}
                except Exception:  # noqa: BLE001 - the group itself may be on its way
                    return False
                return states <= {"idle", "running"}

            await eventually_async(whole, timeout_s=200)
        await until(lambda: "b" in doomed)
        before = diary.count("start b")
        await break_("b")
        await until(lambda: diary.count("start b") == before + 1)

    cluster(body)


def test_a_failed_inner_group_is_restarted_by_the_outer_one():
    async def body(manager: ManagerClient, _: LocalRuntime) -> None:
        await manager.launch(Outer, name="o")
        assert diary == [*STARTED, "start z"]
        for number in range(1, 4):
            await break_again("b", number)
        await until(lambda: diary.count("start a") == 2)
        await until(lambda: diary[-3:] == STARTED)

    cluster(body)


def test_two_members_that_are_the_same_agent_are_refused():
    with pytest.raises(ConfigurationError, match="same agent"):
        Group([Member(Part, "a"), Member(Part, "a")])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"max_restarts": -1}, "max_restarts=-1"),
        ({"period_s": 0.0}, "period_s=0.0"),
        ({"period_s": float("nan")}, "period_s=nan"),
        ({"strategy": "all"}, "strategy='all'"),
    ],
)
def test_groups_that_nobody_can_mean_are_refused(said: dict[str, Any], told: str):
    with pytest.raises(ConfigurationError, match=told):
        Group([Member(Part, "a")], **said)


def test_members_that_nobody_can_mean_are_refused():
    with pytest.raises(ConfigurationError, match="restart='always'"):
        Member(Part, "a", restart=cast("Any", "always"))
    with pytest.raises(ConfigurationError, match="1 to 512 characters"):
        Member(Part, "")
    with pytest.raises(ConfigurationError, match="class of agents"):
        Member(cast("Any", "part"), "a")


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([], "has members"),
        ([Part], r"Member\(Part, name\)"),
        (["part/a"], "'part/a' is none"),
    ],
)
def test_groups_of_nobody_or_of_what_is_no_member_are_refused(members: Any, told: str):
    with pytest.raises(ConfigurationError, match=told):
        Group(members)


def test_a_group_that_does_not_say_of_whom_is_refused():
    with pytest.raises(ConfigurationError, match="Nobodies is a group: say of whom"):

        class Nobodies(GroupAgent):  # pyright: ignore[reportUnusedClass] - it cannot be made
            pass

    with pytest.raises(ConfigurationError, match="Bare is a group: say of whom"):

        class Bare(GroupAgent):  # pyright: ignore[reportUnusedClass] - it cannot be made
            group = cast("Any", [Member(Part, "a")])


# The decision itself

NAMES = st.lists(st.sampled_from("abcdefg"), min_size=1, unique=True)


@given(
    names=NAMES,
    strategy=st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
    data=st.data(),
)
def test_what_is_restarted_stops_in_reverse_and_starts_in_order(
    names: list[str], strategy: Any, data: st.DataObject
):
    ended = data.draw(st.sampled_from(names))
    gone = set(data.draw(st.lists(st.sampled_from(names)))) - {ended}
    todo = plan(strategy, names, ended, gone)
    assert ended in todo.start
    assert ended not in todo.stop
    assert list(todo.start) == [n for n in names if n in todo.start]
    assert list(todo.stop) == [n for n in reversed(names) if n in todo.stop]
    assert set(todo.start) == {*todo.stop, ended}
    assert not gone & set(todo.start)
    if strategy == "rest_for_one":
        assert set(names[: names.index(ended)]).isdisjoint(todo.start)
    if strategy == "one_for_all":
        assert set(todo.start) == set(names) - gone


@pytest.mark.parametrize(
    ("restart", "after_failure", "after_shutdown"),
    [("permanent", True, True), ("transient", True, False), ("temporary", False, False)],
)
def test_policies_of_members(restart: Any, after_failure: bool, after_shutdown: bool):
    assert counts(restart, failed=True) is after_failure
    assert counts(restart, failed=False) is after_shutdown


class WithApp(GroupAgent):
    group = Group(MEMBERS, strategy="one_for_all")
    starts = ("main",)


def test_groups_start_with_their_app_in_order_and_stop_with_it_in_reverse():
    async def alone() -> None:
        async with LocalRuntime() as manager, asyncio.timeout(500):
            app = App("with-groups", [Part, WithApp])
            await manager.deploy(app)
            assert diary == STARTED
            await manager.deploy(app)
            assert diary == STARTED
            await manager.stop("with-groups")
            assert diary == [*STARTED, "stop c", "stop b", "stop a"]
            await manager.deploy(app)
            assert diary[6:] == STARTED

    run(alone())
