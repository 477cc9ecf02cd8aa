"""A message of a run that is durable per step, on the host of its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentray.context import HeldMessage
from agentray.protocol.envelope import Envelope
from agentray.runtime.step_emissions import Emissions
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.steps import Steps

Message = tuple[str, int]
"""Run and number."""


class StepTurn(Turn):
    """A message of such a run that an agent handles, or will.

    Attributes:
        message: which.
        path: what led to it, itself last.
        kept: it was read from the Store: a host that died may have begun it.
        begun: its handler has begun.
        alone: it is handled while no other is that hosts died of.
        emissions: of its handler.
    """

    __slots__ = ("alone", "begun", "emissions", "kept", "message", "path")

    is_step = True

    def __init__(
        self, envelope: Envelope, steps: Steps, now: float, message: Message, path: tuple[str, ...]
    ) -> None:
        super().__init__(envelope, steps, now)
        self.message = message
        self.path = path
        self.kept = False
        self.begun = False
        self.alone = False
        self.emissions = Emissions(path, HeldMessage(*message))
