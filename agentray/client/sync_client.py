"""The client for programs without an event loop: the async one, driven from a thread of its own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from ssl import SSLContext
from typing import Any, Self, TypeVar

from agentray.client.async_client import AsyncAgentClient
from agentray.client.blocking import Blocking, blocking, iterating, tailing
from agentray.client.keys import AsyncKeys
from agentray.client.loop_thread import LoopThread
from agentray.client.operations import AsyncOperations
from agentray.client.requests import AsyncRequests
from agentray.client.schedules import AsyncSchedules
from agentray.client.sessions import AsyncSessions
from agentray.client.webhooks import AsyncWebhooks
from agentray.core.log_limits import StreamLimits

T = TypeVar("T")


class Schedules(Blocking[AsyncSchedules]):
    """Makes schedules and looks after them. Every method raises `ClientError`."""

    create = blocking(AsyncSchedules.create)
    replace = blocking(AsyncSchedules.replace)
    get = blocking(AsyncSchedules.get)
    list = blocking(AsyncSchedules.list)
    pause = blocking(AsyncSchedules.pause)
    resume = blocking(AsyncSchedules.resume)
    delete = blocking(AsyncSchedules.delete)
    trigger = blocking(AsyncSchedules.trigger)


class Sessions(Blocking[AsyncSessions]):
    """Makes sessions and looks after them. Every method raises `ClientError`."""

    create = blocking(AsyncSessions.create)
    get = blocking(AsyncSessions.get)
    list = blocking(AsyncSessions.list)
    update = blocking(AsyncSessions.update)
    delete = blocking(AsyncSessions.delete)
    copy = blocking(AsyncSessions.copy)
    runs = blocking(AsyncSessions.runs)
    history = iterating(AsyncSessions.history)


class Keys(Blocking[AsyncKeys]):
    """Makes API keys and revokes them. Every method raises `ClientError`."""

    create = blocking(AsyncKeys.create)
    get = blocking(AsyncKeys.get)
    list = blocking(AsyncKeys.list)
    revoke = blocking(AsyncKeys.revoke)


class Webhooks(Blocking[AsyncWebhooks]):
    """Looks after webhooks, and the secrets that sign them. Every method raises `ClientError`."""

    list = blocking(AsyncWebhooks.list)
    get = blocking(AsyncWebhooks.get)
    resend = blocking(AsyncWebhooks.resend)
    make_secret = blocking(AsyncWebhooks.make_secret)
    list_secrets = blocking(AsyncWebhooks.list_secrets)
    forget_secret = blocking(AsyncWebhooks.forget_secret)


class Requests(Blocking[AsyncRequests]):
    """Starts typed requests, and looks after their jobs. Every method raises `ClientError`."""

    types = blocking(AsyncRequests.types)
    start = blocking(AsyncRequests.start)
    get = blocking(AsyncRequests.get)
    cancel = blocking(AsyncRequests.cancel)


class Operations(Blocking[AsyncOperations]):
    """Operates the cluster, with an admin's key of no tenant. Every method raises `ClientError`."""

    status = blocking(AsyncOperations.status)
    drain_host = blocking(AsyncOperations.drain_host)
    drain_node = blocking(AsyncOperations.drain_node)
    undrain_node = blocking(AsyncOperations.undrain_node)
    groups = blocking(AsyncOperations.groups)
    failed_agents = blocking(AsyncOperations.failed_agents)
    reset_agent = blocking(AsyncOperations.reset_agent)
    gc = blocking(AsyncOperations.gc)


