"""Large arguments and results: they arrive whole, and nobody shares memory that can change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from agentray import Agent, App, ManagerClient, PayloadError, action
from agentray.protocol.buffers import MIN_BYTES, encode_call, encode_result
from agentray.protocol.codec import decode
from agentray.protocol.envelope import Large, pack, unpack
from agentray.testing import LocalRuntime

MANY = MIN_BYTES // 8 + 1  # float64 numbers


class Board(Agent):
    def __init__(self) -> None:
        self.cells = np.zeros(MANY)

    @action
    async def add(self, cells: Any, note: str) -> tuple[Any, str]:
        assert not cells.flags.writeable, "a view of what travelled"
        self.cells = self.cells + cells
        return self.cells, note

    @action
    async def bump(self) -> Any:
        self.cells += 1  # the very array that was returned before
        return self.cells

    @action
    async def echo(self, value: Any) -> Any:
        return value

    @action
    async def pass_on(self, other: str, value: Any) -> Any:
        return await self.handle(Board, other).echo(value)

    @action
    async def refused(self) -> object:
        return [bytes(MIN_BYTES), (x for x in ())]


@pytest.fixture
async def manager() -> AsyncIterator[ManagerClient]:
    async with LocalRuntime() as manager:
        await manager.deploy(App("boards", [Board]))
        yield manager


async def test_arrays_arrive_whole_and_apart_from_the_senders(manager: ManagerClient) -> None:
    board = manager.handle(Board, "b")
    mine = np.arange(float(MANY))
    found, note = await board.add(mine, "first")
    assert note == "first"
    assert np.array_equal(found, mine)
    bumped = await board.bump()
    assert np.array_equal(bumped, mine + 1)
    assert np.array_equal(found, mine), "what came before is not changed by what the agent does"
    mine[:] = 0
    assert np.array_equal(await board.bump(), bumped + 1)


@pytest.mark.parametrize(
    "value",
    [
        b"x" * (3 * MIN_BYTES),
        bytearray(2 * MIN_BYTES),
        "text " * MIN_BYTES,
        list(range(MIN_BYTES)),
        {"a": [bytes(MIN_BYTES), {"b": np.zeros((3, MANY), order="F")}]},
        np.arange(MANY)[::2],
    ],
    ids=["bytes", "bytearray", "text", "list", "nested", "every second"],
)
async def test_large_values_of_all_kinds_come_back_equal(
    manager: ManagerClient, value: Any
) -> None:
    for key in ("a", "b", "c"):  # on both hosts, and from one to the other
        found = await manager.handle(Board, key).pass_on(f"{key}2", value)
        assert type(found) is type(value)
        np.testing.assert_equal(found, value)


async def test_a_large_value_that_cannot_travel_is_an_error_that_names_it(
    manager: ManagerClient,
) -> None:
    with pytest.raises(PayloadError, match=r"result of refused\(\)"):
        await manager.handle(Board, "b").refused()
    with pytest.raises(PayloadError, match=r"argument 2 of add\(\)"):
        await manager.handle(Board, "b").add(np.zeros(MANY), (x for x in ()))


async def test_plain_values_between_agents_of_one_process_arrive_as_they_are(
    manager: ManagerClient,
) -> None:
    for key in map(str, range(8)):  # some pairs on one host, some not
        for value in (0, 1.5, "text", "", True, None, b"", b"bytes", (1, 2), [3], {"a": 4}):
            found = await manager.handle(Board, key).pass_on(f"other-{key}", value)
            assert (type(found), found) == (type(value), value)


def test_only_large_values_travel_beside_the_frame() -> None:
    small = encode_call((np.zeros(10), b"x" * 1000), {}, "work")
    assert isinstance(small, bytes)
    large = encode_call((np.zeros(MANY), b"x" * 1000), {}, "work")
    assert isinstance(large, Large)
    assert MIN_BYTES < len(large) < 2 * MIN_BYTES
    packet = pack(("link", 1, [(1, large), (2, small)]))
    assert isinstance(packet, list)
    assert len(packet[0]) < 5000
    _, _, ((_, again), (_, same)) = unpack(packet)
    assert same == small
    (cells, text), kwargs = decode(again)
    assert (cells.shape, text, kwargs) == ((MANY,), b"x" * 1000, {})
    assert isinstance(pack([small]), bytes)


def test_large_bytes_are_not_copied_on_their_way_to_the_wire() -> None:
    value = bytes(MIN_BYTES)
    encoded = encode_result(value, "work")
    assert isinstance(encoded, Large)
    assert encoded.parts[1] is value
