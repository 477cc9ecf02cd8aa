"""Messages that agents of one host hold: handled, and kept for a later step of their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentray.ids import AgentId

if TYPE_CHECKING:
    from agentray.runtime.host import Host
    from agentray.runtime.incarnation import Incarnation


class HeldMessages:
    """Whose memory has which. What an agent held that has left memory is to be handled again."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._holders: dict[tuple[str, int], Incarnation] = {}
        self._numbers: dict[tuple[str, AgentId], set[int]] = {}
        self._incomplete = False

    def __contains__(self, message: tuple[str, int]) -> bool:
        holder = self._holders.get(message)
        if holder is None:
            return False
        if self._host.find(holder.id) is holder:
            return True
        self.discard(message)
        return False

    def add(self, agent: Incarnation, message: tuple[str, int]) -> list[int]:
        """Let an agent hold a message; return the numbers of all that it holds of the run."""
        run_id, number = message
        numbers = self._numbers.setdefault((run_id, agent.id), set())
        for other in list(numbers):
            if self._holders[run_id, other] is not agent:
                self.discard((run_id, other))
                self._incomplete = True
        numbers = self._numbers.setdefault((run_id, agent.id), set())
        numbers.add(number)
        self._holders[message] = agent
        return sorted(numbers)

    def take_incomplete(self) -> bool:
        """Whether some were found that an earlier life of an agent had held, lately."""
        incomplete, self._incomplete = self._incomplete, False
        return incomplete

    def discard(self, message: tuple[str, int]) -> None:
        """Hold a message no longer; harmless when it is not held."""
        holder = self._holders.pop(message, None)
        if holder is None:
            return
        run_id, number = message
        numbers = self._numbers[run_id, holder.id]
        numbers.discard(number)
        if not numbers:
            del self._numbers[run_id, holder.id]

    def sweep(self) -> None:
        """Forget what agents held that have left memory."""
        for message in list(self._holders):
            if message not in self:
                self.discard(message)