class AgentClient(Blocking[AsyncAgentClient]):
    """Gives work to agents, and looks after what runs on their cluster, without an event loop.

    Use it as a context manager, or call `close`. It may be shared by threads, and used where an
    event loop runs, as in notebooks. See `AsyncAgentClient` for what is repeated.

    ```python
    with AgentClient() as client:
        run = client.prompt("Hello", agent="greeter/ada")
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
        client = AsyncAgentClient(
            base_url,
            agent_token,
            user_token=user_token,
            tenant=tenant,
            timeout=timeout,
            proxy=proxy,
            ca=ca,
            profile=profile,
        )
        loop = LoopThread()
        super().__init__(client, loop)
        # A client that nobody closes closes itself when it is gone, or the program ends.
        self._close = weakref.finalize(self, loop.close, client.close)

    @property
    def sessions(self) -> Sessions:
        """Conversations: an agent of its own for each, and its ordered runs."""
        return Sessions(self._target.sessions, self._loop)

    @property
    def schedules(self) -> Schedules:
        """Prompts that are given again and again."""
        return Schedules(self._target.schedules, self._loop)

    @property
    def requests(self) -> Requests:
        """The jobs of typed requests."""
        return Requests(self._target.requests, self._loop)

    @property
    def operations(self) -> Operations:
        """What operators do: drain hosts and nodes, reset failed agents."""
        return Operations(self._target.operations, self._loop)

    @property
    def keys(self) -> Keys:
        """API keys: who may do what."""
        return Keys(self._target.keys, self._loop)

    @property
    def webhooks(self) -> Webhooks:
        """Who is told of the ends of runs."""
        return Webhooks(self._target.webhooks, self._loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; harmless when called twice."""
        self._close()

    def do(self, work: Callable[[AsyncAgentClient], Coroutine[Any, Any, T]]) -> T:
        """Do something with the asynchronous client, on its own event loop, and wait for it.

        Args:
            work: an asynchronous function of that client.
        """
        return self._loop.call(lambda: work(self._target))

    # Prompts and runs

    prompt = blocking(AsyncAgentClient.prompt)
    stream = iterating(AsyncAgentClient.stream)
    run = blocking(AsyncAgentClient.run)
    cancel = blocking(AsyncAgentClient.cancel)
    answer = blocking(AsyncAgentClient.answer)
    runs = blocking(AsyncAgentClient.runs)
    events = iterating(AsyncAgentClient.events)
    trace = blocking(AsyncAgentClient.trace)

    # Dead letters

    dead_letters = blocking(AsyncAgentClient.dead_letters)
    dead_letter = blocking(AsyncAgentClient.dead_letter)
    retry_dead_letter = blocking(AsyncAgentClient.retry_dead_letter)
    forget_dead_letter = blocking(AsyncAgentClient.forget_dead_letter)
    purge_dead_letters = blocking(AsyncAgentClient.purge_dead_letters)

    # Jobs

    submit_job = blocking(AsyncAgentClient.submit_job)
    upload = blocking(AsyncAgentClient.upload)
    list_jobs = blocking(AsyncAgentClient.list_jobs)
    job_page = blocking(AsyncAgentClient.job_page)
    all_jobs = iterating(AsyncAgentClient.all_jobs)
    get_job = blocking(AsyncAgentClient.get_job)
    get_job_logs = blocking(AsyncAgentClient.get_job_logs)
    list_job_logs = blocking(AsyncAgentClient.list_job_logs)
    stop_job = blocking(AsyncAgentClient.stop_job)
    delete_job = blocking(AsyncAgentClient.delete_job)
    tail_job_logs = tailing(AsyncAgentClient.tail_job_logs)
    websocket_tail_job_logs = tailing(AsyncAgentClient.websocket_tail_job_logs)
    stream_tail_job_logs = tailing(AsyncAgentClient.stream_tail_job_logs)
    follow_job = tailing(AsyncAgentClient.follow_job)

    @property
    def stream_limits(self) -> StreamLimits:
        """What the tail of a log is worth, at most; it holds for tails that begin from then on."""
        return self._target.stream_limits

    @stream_limits.setter
    def stream_limits(self, limits: StreamLimits) -> None:
        self._target.stream_limits = limits

    # The cluster

    health_check = blocking(AsyncAgentClient.health_check)
    get_gpu_status = blocking(AsyncAgentClient.get_gpu_status)
    list_nodes = blocking(AsyncAgentClient.list_nodes)
    get_node = blocking(AsyncAgentClient.get_node)
    list_tasks = blocking(AsyncAgentClient.list_tasks)
    get_task = blocking(AsyncAgentClient.get_task)
    list_actors = blocking(AsyncAgentClient.list_actors)
    get_actor = blocking(AsyncAgentClient.get_actor)
    list_serve_applications = blocking(AsyncAgentClient.list_serve_applications)
    get_serve_application = blocking(AsyncAgentClient.get_serve_application)
    delete_serve_application = blocking(AsyncAgentClient.delete_serve_application)
    get_cluster_resources = blocking(AsyncAgentClient.get_cluster_resources)
    check_feasibility = blocking(AsyncAgentClient.check_feasibility)
    get_runtime_policy = blocking(AsyncAgentClient.get_runtime_policy)
    update_runtime_policy = blocking(AsyncAgentClient.update_runtime_policy)
    get_gatekeeping_policy = blocking(AsyncAgentClient.get_gatekeeping_policy)
    update_gatekeeping_policy = blocking(AsyncAgentClient.update_gatekeeping_policy)

    # The gateway

    ready = blocking(AsyncAgentClient.ready)
