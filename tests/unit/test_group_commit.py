"""Group commit: one transaction for many, and a cancelled caller harms nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentray.errors import ChannelClosed, Overloaded, StoreUnavailable
from agentray.runtime.group_commit import GroupCommit


class Ledger:
    """A commit that waits at a gate and remembers its batches."""

    def __init__(self, *, open_gate: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.error: Exception | None = None
        if open_gate:
            self.gate.set()

    async def commit(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        return [item * 10 for item in items]


def group(
    ledger: Ledger, *, max_batch: int = 100, max_waiting: int = 1000
) -> GroupCommit[int, int]:
    return GroupCommit(ledger.commit, name="ledger", max_batch=max_batch, max_waiting=max_waiting)


async def test_each_caller_gets_its_own_result():
    commits = group(Ledger())
    assert await asyncio.gather(*map(commits.submit, range(50))) == [i * 10 for i in range(50)]


async def test_items_gather_while_a_commit_is_under_way():
    ledger = Ledger(open_gate=False)
    commits = group(ledger)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(commits.submit(0))
        await ledger.entered.wait()
        for item in range(1, 6):
            tasks.create_task(commits.submit(item))
        tasks.create_task(_open(ledger))
    assert ledger.batches == [[0], [1, 2, 3, 4, 5]]


async def _open(ledger: Ledger) -> None:
    ledger.gate.set()


async def test_a_batch_is_never_larger_than_its_limit():
    ledger = Ledger()
    await asyncio.gather(*map(group(ledger, max_batch=4).submit, range(10)))
    assert [len(batch) for batch in ledger.batches] == [4, 4, 2]


async def test_a_cancelled_waiter_neither_stops_nor_loses_its_batch():
    ledger = Ledger(open_gate=False)
    commits = group(ledger)
    waiters = [asyncio.create_task(commits.submit(item)) for item in range(3)]
    await ledger.entered.wait()
    waiters[0].cancel()  # the first: in whose turn the batch was started
    late = asyncio.create_task(commits.submit(3))
    ledger.gate.set()
    assert await asyncio.gather(*waiters[1:], late) == [10, 20, 30]
    assert ledger.batches == [[0, 1, 2], [3]]
    assert waiters[0].cancelled()


async def test_an_item_whose_waiter_left_before_its_batch_began_is_committed():
    ledger = Ledger(open_gate=False)
    commits = group(ledger)
    first = asyncio.create_task(commits.submit(1))
    await ledger.entered.wait()
    gone = asyncio.create_task(commits.submit(2))
    await asyncio.wait((gone,), timeout=0)
    gone.cancel()
    ledger.gate.set()
    await first
    await commits.close()
    assert ledger.batches == [[1], [2]]


async def test_an_error_reaches_every_waiter_and_the_next_batch_is_unharmed():
    ledger = Ledger()
    commits = group(ledger)
    ledger.error = StoreUnavailable()
    outcomes = await asyncio.gather(*map(commits.submit, range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    ledger.error = None
    assert await commits.submit(7) == 70


async def test_a_commit_that_returns_too_few_results_fails_every_waiter():
    async def forgetful(items: Sequence[int]) -> list[int]:
        return list(items)[1:]

    commits = GroupCommit(forgetful, name="forgetful")
    outcomes = await asyncio.gather(*map(commits.submit, range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3


async def test_more_than_max_waiting_are_refused():
    ledger = Ledger(open_gate=False)
    commits = group(ledger, max_waiting=2)
    waiters = [asyncio.create_task(commits.submit(0))]
    await ledger.entered.wait()
    waiters += [asyncio.create_task(commits.submit(item)) for item in (1, 2)]
    await asyncio.wait(waiters, timeout=0)
    with pytest.raises(Overloaded):
        await commits.submit(3)
    ledger.gate.set()
    assert await asyncio.gather(*waiters) == [0, 10, 20]


async def test_close_waits_for_what_was_taken_and_refuses_more():
    ledger = Ledger(open_gate=False)
    commits = group(ledger)
    waiter = asyncio.create_task(commits.submit(1))
    await ledger.entered.wait()
    closing = asyncio.create_task(commits.close())
    await asyncio.wait((closing,), timeout=0)
    assert not closing.done()
    ledger.gate.set()
    await closing
    assert await waiter == 10
    with pytest.raises(ChannelClosed):
        await commits.submit(2)
    await commits.close()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40),
    st.integers(1, 7),
)
def test_whoever_leaves_all_items_are_committed_once_and_in_order(
    arrivals: list[tuple[int, bool]], max_batch: int
):
    """Callers come after some ticks of the loop, and some of them leave at once."""

    async def scenario() -> None:
        ledger = Ledger()
        commits = group(ledger, max_batch=max_batch)
        waiters: list[asyncio.Task[int]] = []
        for item, (ticks, leaves) in enumerate(arrivals):
            waiters.append(asyncio.create_task(commits.submit(item)))
            for _ in range(ticks + 1):
                await asyncio.wait((waiters[-1],), timeout=0)
            if leaves:
                waiters[-1].cancel()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        await commits.close()
        assert [item for batch in ledger.batches for item in batch] == list(range(len(arrivals)))
        assert all(len(batch) <= max_batch for batch in ledger.batches)
        for item, outcome in enumerate(outcomes):
            assert outcome == item * 10 or isinstance(outcome, asyncio.CancelledError)
            assert arrivals[item][1] or outcome == item * 10

    asyncio.run(scenario())


async def test_what_comes_in_one_go_is_committed_together():
    """As runs do that came to their host in one message, and end one after the other."""
    ledger = Ledger()
    commits = GroupCommit(ledger.commit, name="ledger", patience_s=60.0)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(commits.submit(0))
        tasks.create_task(_busily(commits))
    assert ledger.batches == [[0, 3]]


async def test_a_batch_waits_for_what_the_busy_loop_still_brings():
    ledger = Ledger(open_gate=False)
    commits = GroupCommit(ledger.commit, name="ledger", patience_s=60.0)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(commits.submit(0))
        tasks.create_task(commits.submit(1))
        await ledger.entered.wait()
        tasks.create_task(commits.submit(2))
        await asyncio.sleep(0)
        ledger.gate.set()
        tasks.create_task(_busily(commits))
    assert ledger.batches == [[0, 1], [2, 3]]


async def _busily(commits: GroupCommit[int, int]) -> None:
    """Come to the commit after some turns of the event loop, each of which takes its time."""
    for _ in range(5):
        _work()
        await asyncio.sleep(0)
    await commits.submit(3)


def _work() -> None:
    end = time.perf_counter() + 0.001
    while time.perf_counter() < end:
        pass


async def test_a_batch_waits_for_nothing_while_the_loop_has_nothing_else_to_do():
    ledger = Ledger()
    commits = GroupCommit(ledger.commit, name="ledger", patience_s=60.0)
    for first in (0, 10, 20):
        assert await asyncio.gather(*map(commits.submit, (first, first + 1)))
    assert [len(batch) for batch in ledger.batches] == [2, 2, 2]


async def test_a_batch_does_not_wait_for_ever_for_a_busy_loop():
    ledger = Ledger(open_gate=False)
    commits = GroupCommit(ledger.commit, name="ledger", patience_s=0.02)
    busy = asyncio.create_task(_always_busy())
    try:
        waiters = [asyncio.create_task(commits.submit(item)) for item in (0, 1)]
        await ledger.entered.wait()
        ledger.gate.set()
        assert await asyncio.gather(*waiters, commits.submit(2)) == [0, 10, 20]
    finally:
        busy.cancel()


async def _always_busy() -> None:
    while True:
        _work()
        await asyncio.sleep(0)
