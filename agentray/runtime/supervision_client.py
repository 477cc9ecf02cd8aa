"""What a connection asks about agents in trouble: a part of `ManagerClient`."""

from __future__ import annotations

from agentray.agent import Agent
from agentray.app import App
from agentray.handle import Handle
from agentray.ids import AgentId
from agentray.launching import Launch
from agentray.patterns.group import GroupAgent
from agentray.protocol.launching import AgentStatus, ShutdownOrder
from agentray.runtime.channel import Channel
from agentray.runtime.launcher import AnyAgent, Launcher, id_of
from agentray.runtime.watcher import ManagerPort
from agentray.store.base import LaunchedQuery
from agentray.store.supervision import AgentFailure, FailureKind

RESET_TIMEOUT_S = 30.0

GROUP_LABEL = "agentray.group"
"""What groups are found by that start with an app; its value is the app's name."""

_GROUP_GRACE_S = 10.0

TROUBLED = (FailureKind.FAILED, FailureKind.QUARANTINED)


class SupervisionClient:
    """See `ManagerClient`."""

    _manager: ManagerPort
    _channel: Channel
    _launcher: Launcher

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

    async def _start_groups(self, app: App) -> None:
        """Launch the groups that an app's classes say start with it; those that run go on.

        Raises:
            AgentFailed: the members of one do not start.
        """
        for agent_type in app.types.values():
            if issubclass(agent_type.cls, GroupAgent):
                for key in agent_type.cls.starts:
                    launch = Launch(agent_type.cls, name=key, labels={GROUP_LABEL: app.name})
                    await self._launcher.launch(launch, None)

    async def _stop_groups(self, app_name: str) -> None:
        """Shut down the groups that have started with an app, the last one first."""
        query = LaunchedQuery(labels={GROUP_LABEL: app_name}, statuses=[AgentStatus.RUNNING])
        for record in await self._launcher.find(query, 1000):  # the newest come first
            await self._launcher.shutdown(
                record.id, ShutdownOrder(_GROUP_GRACE_S), raise_error=False
            )

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
