"""Forgets sessions that have expired or were deleted, and the states of their agents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from agentray.errors import AgentrayError, ConfigurationError, StoreUnavailable, UnknownAgentType
from agentray.ids import AgentId
from agentray.protocol.envelope import Kind
from agentray.protocol.sessions import Session
from agentray.runtime.channel import Channel
from agentray.runtime.pruner import BATCH, Broom
from agentray.runtime.state_changes import DELETE
from agentray.store.base import Store

logger = logging.getLogger(__name__)

_PAGE = 500
_AT_ONCE = 64  # states that hosts forget at a time
_TIMEOUT_S = 30.0


def session_brooms(store: Store, channel: Channel) -> list[Broom]:
    """Return what lets sessions expire, and what forgets those that are gone."""
    return [partial(_expire, store), _Forgetter(store, channel).sweep]


async def _expire(store: Store, now: datetime) -> int:
    return await store.expire_sessions(now, limit=BATCH)


class _Forgetter:
    def __init__(self, store: Store, channel: Channel) -> None:
        self._store = store
        self._channel = channel

    async def sweep(self, now: datetime) -> int:
        """Forget all sessions that can be; those whose agent cannot be reached wait.

        Returns:
            0: nothing is left that could be forgotten now.
        """
        del now
        after = ""
        while True:
            page = await self._store.gone_sessions(after=after, limit=_PAGE)
            await self._forget(page)
            if len(page) < _PAGE:
                return 0
            after = page[-1].id

    async def _forget(self, sessions: Sequence[Session]) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def cleared(session: Session) -> bool:
            async with room:
                return await self._clear(session)

        done = await asyncio.gather(*(cleared(session) for session in sessions))
        ids = [session.id for session, is_done in zip(sessions, done, strict=True) if is_done]
        if ids:
            await self._store.forget_sessions(ids)
            extra = {"action": "sessions_forgotten", "sessions": len(ids)}
            logger.info("%d sessions are forgotten", len(ids), extra=extra)

    async def _clear(self, session: Session) -> bool:
        """Forget the state of an agent that was made for a session; return whether it is."""
        if not session.owns_agent:
            return True
        agent = AgentId.parse(session.agent)
        try:
            await self._channel.request(Kind.STATE, agent, DELETE, None, timeout=_TIMEOUT_S)
        except (ConfigurationError, UnknownAgentType):
            return True  # it keeps none, or its app is gone, whose states stay
        except StoreUnavailable:
            raise
        except AgentrayError as error:
            extra = {"action": "session_waits", "session": session.id}
            logger.warning("a session is forgotten later: %s", error, extra=extra)
            return False
        return True
