"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured; the quick one is for a first look."""

    rounds: int
    seconds: float  # of each throughput measurement
    sequential: int  # calls
    arrays: int  # that are sent
    stream_items: int  # in one stream
    bare_stream_items: int  # in one of the baseline, which is slower
    idle_streams: int
    activations: int
    idle_agents: int
    actors: int  # for the baseline of one actor per agent
    growth_agents: tuple[int, ...]
    kills: int  # of hosts
    bare_kills: int  # of the baseline, which takes about a second for each
    sessions: int

    @classmethod
    def of(cls, *, quick: bool) -> Scale:
        """Return the quick scale or the full one."""
        if quick:
            return cls(
                rounds=1,
                seconds=1.0,
                sequential=200,
                arrays=50,
                stream_items=20_000,
                bare_stream_items=1_000,
                idle_streams=1_000,
                activations=5_000,
                idle_agents=20_000,
                actors=2,
                growth_agents=(1, 100, 10_000),
                kills=5,
                bare_kills=3,
                sessions=1_000,
            )
        return cls(
            rounds=5,
            seconds=2.0,
            sequential=400,
            arrays=200,
            stream_items=50_000,
            bare_stream_items=3_000,
            idle_streams=1_000,
            activations=20_000,
            idle_agents=200_000,
            actors=6,
            growth_agents=(1, 10, 100, 1_000, 10_000, 100_000),
            kills=50,
            bare_kills=10,
            sessions=10_000,
        )
