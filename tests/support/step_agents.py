"""Agents of a run with hundreds of steps, whose result and counters tell each step once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import BaseModel

from agentray import Agent, AgentId, App, Event, Prompt, TerminateEvent, on

_LOOK_EVERY_S = 0.05
_GATED_HEIGHT = 3
NODES = 8
"""Agents that share the events of a tree."""


class Planted(Event):
    """Grows into two of itself until its height is 0; half-way it waits for the file `gate`."""

    tree: str
    height: int
    gate: str
    place: int = 1


class Leaf(Event):
    tree: str
    place: int
    leaves: int


class Felled(TerminateEvent):
    leaves: int
    places: int


class Count(BaseModel):
    steps: int = 0


class Basket(BaseModel):
    leaves: int = 0
    places: int = 0


class Forester(Agent):
    @on(Prompt)
    async def plant(self, prompt: Prompt) -> Planted:
        """Take a prompt such as `oak 7 /tmp/gate`."""
        tree, height, gate = prompt.text.split()
        return Planted(tree=tree, height=int(height), gate=gate)


class TreeNode(Agent):
    state: Count

    @on(Planted, key=lambda planted: f"{planted.tree}-{planted.place % NODES}", own=True)
    async def grow(self, planted: Planted) -> list[Event]:
        gated = planted.height == _GATED_HEIGHT
        while gated and not await self.run_sync(Path(planted.gate).exists):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        self.state.steps += 1
        tree, place, height = planted.tree, planted.place, planted.height
        if height == 0:
            leaves = 2 ** (place.bit_length() - 1)
            return [Leaf(tree=tree, place=place, leaves=leaves)]
        return [
            Planted(tree=tree, height=height - 1, gate=planted.gate, place=2 * place + side)
            for side in (0, 1)
        ]


class Gatherer(Agent):
    state: Basket

    @on(Leaf, key="field:tree")
    async def gather(self, leaf: Leaf) -> Felled | None:
        self.state.leaves += 1
        self.state.places += leaf.place
        if self.state.leaves < leaf.leaves:
            return None
        return Felled(leaves=self.state.leaves, places=self.state.places)


def steps_of(height: int) -> int:
    """How many events the nodes of a tree handle."""
    return 2 ** (height + 1) - 1


def felled(height: int) -> dict[str, int]:
    """The result of a tree."""
    first = 2**height
    return {"leaves": first, "places": sum(range(first, 2 * first))}


def nodes_of(tree: str) -> list[AgentId]:
    """The agents that share its events."""
    return [AgentId("tree_node", f"{tree}-{n}") for n in range(NODES)]


app = App("step-runs", [Forester, TreeNode, Gatherer])
