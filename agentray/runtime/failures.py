"""Failures on the host's side: why an agent is not started, kept in the Store until it is reset.

Types without failed agents need no look-up: a host asks once per type and change of its leases,
as it does for launched agents.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentray.errors import Fenced
from agentray.ids import AgentId, slot_of
from agentray.protocol.codec import text_of
from agentray.runtime.group_commit import GroupCommit
from agentray.store.supervision import AgentFailure, FailureKind, FailureWrite

if TYPE_CHECKING:
    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)

_MAX_BATCH = 512
_ALL = 1_000_000

_MAX_TRACEBACK = 20_000
"""Characters of a traceback that are kept: its end, which says what went wrong."""


class Failures:
    """Knows which of a host's agents have failed."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._none: set[str] = set()  # types without failed agents
        self._some: set[str] = set()
        self._probes: dict[str, asyncio.Lock] = {}
        self._known_at = 0  # rises with whatever makes an earlier look worthless

        async def load(batch: Sequence[AgentId]) -> Sequence[AgentFailure | None]:
            found = await host.store.load_failures(batch)
            return [found.get(agent) for agent in batch]

        async def keep(batch: Sequence[FailureWrite]) -> Sequence[bool]:
            last = {write.agent: write for write in batch}
            done = await host.store.keep_failures(host.host_id, list(last.values()))
            return [write.agent in done for write in batch]

        sizes = {"max_batch": _MAX_BATCH, "max_waiting": _ALL}
        self._loads = GroupCommit(load, **sizes, name="failure loads")
        self._writes = GroupCommit(keep, **sizes, name="failure writes")

    def is_plain(self, type_name: str) -> bool:
        """Whether no agent of a type has failed, so that there is nothing to look up."""
        return type_name in self._none

    def leases_changed(self) -> None:
        """Forget what may be different now."""
        self._none.clear()
        self._known_at += 1

    async def of(self, agent_id: AgentId) -> AgentFailure | None:
        """Return why an agent has failed; None: it has not, or had other code then."""
        if not await self._any(agent_id.type):
            return None
        known = await self._loads.submit(agent_id)
        if known is None or known.kind is not FailureKind.FAILED:
            return None
        # Other code is another try: nobody should have to reset what a deployment has mended.
        return known if known.code == self._code(agent_id) else None

    async def told(self, agent_id: AgentId) -> dict[str, Any]:
        """Return what is kept of an agent in trouble, whichever that is, for its status."""
        known = (await self._host.store.load_failures([agent_id])).get(agent_id)
        return {} if known is None else told_of(known)

    async def _any(self, type_name: str) -> bool:
        async with self._probes.setdefault(type_name, asyncio.Lock()):
            if type_name not in self._some and type_name not in self._none:
                known_at = self._known_at
                if await self._host.store.types_with_failures([type_name]):
                    self._some.add(type_name)
                elif known_at == self._known_at:
                    self._none.add(type_name)
                else:
                    return True  # something was written meanwhile: look at the agent itself
            return type_name in self._some

    def _code(self, agent_id: AgentId) -> str:
        view = self._host.channel.snapshot.types.get(agent_id.type)
        return view.digest if view is not None else ""

    async def keep(self, agent_id: AgentId, error: BaseException) -> AgentFailure:
        """Note that an agent has failed.

        Raises:
            Fenced: another host leases it; nothing was written.
        """
        failure = AgentFailure(
            agent_id,
            FailureKind.FAILED,
            _storable(f"{type(error).__name__}: {text_of(error)}"),
            _storable("".join(traceback.format_exception(error)))[-_MAX_TRACEBACK:],
            datetime.now(UTC),
            code=self._code(agent_id),
        )
        await self._write(agent_id, failure)
        return failure

    async def forget(self, agent_id: AgentId) -> None:
        """Forget an agent's failure; harmless when it has none.

        Raises:
            Fenced: another host leases it; nothing was written.
        """
        await self._write(agent_id, None)

    async def _write(self, agent_id: AgentId, failure: AgentFailure | None) -> None:
        pool, slot = self._host.pool_of(agent_id) or "", slot_of(agent_id)
        write = FailureWrite(pool, slot, self._host.epoch(pool, slot), agent_id, failure)
        done = await self._writes.submit(write)
        if failure is not None:
            self._none.discard(agent_id.type)
            self._some.add(agent_id.type)
        self._known_at += 1
        if not done:
            raise Fenced


def told_of(failure: AgentFailure) -> dict[str, Any]:
    """Return what a failure adds to its agent's status, as JSON."""
    return {
        "status": failure.kind.value,
        "last_error": failure.error,
        "traceback": failure.traceback,
        "failed_at": failure.at.isoformat(),
        "host_deaths": failure.deaths,
    }


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
