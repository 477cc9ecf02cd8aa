"""Dead letters of one host: whatever they carry, and whatever the Store does, they are counted."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence

import pytest

from agentray import DeadLetter, Event
from agentray.errors import StoreUnavailable
from agentray.runtime import dead_letters
from agentray.runtime.dead_letters import MAX_WAITING, DeadLetters
from agentray.store.letters import StoredLetter
from agentray.store.memory import MemoryStore
from tests.support import virtual_time


class Sighed(Event):
    number: float = 0


class Unreliable(MemoryStore):
    """Is away for some calls; then it takes a while."""

    def __init__(self, away: int) -> None:
        super().__init__()
        self.away = away
        self.batches: list[int] = []

    async def add_dead_letters(self, letters: Sequence[StoredLetter]) -> None:
        await asyncio.sleep(0.1)
        self.away -= 1
        if self.away >= 0:
            raise StoreUnavailable
        self.batches.append(len(letters))
        await super().add_dead_letters(letters)


async def kept(store: MemoryStore) -> list[DeadLetter]:
    return (await store.list_dead_letters(limit=100_000))[::-1]


def test_letters_are_written_in_batches_and_in_order_also_when_the_store_was_away() -> None:
    async def scenario() -> None:
        store = Unreliable(away=3)
        letters = DeadLetters(store)
        for number in range(1200):
            letters.unwanted(Sighed(number=number, correlation_id="c"), None)
        await letters.close()
        assert letters.count == 1200
        assert store.batches == [500, 500, 200]
        found = [Event.from_json(letter.payload) for letter in await kept(store)]
        assert {event.number for event in found if isinstance(event, Sighed)} == set(range(1200))
        assert {(d.kind, d.target, d.correlation_id) for d in await kept(store)} == {
            ("event", Sighed.event_type, "c")
        }

    virtual_time.run(scenario())


def test_a_letter_that_has_no_json_or_cannot_be_stored_takes_no_other_along() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        letters = DeadLetters(store)
        letters.unwanted(Sighed(number=1), None)
        letters.unwanted(Sighed(number=math.nan), None)
        letters.unwanted(Sighed(number=2, correlation_id="nul\0"), None)
        letters.unwanted(Sighed(number=3), None)
        await letters.close()
        assert letters.count == 4
        payloads = {letter.payload.get("number"): letter.payload for letter in await kept(store)}
        assert set(payloads) == {1, None, 3}
        assert "number" in payloads[None]["unreadable"]

    virtual_time.run(scenario())


def test_more_than_can_wait_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store = Unreliable(away=2)
        letters = DeadLetters(store)
        for _ in range(MAX_WAITING + 7):
            letters.unwanted(Sighed(), None)
        await letters.close()
        assert letters.count == MAX_WAITING + 7
        assert len(await kept(store)) == MAX_WAITING

    with caplog.at_level(logging.WARNING, logger=dead_letters.__name__):
        virtual_time.run(scenario())
    told = {record.__dict__["action"]: record for record in caplog.records}
    assert told["dead_letters_not_kept"].__dict__["count"] == 7
    assert told["dead_letter"].getMessage() == f"{Sighed.event_type}: no_subscriber (500 times)"


def test_a_store_that_stays_away_does_not_keep_a_host_from_ending() -> None:
    async def scenario() -> None:
        letters = DeadLetters(Unreliable(away=10_000))
        letters.unwanted(Sighed(), None)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await letters.close()
        assert loop.time() - begun < 10

    virtual_time.run(scenario())
