"""What a driver without `await` does with agents."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from agentray.agent import Agent, AgentOptions
from agentray.handle import Handle
from agentray.ids import AgentId
from agentray.launching import LAUNCH_TIMEOUT_S, AgentRecord, Launch, Lifetime
from agentray.protocol.launching import AgentStatus
from agentray.runtime.launcher import AnyAgent, ReturnWhen
from agentray.runtime.supervision_client import RESET_TIMEOUT_S
from agentray.runtime.sync_part import SyncPart
from agentray.store.supervision import AgentFailure

A = TypeVar("A", bound=Agent)


class SyncAgents(SyncPart):
    """What `LaunchClient` and `SupervisionClient` do, in methods that block."""

    def handle(self, agent: AgentId | type[A] | str, key: str | None = None) -> Handle[A]:
        """Return a handle to an agent; `.sync` of it has the actions that block."""
        return self._manager.handle(agent, key)

    def launch(  # noqa: PLR0913 - as ManagerClient's
        self,
        agent: type[A] | A | Handle[A],
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str | None = None,
        options: AgentOptions | None = None,
        max_retries: int | None = None,
        lifetime: Lifetime | None = None,
        timeout: float | None = LAUNCH_TIMEOUT_S,
    ) -> Handle[A]:
        """Start an agent, and return when it has started."""
        return self._wait(
            self._manager.launch(
                agent,
                args=args,
                kwargs=kwargs,
                name=name,
                labels=labels,
                pool=pool,
                options=options,
                max_retries=max_retries,
                lifetime=lifetime,
                timeout=timeout,
            )
        )

    def launch_batch(
        self, launches: Sequence[Launch[Any]], *, timeout: float | None = LAUNCH_TIMEOUT_S
    ) -> list[Handle[Any]]:
        """Start several agents, all or none."""
        return self._wait(self._manager.launch_batch(launches, timeout=timeout))

    def register(  # noqa: PLR0913 - all that there is to say of one
        self,
        agent: type[A] | A,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str | None = None,
        options: AgentOptions | None = None,
        max_retries: int | None = None,
        lifetime: Lifetime | None = None,
    ) -> Handle[A]:
        """Keep how an agent is to be made, without starting it."""
        return self._wait(
            self._manager.register(
                agent,
                args=args,
                kwargs=kwargs,
                name=name,
                labels=labels,
                pool=pool,
                options=options,
                max_retries=max_retries,
                lifetime=lifetime,
            )
        )

    def register_many(self, launches: Sequence[Launch[Any]]) -> list[Handle[Any]]:
        """Keep how several agents are to be made, all or none, without starting them."""
        return self._wait(self._manager.register_many(launches))

    def get_handle(self, agent: AnyAgent) -> Handle[Any]:
        """Return the handle of an agent that was registered or launched."""
        return self._wait(self._manager.get_handle(agent))

    def find(
        self,
        *,
        type: type[Agent] | str | None = None,  # noqa: A002 - the word for it
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        action: str | None = None,
        status: AgentStatus | str | None = None,
        limit: int = 1000,
    ) -> list[AgentRecord]:
        """Return agents that were registered or launched, newest first."""
        return self._wait(
            self._manager.find(
                type=type, name=name, labels=labels, action=action, status=status, limit=limit
            )
        )

    def running(self, limit: int = 10_000) -> list[AgentId]:
        """Return agents of all drivers that were launched and have not ended, or are in memory."""
        return self._wait(self._manager.running(limit))

    def wait(
        self,
        agents: Collection[AnyAgent],
        *,
        return_when: ReturnWhen = "ALL_COMPLETED",
        timeout: float | None = None,
    ) -> tuple[set[Handle[Any]], set[Handle[Any]]]:
        """Wait until launched agents have ended: were shut down, or failed."""
        return self._wait(self._manager.wait(agents, return_when=return_when, timeout=timeout))

    def shutdown(
        self,
        agent: AnyAgent,
        *,
        blocking: bool = True,
        grace_s: float = 10.0,
        terminate: bool = False,
        delete_state: bool = False,
        raise_error: bool = False,
    ) -> None:
        """Shut an agent down: from now on its callers get `AgentStopped`, until it is launched."""
        self._wait(
            self._manager.shutdown(
                agent,
                blocking=blocking,
                grace_s=grace_s,
                terminate=terminate,
                delete_state=delete_state,
                raise_error=raise_error,
            )
        )

    def failed_agents(
        self, agent_type: type[Agent] | str | None = None, *, limit: int = 100
    ) -> list[AgentFailure]:
        """Return agents that have failed or are quarantined, newest first."""
        return self._wait(self._manager.failed_agents(agent_type, limit=limit))

    def reset_agent(self, agent: AnyAgent, *, timeout: float = RESET_TIMEOUT_S) -> bool:
        """Let an agent start again that has failed; its errors are counted from none."""
        return self._wait(self._manager.reset_agent(agent, timeout=timeout))
