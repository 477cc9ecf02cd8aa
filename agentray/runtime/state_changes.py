"""Changes of an agent's state from outside of it: an operator loads or deletes it.

They happen on the host that leases the agent, in a gap between its handlers: what it does is
finished and committed first, it leaves memory, and what comes meanwhile waits for its successor,
which reads the new state. The write is fenced like every other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from agentray.agent import Agent, AgentType
from agentray.errors import (
    ConfigurationError,
    Fenced,
    PayloadError,
    StateInvalid,
    StateRefused,
    StateTooNew,
)
from agentray.ids import AgentId, slot_of
from agentray.protocol.codec import as_json, decode, text_of
from agentray.protocol.envelope import ReplyKind
from agentray.runtime.incarnation import Incarnation
from agentray.runtime.own_turn import Once, own_turn
from agentray.runtime.turn import Turn
from agentray.store.base import CommitOutcome, Effects, SlotLease, StateWrite

if TYPE_CHECKING:
    from agentray.runtime.host import Host

T = TypeVar("T")

LOAD, DELETE, CHECK = "load", "delete", "check"
"""The `name` of a `STATE` envelope."""


class StateChanges:
    """Makes them on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def handle(self, turn: Turn) -> None:
        """Make the change that a message asks for, and answer it.

        Raises:
            StateError, ConfigurationError: it cannot be made; nothing has changed.
        """
        agent_id = turn.envelope.target
        kind = self._host.types[agent_id.type].type
        if not kind.keeps_state:
            raise ConfigurationError(f"Agents of the type {kind.name} keep no state.")
        if turn.envelope.name == CHECK:
            for state in decode(turn.envelope.payload):
                write = checked(state.agent, kind, dict(state.state), state.schema_version)
                _check_size(write, self._host.max_state_bytes)
                await asyncio.sleep(0)  # there may be many, and a model may take its time
            turn.reply(ReplyKind.VALUE)
            return
        write = None
        if turn.envelope.name == LOAD:
            write = checked(agent_id, kind, *decode(turn.envelope.payload))
            _check_size(write, self._host.max_state_bytes)
        try:
            await self.between_handlers(agent_id, kind, partial(self._write, agent_id, write))
            await self._host.failures.forget(agent_id)  # it may have failed because of its state
        except Fenced:
            turn.reply(ReplyKind.MOVED)
        else:
            turn.reply(ReplyKind.VALUE)

    async def between_handlers(
        self, agent_id: AgentId, kind: AgentType, change: Callable[[], Awaitable[T]]
    ) -> T:
        """Change what is kept of an agent while none of it is in memory; its messages wait.

        Args:
            agent_id: which.
            kind: its type.
            change: what is done.

        Raises:
            Fenced: `change` says that the agent lives elsewhere.
        """
        agent = await self._paused(agent_id, kind)
        try:
            await agent.until_quiet()
        except BaseException:
            agent.ready()  # given up: it goes on as it was
            raise
        try:
            background = self._host.background
            await background.ended(agent, background.cancel(agent))
            await agent.stop()
            return await change()
        finally:
            self._host.residents.succeed(agent)

    async def _paused(self, agent_id: AgentId, kind: AgentType) -> Incarnation:
        """Return the agent with all its messages waiting; one that is not there gets a place."""
        while True:
            agent = self._host.find(agent_id)
            if agent is None or agent.failure is not None:
                return self._host.residents.reserve(agent_id, kind)
            if agent.status != "starting":
                agent.pause()
                return agent
            await _until_started(agent)

    async def _write(self, agent_id: AgentId, write: StateWrite | None) -> None:
        if write is not None:
            await self._host.commit_states(agent_id, [write])
            return
        host = self._host
        pool, slot = host.pool_of(agent_id) or "", slot_of(agent_id)
        lease = SlotLease(pool, slot, host.host_id, host.epoch(pool, slot))
        # A commit whose handler was cancelled may still be under way: it must not come after.
        await host.commits.submit(Effects(pool, slot, lease.epoch))
        outcome = await host.store.delete_state(host.host_id, agent_id, lease)
        host.judged([(pool, slot, lease.epoch)], [outcome])
        if outcome is not CommitOutcome.COMMITTED:
            raise Fenced


def checked(
    agent_id: AgentId, kind: AgentType, data: dict[str, Any], version: int | None
) -> StateWrite:
    """Return the write of a state that the agent's code can read.

    Args:
        agent_id: whose it will be.
        kind: its type.
        data: the state.
        version: of the data; None: the code's.

    Raises:
        StateTooNew, StateInvalid: it cannot. What a `load_state` of the agent's own makes of it
            shows when the agent starts.
    """
    name = str(agent_id)
    version = kind.state_version if version is None else version
    if version > kind.state_version:
        raise StateTooNew(name, version, kind.state_version)
    try:
        plain = as_json(data, "state")
        migrated = dict(plain)
        if version < kind.state_version:
            migrated = kind.cls.migrate_state(migrated, version)
        if kind.state_model is not None and kind.cls.load_state is Agent.load_state:
            kind.state_model.model_validate(migrated)
    except PayloadError as error:
        raise StateRefused(name, str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise StateInvalid(name, version, field, f"{first['msg']}.") from error
    except Exception as error:
        raise StateInvalid(
            name, version, "", f"{type(error).__name__}: {text_of(error)}"
        ) from error
    return StateWrite(agent_id, plain, version)


def _check_size(write: StateWrite, max_bytes: int) -> None:
    size = len(json.dumps(write.state, ensure_ascii=False).encode())
    if size > max_bytes:
        raise StateRefused(
            str(write.agent),
            f"it is {size:,} bytes of JSON, and AGENTRAY_MAX_STATE_BYTES is {max_bytes:,}.",
        )


async def _until_started(agent: Incarnation) -> None:
    """Wait until an agent has started or failed.

    Raises:
        Fenced: it was let go before that.
        AgentrayError: it takes nothing more.
    """
    sink = Once()
    # A turn of its own, for which there is always room.
    agent.offer_own(own_turn(agent.id, "started", _nothing, sink))
    error = await sink.ended
    if error is not None and agent.refusal is None:
        raise error


async def _nothing() -> None:
    """Do nothing: that it is done says that the agent has started."""
