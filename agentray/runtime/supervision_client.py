"""What a connection asks about agents in trouble: a part of `ManagerClient`."""

from __future__ import annotations

from agentray.agent import Agent
from agentray.handle import Handle
from agentray.ids import AgentId
from agentray.runtime.channel import Channel
from agentray.runtime.launcher import AnyAgent, id_of
from agentray.runtime.watcher import ManagerPort
from agentray.store.supervision import AgentFailure, FailureKind

RESET_TIMEOUT_S = 30.0

TROUBLED = (FailureKind.FAILED, FailureKind.QUARANTINED)


class SupervisionClient:
    """See `ManagerClient`."""

    _manager: ManagerPort
    _channel: Channel

    async def failed_agents(
        self, agent_type: type[Agent] | str | None = None, *, limit: int = 100
    ) -> list[AgentFailure]:
        """Return agents that have failed or are quarantined, newest first.

        Args:
            agent_type: only those of this type.
            limit: most of them.

        Returns:
            Each with `agent`, `kind` (failed, quarantined), `error`, `traceback`, `at`, and the
            `deaths` of hosts that it is blamed for.
        """
        name = agent_type if isinstance(agent_type, str | None) else agent_type.agent_type.name
        return await self._manager.call("failed_agents", name, limit)

    async def reset_agent(self, agent: AnyAgent, *, timeout: float = RESET_TIMEOUT_S) -> bool:
        """Let an agent start again that has failed; its errors are counted from none.

        Args:
            agent: its handle, its `AgentId`, or `type/key`.
            timeout: seconds to wait for its host.

        Returns:
            Whether it had failed.

        Raises:
            UnknownAgentType: no deployed app has it.
        """
        target: AgentId = id_of(agent)
        return await Handle(target, self._channel).reset(timeout)
