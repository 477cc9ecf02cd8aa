"""Agents, their sessions and prompts as objects.

::

    agent = Agent("assistant")
    prompt = await agent.prompt_async("What is new?")  # or agent.prompt("What is new?")
    print(prompt.response)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from agentray.client.async_client import AsyncAgentClient
from agentray.client.calls.jobs import JobOptions
from agentray.client.communicator import (
    DEFAULT_TIMEOUT_S,
    AsynchronousCommunicator,
    using,
    with_client,
)
from agentray.client.sync_client import AgentClient
from agentray.protocol.access import AccessLevel
from agentray.protocol.cursors import Cursor
from agentray.protocol.runs import RunEvent
from agentray.protocol.sessions import Session


@dataclass
class AgentPrompt(AsynchronousCommunicator):
    """A prompt, and in the end its response.

    Attributes:
        prompt: what is asked.
        agent: an agent type or type/key; None: the session's agent, or the app's entry.
        session_id: the session that it is given in.
        response: the answer as text; None: it has not completed. A result that is no text is JSON.
        result: the answer as it is.
        enable_trace: get the trace, too, when it has completed.
        trace: what happened, in order; None: it was not asked for.
    """

    prompt: str
    agent: str | None = None
    session_id: str | None = None
    response: str | None = None
    result: Any = None
    enable_trace: bool = False
    trace: list[RunEvent] | None = None

    request_type: ClassVar[str] = "prompt"

    @property
    def id(self) -> str | None:
        """Its job's token, which is its run's id; None: it was not sent."""
        return self.token

    def to_request(self) -> Mapping[str, Any]:
        """Return what is asked."""
        return {"prompt": self.prompt}

    def job_options(self) -> JobOptions:
        """Return who is asked."""
        return {"agent": self.agent, "session": self.session_id}

    def fill_from_response(self, response: Any) -> None:
        """Take the answer in."""
        self.result = response
        self.response = as_text(response)

    async def post_exchange_async(self, client: AsyncAgentClient, **kwargs: Any) -> None:
        """Get the trace, if it is wanted.

        Args:
            client: that was used.
            kwargs: `newer_than`: only what has a higher offset.
        """
        newer_than: int | None = kwargs.get("newer_than")
        if self.enable_trace and self.token is not None:
            after = Cursor().offset if newer_than is None else newer_than
            self.trace = [event async for event in client.events(self.token, after)]


def as_text(result: Any) -> str:
    """Return the result of a run as a text: its `text` where it has that alone, else JSON."""
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        told = cast("dict[str, Any]", result)
        if told.keys() == {"text"} and isinstance(told["text"], str):
            return told["text"]
    return json.dumps(result, ensure_ascii=False)


@dataclass
class AgentSession:
    """A session: an agent of its own that keeps its state from prompt to prompt.

    Attributes:
        id: None until it was started.
        agent: an agent type or type/key; None: the app's entry.
        access_level: what the agent's tools may touch.
        session: as the gateway has it; None until it was started or got.
        chat_history: the prompts that were sent by this object, in their order.
    """

    id: str | None = None
    agent: str | None = None
    access_level: AccessLevel = AccessLevel.PUBLIC
    session: Session | None = None
    chat_history: list[AgentPrompt] = field(default_factory=list[AgentPrompt])

    async def start_async(self, *, client: AsyncAgentClient | None = None) -> AgentSession:
        """Start it, under its `id` if it has one.

        Raises:
            ClientError: the gateway refuses, or cannot be reached.
        """
        async with using(client) as used:
            made = await used.sessions.create(
                self.id, agent=self.agent, access_level=self.access_level
            )
        return self._filled(made)

    async def get_async(self, *, client: AsyncAgentClient | None = None) -> AgentSession:
        """Read it.

        Raises:
            ValueError: it has no id.
            NotFound: there is none of its id.
            ClientError: the gateway refuses, or cannot be reached.
        """
        async with using(client) as used:
            return self._filled(await used.sessions.get(self._its_id()))

    async def update_async(self, *, client: AsyncAgentClient | None = None) -> AgentSession:
        """Write its access level.

        Raises:
            ValueError: it has no id.
            ClientError: the gateway refuses, or cannot be reached.
        """
        async with using(client) as used:
            changed = await used.sessions.update(self._its_id(), access_level=self.access_level)
        return self._filled(changed)

    async def prompt_async(
        self,
        prompt: str,
        enable_trace: bool = False,
        newer_than: int | None = None,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        show_progress: bool = False,
        client: AsyncAgentClient | None = None,
    ) -> AgentPrompt:
        """Give it a prompt; return that when it has its response.

        Args:
            prompt: what is asked.
            enable_trace: get the trace, too.
            newer_than: of the trace, only what has a higher offset.
            timeout: seconds without any progress.
            show_progress: show a bar.
            client: None: one for this call alone.

        Raises:
            ValueError: it was not started.
            JobFailed, JobTimedOut, ClientError: see `AsynchronousCommunicator`.
        """
        asked = AgentPrompt(prompt, session_id=self._its_id(), enable_trace=enable_trace)
        self.chat_history.append(asked)
        return await asked.send_job_and_wait_async(
            {"newer_than": newer_than}, timeout, client=client, show_progress=show_progress
        )

    def start(self, *, client: AgentClient | None = None) -> AgentSession:
        """Do as `start_async`, and block meanwhile."""
        return with_client(client, lambda used: self.start_async(client=used))

    def get(self, *, client: AgentClient | None = None) -> AgentSession:
        """Do as `get_async`, and block meanwhile."""
        return with_client(client, lambda used: self.get_async(client=used))

    def update(self, *, client: AgentClient | None = None) -> AgentSession:
        """Do as `update_async`, and block meanwhile."""
        return with_client(client, lambda used: self.update_async(client=used))

    def prompt(
        self,
        prompt: str,
        enable_trace: bool = False,
        newer_than: int | None = None,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        show_progress: bool = False,
        client: AgentClient | None = None,
    ) -> AgentPrompt:
        """Do as `prompt_async`, and block meanwhile."""
        return with_client(
            client,
            lambda used: self.prompt_async(
                prompt, enable_trace, newer_than, timeout=timeout, show_progress=show_progress,
                client=used,
            ),
        )  # fmt: skip

    def _its_id(self) -> str:
        if self.id is None:
            raise ValueError("This session has no id: start it first, or say which one it is.")
        return self.id

    def _filled(self, session: Session) -> AgentSession:
        self.session = session
        self.id, self.agent, self.access_level = session.id, session.agent, session.access_level
        return self


@dataclass
class Agent:
    """An agent type, and the sessions with it.

    Attributes:
        type: the agent type; None: the app's entry.
        sessions: those that were started or got, by id.
        current_session: in which prompts are given that name none.
    """

    type: str | None = None
    sessions: dict[str, AgentSession] = field(default_factory=dict[str, AgentSession])
    current_session: AgentSession | None = None

    async def start_session_async(
        self,
        access_level: AccessLevel = AccessLevel.PUBLIC,
        *,
        client: AsyncAgentClient | None = None,
    ) -> AgentSession:
        """Start a session, which is the current one from then on.

        Raises:
            ClientError: the gateway refuses, or cannot be reached.
        """
        session = AgentSession(agent=self.type, access_level=access_level)
        return self._take(await session.start_async(client=client))

    async def get_session_async(
        self, session_id: str, *, client: AsyncAgentClient | None = None
    ) -> AgentSession:
        """Read a session, which is the current one from then on. One that is known stays itself.

        Raises:
            NotFound: there is none of this id.
            ClientError: the gateway refuses, or cannot be reached.
        """
        session = self.sessions.get(session_id) or AgentSession(id=session_id)
        return self._take(await session.get_async(client=client))

    async def prompt_async(
        self,
        prompt: str,
        enable_trace: bool = False,
        newer_than: int | None = None,
        *,
        session: AgentSession | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        show_progress: bool = False,
        client: AsyncAgentClient | None = None,
    ) -> AgentPrompt:
        """Give a prompt in a session; return it when it has its response.

        Args:
            prompt: as in `AgentSession.prompt_async`, and so are those below.
            enable_trace: see there.
            newer_than: see there.
            session: None: the current one, or a new one.
            timeout: see there.
            show_progress: see there.
            client: see there.

        Raises:
            JobFailed, JobTimedOut, ClientError: see `AsynchronousCommunicator`.
        """
        async with using(client) as used:
            chosen = session or self.current_session
            if chosen is None:
                chosen = await self.start_session_async(client=used)
            self._take(chosen)
            return await chosen.prompt_async(
                prompt, enable_trace, newer_than, timeout=timeout, show_progress=show_progress,
                client=used,
            )  # fmt: skip

    def start_session(
        self, access_level: AccessLevel = AccessLevel.PUBLIC, *, client: AgentClient | None = None
    ) -> AgentSession:
        """Do as `start_session_async`, and block meanwhile."""
        return with_client(client, lambda used: self.start_session_async(access_level, client=used))

    def get_session(self, session_id: str, *, client: AgentClient | None = None) -> AgentSession:
        """Do as `get_session_async`, and block meanwhile."""
        return with_client(client, lambda used: self.get_session_async(session_id, client=used))

    def prompt(
        self,
        prompt: str,
        enable_trace: bool = False,
        newer_than: int | None = None,
        *,
        session: AgentSession | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        show_progress: bool = False,
        client: AgentClient | None = None,
    ) -> AgentPrompt:
        """Do as `prompt_async`, and block meanwhile."""
        return with_client(
            client,
            lambda used: self.prompt_async(
                prompt, enable_trace, newer_than, session=session, timeout=timeout,
                show_progress=show_progress, client=used,
            ),
        )  # fmt: skip

    def get_chat_history(self) -> list[AgentPrompt]:
        """Return the prompts of the current session that were sent by this object."""
        return [] if self.current_session is None else list(self.current_session.chat_history)

    def _take(self, session: AgentSession) -> AgentSession:
        if session.id is not None:
            self.sessions[session.id] = session
        self.current_session = session
        return session
