"""Sessions as a driver has them: `manager.sessions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from pydantic import ValidationError

from agentray.agent import Agent
from agentray.errors import ConfigurationError
from agentray.ids import AgentId, check_type_name
from agentray.protocol.access import AccessLevel
from agentray.protocol.sessions import Session, SessionFields, SessionQuery, SessionRun
from agentray.runtime.watcher import ManagerPort


class SessionOptions(TypedDict, total=False):
    """What is said of a session; see `SessionFields` for each of them."""

    access_level: AccessLevel | str
    title: str | None
    labels: Mapping[str, str]
    metadata: Mapping[str, Any]
    ttl_s: float | None


class SessionClient:
    """Makes sessions and looks after them; `manager.prompt(..., session=...)` uses them."""

    def __init__(self, manager: ManagerPort) -> None:
        """Made by the manager's client.

        Args:
            manager: has them.
        """
        self._manager = manager

    async def create(
        self,
        session_id: str | None = None,
        *,
        agent: AgentId | type[Agent] | str | None = None,
        **options: Unpack[SessionOptions],
    ) -> Session:
        """Make a session: a keyed agent and the ordered runs of its prompts.

        Args:
            session_id: its id, such as `ada-7`; None: a new one. One that says the same is found.
            agent: an agent type, which gets an agent of its own for it, or a `type/key`; None: the
                entry of the deployed app.
            options: `access_level` (`public`, `read`, `write`: what the agent's tools may touch),
                `title`, `labels`, `metadata`, and `ttl_s`, seconds without use after which it is
                forgotten.

        Raises:
            ConfigurationError: the id or an option is wrong.
            SessionConflict: another session has the id, or the agent.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take its prompts.
        """
        fields = SessionFields(**_checked(options))
        session, _ = await self._call("create", session_id, _agent(agent), fields)
        return session

    async def get(self, session_id: str) -> Session:
        """Return a session.

        Raises:
            UnknownSession: there is none of this id.
        """
        return await self._call("get", session_id)

    async def list(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        owner: str | None = None,
        agent: AgentId | type[Agent] | str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Session]:
        """Return sessions by their ids, the last one first: for generated ids, the newest.

        Args:
            labels: that they have, all of these.
            owner: id of the API key that made them.
            agent: their agent's type, or their agent.
            before: id of the last one already seen.
            limit: most of them.
        """
        query = query_of(labels or {}, owner, _agent(agent))
        return await self._call("list", query, before, limit)

    async def update(
        self, session_id: str, *, version: int | None = None, **options: Unpack[SessionOptions]
    ) -> Session:
        """Change fields of a session; those that are not named stay.

        Args:
            session_id: its id.
            version: that was read; None: whatever it is by now.
            options: as for `create`; `labels` and `metadata` as a whole.

        Raises:
            UnknownSession: there is none of this id.
            SessionChanged: it is in another version.
            ConfigurationError: an option is wrong.
        """
        return await self._call("update", session_id, _checked(options), version)

    async def delete(self, session_id: str, *, version: int | None = None) -> None:
        """Delete a session: nobody finds it any more, and what it has under way is cancelled.

        The state of an agent that was made for it is forgotten behind that. Its runs stay.

        Args:
            session_id: its id.
            version: that was read; None: whatever it is by now.

        Raises:
            UnknownSession: there is none of this id.
            SessionChanged: it is in another version.
        """
        await self._call("delete", session_id, version)

    async def copy(
        self, session_id: str, copy_id: str | None = None, **options: Unpack[SessionOptions]
    ) -> Session:
        """Make a session that goes on where another one stands, with its history and its state.

        Args:
            session_id: the other one's id.
            copy_id: the new one's; None: a new one.
            options: what differs.

        Raises:
            UnknownSession: there is none of this id.
            SessionConflict: the new id is in use.
            ConfigurationError: the new id or an option is wrong.
        """
        return await self._call("copy", session_id, copy_id, _checked(options))

    async def runs(
        self, session_id: str, *, after: int = 0, limit: int = 50, rolled_back: bool = False
    ) -> Sequence[SessionRun]:
        """Return the history of a session: its runs in their order, the oldest first.

        Args:
            session_id: its id.
            after: number of the last one already seen.
            limit: most of them.
            rolled_back: also those that were rolled back.

        Raises:
            UnknownSession: there is none of this id.
        """
        return await self._call("runs", session_id, after, limit, rolled_back)

    async def _call(self, what: str, *args: Any) -> Any:
        return await self._manager.call("sessions", what, *args)


def query_of(
    labels: Mapping[str, str], owner: str | None, agent: str | None, tenant: str | None = None
) -> SessionQuery:
    """Return which sessions are looked for.

    Raises:
        ConfigurationError: the agent is malformed.
    """
    if agent is None or "/" not in agent:
        type_name = None if agent is None else check_type_name(agent)
        return SessionQuery(dict(labels), owner, type_name, None, tenant)
    wanted = AgentId.parse(agent)
    return SessionQuery(dict(labels), owner, wanted.type, wanted.key, tenant)


def _checked(options: SessionOptions) -> dict[str, Any]:
    """Return options as fields of a session.

    Raises:
        ConfigurationError: one is wrong; it is named.
    """
    try:
        fields = SessionFields.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "options"
        raise ConfigurationError(f"The session's {name}: {first['msg']}.") from error
    return {name: getattr(fields, name) for name in options}


def _agent(agent: AgentId | type[Agent] | str | None) -> str | None:
    match agent:
        case None:
            return None
        case AgentId() | str():
            return str(agent)
        case _:
            return agent.agent_type.name
