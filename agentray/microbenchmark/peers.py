"""Rows of what agents send each other: calls on one host, and arrays between two."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentray.microbenchmark.agents import Peer
from agentray.microbenchmark.baselines import bare_actors
from agentray.microbenchmark.places import peers_of_two_hosts
from agentray.microbenchmark.rows import Row, at_least, at_most, in_turn
from agentray.microbenchmark.scale import Scale
from agentray.runtime.manager_client import ManagerClient

_IN_FLIGHT = 64
_MIB = 2**20


async def measure_peers(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Measure agents that call agents."""
    here, there = await peers_of_two_hosts(manager)
    caller, *siblings = here
    peer = manager.handle(Peer, caller)
    return [
        await _local(peer, siblings, there, scale),
        await _arrays(peer, there[0], scale),
    ]


async def _local(peer: Any, siblings: list[str], strangers: list[str], scale: Scale) -> Row:
    count = min(_IN_FLIGHT, len(siblings), len(strangers))
    value, baseline = await in_turn(
        lambda: peer.calls_per_s(siblings[:count], _IN_FLIGHT, scale.seconds),
        lambda: peer.calls_per_s(strangers[:count], _IN_FLIGHT, scale.seconds),
        scale.rounds,
    )
    other = "the same to agents on another host"
    return Row("call_local_per_s", value, "calls/s", other, baseline, at_least(50_000, of="value"))


async def _arrays(peer: Any, stranger: str, scale: Scale) -> Row:
    array = np.arange(_MIB, dtype=np.uint8)
    with bare_actors(2) as (sender, receiver):

        async def bare() -> Any:
            return await sender.send_p50_ms.remote(receiver, array, scale.arrays)

        async def ours() -> Any:
            return await peer.send_p50_ms(stranger, array, scale.arrays)

        await bare()  # the actors have started, and both ways have been gone
        await ours()
        value, baseline = await in_turn(ours, bare, scale.rounds)
    other = "one bare Ray actor to another"
    return Row("numpy_1mib_p50_ms", value, "ms", other, baseline, at_most(1.5))
