"""What is done with a Store, from admission to a dead letter, each step repeated until answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentray.errors import StoreUnavailable
from agentray.protocol.letters import DeadLetter, LetterKind, LetterQuery, LetterReason
from agentray.protocol.runs import RunStatus
from agentray.store.base import CommitOutcome, Store
from agentray.store.letters import StoredLetter
from tests.contract.samples import ADA, T0, effects, end, events, host, lease, new_run, state


async def repeated(action: Callable[[], Awaitable[Any]]) -> Any:
    """Do something as hosts, managers and clients do: again, until it is answered."""
    while True:
        try:
            return await action()
        except StoreUnavailable:
            await asyncio.sleep(0)


async def tell(store: Store) -> None:
    """A run is admitted, worked on and ended, another dies and is tried again; all of it once."""
    await repeated(lambda: store.put_host(host()))
    (held,) = await repeated(lambda: store.assign_slots([lease("h1")]))
    run, doomed = new_run(idempotency_key="k"), new_run()
    admitted = await repeated(lambda: store.admit([run, doomed]))
    assert [admission.run.id for admission in admitted] == [run.id, doomed.id]
    first = effects(held.epoch, states=[state(1)], events={run.id: events(0, 3)})
    assert await repeated(lambda: store.commit("h1", [first])) == [CommitOutcome.COMMITTED]
    last = effects(held.epoch, states=[state(2)], events={run.id: events(3, 2)}, end=end(run.id))
    (outcome,) = await repeated(lambda: store.commit("h1", [last]))
    # The second time it has ended already: by this very commit.
    assert outcome in {CommitOutcome.COMMITTED, CommitOutcome.ALREADY_ENDED}
    death = end(doomed.id, status=RunStatus.DEAD, result=None)
    await repeated(lambda: store.commit("h1", [effects(held.epoch, end=death)]))
    letter = StoredLetter(
        DeadLetter(
            id="dead_0",
            kind=LetterKind.EVENT,
            reason=LetterReason.NO_SUBSCRIBER,
            target="t",
            name="t",
            created_at=T0,
        ),
        "default",
    )
    await repeated(lambda: store.add_dead_letters([letter]))
    letters = await repeated(store.list_dead_letters)
    assert len(letters) == 2
    again = new_run()
    assert await repeated(lambda: store.retry_dead_letter(letters[0].id, again, None)) == again.id
    await repeated(lambda: store.purge_dead_letters(LetterQuery(ids=["dead_0"])))

    stored = await repeated(lambda: store.get_run(run.id))
    assert (stored.run.status, stored.run.result, stored.events) == (
        RunStatus.SUCCEEDED,
        {"answer": 42},
        5,
    )
    told = await repeated(lambda: store.run_events(run.id))
    assert [event.offset for event in told] == [0, 1, 2, 3, 4]
    states = await repeated(lambda: store.load_states([ADA]))
    assert states[ADA].state == {"n": 2}
    counts = await repeated(store.count_runs)
    assert counts == {RunStatus.SUCCEEDED: 1, RunStatus.DEAD: 1, RunStatus.QUEUED: 1}
    assert len(await repeated(store.list_dead_letters)) == 1
