"""The client for asyncio programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from ssl import SSLContext
from typing import Self

from agentray.client.access import Access
from agentray.client.calls import health
from agentray.client.cluster import AsyncCluster
from agentray.client.connection import Connection
from agentray.client.jobs import AsyncJobs
from agentray.client.keys import AsyncKeys
from agentray.client.letters import AsyncLetters
from agentray.client.operations import AsyncOperations
from agentray.client.requests import AsyncRequests
from agentray.client.runs import AsyncRuns
from agentray.client.schedules import AsyncSchedules
from agentray.client.sessions import AsyncSessions
from agentray.client.transport import Transport
from agentray.client.webhooks import AsyncWebhooks


class AsyncAgentClient(AsyncRuns, AsyncLetters, AsyncJobs, AsyncCluster):
    """Gives work to agents, and looks after what runs on their cluster.

    Use it as a context manager, or call `close`. Requests that a gateway cannot take now (no
    connection, 503, 429, the error page of a proxy that lost it) are repeated while the timeout
    lasts, where that is safe: whatever only looks, and what carries an idempotency key, as every
    prompt does.

    ```python
    async with AsyncAgentClient() as client:
        run = await client.prompt("Hello", agent="greeter/ada")
    ```
    """

    def __init__(
        self,
        base_url: str | None = None,
        agent_token: str | None = None,
        *,
        user_token: str | None = None,
        tenant: str | None = None,
        timeout: float | Mapping[str, float] | None = None,
        proxy: str | None = None,
        ca: str | Path | SSLContext | None = None,
        profile: str | None = None,
    ) -> None:
        """Make one; nothing is connected yet.

        Args:
            base_url: of the gateway, also with a path before its own, and with or without `/v1`;
                None: `AGENTRAY_URL`, else a profile, else the cluster of this machine.
            agent_token: an API key; None: `AGENTRAY_API_KEY`, else that of the profile or of this
                machine's cluster.
            user_token: on whose behalf: a fingerprint of it is recorded with what is made.
            tenant: for whom, where the key belongs to none.
            timeout: seconds that a call may take, repeats included, beyond what the gateway itself
                waits for; None: 30. Or a dict of such seconds: `connect`, until a connection is
                there; `read`, until an answer comes; `total`.
            proxy: URL of an HTTP proxy; None: as the environment's `HTTPS_PROXY`, `HTTP_PROXY` and
                `NO_PROXY` say, which hold for no loopback address.
            ca: file of the certificates to be trusted, or an SSL context; None: the system's.
            profile: a gateway of `profiles.toml` by its name; None: `AGENTRAY_PROFILE`, else the
                file's default.

        Raises:
            ClusterNotRunning: no URL is given, and nothing is up on this machine.
            ConfigurationError: one of the arguments is malformed.
        """
        access = Access.find(
            base_url, agent_token, user_token=user_token, tenant=tenant, profile=profile
        )
        way = Transport.read(access.url, timeout, proxy or access.proxy, ca or access.ca)
        super().__init__(Connection(access, way))

    @property
    def sessions(self) -> AsyncSessions:
        """Conversations: an agent of its own for each, and its ordered runs."""
        return AsyncSessions(self._connection)

    @property
    def schedules(self) -> AsyncSchedules:
        """Prompts that are given again and again."""
        return AsyncSchedules(self._connection)

    @property
    def requests(self) -> AsyncRequests:
        """The jobs of typed requests."""
        return AsyncRequests(self._connection)

    @property
    def operations(self) -> AsyncOperations:
        """What operators do: drain hosts and nodes, reset failed agents."""
        return AsyncOperations(self._connection)

    @property
    def keys(self) -> AsyncKeys:
        """API keys: who may do what."""
        return AsyncKeys(self._connection)

    @property
    def webhooks(self) -> AsyncWebhooks:
        """Who is told of the ends of runs."""
        return AsyncWebhooks(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; harmless when called twice."""
        await self._connection.close()

    async def ready(self) -> list[str]:
        """Return what is missing before prompts can be served; empty when ready. Never retried.

        Raises:
            ConnectionFailed: no gateway answers.
            ClientError: what answers is no gateway.
        """
        return health.missing_parts(await self._connection.exchange(health.get_ready()))
