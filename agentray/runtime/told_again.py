"""An action that was told once, and is called again as the whole work of a run."""

from __future__ import annotations

from agentray.ids import AgentId
from agentray.protocol.envelope import Kind, Reply, ReplyKind
from agentray.runtime.message import Message
from agentray.runtime.scope import Scope, failure_of


class ToldAgain(Message):
    """A call whose value nobody wants: the scope hears when all that it set off is done."""

    __slots__ = ("_scope",)

    def __init__(self, target: AgentId, action: str, arguments: bytes, scope: Scope) -> None:
        super().__init__(int(Kind.CALL), target, action, arguments)
        self._scope = scope

    def on_reply(self, reply: Reply) -> None:
        """Take the reply; what the action set off may end later than itself."""
        if reply.kind == ReplyKind.OPEN:
            return
        failed = reply.kind == ReplyKind.ERROR
        self._scope.ended(self, failure_of(reply, str(self.target)) if failed else reply.outcome)
