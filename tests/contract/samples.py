"""Samples of what a store keeps, and short ways to say what a test is about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, cast

import asyncpg

from agentray.ids import AgentId
from agentray.protocol.runs import RunEvent, RunStatus
from agentray.store.base import Effects, HostRow, NewRun, RunEnd, SlotLease, StateWrite, Store

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
ADA = AgentId("greeter", "ada")

_numbers = count()


def at(seconds: float) -> datetime:
    """A time after T0."""
    return T0 + timedelta(seconds=seconds)


def new_run(run_id: str = "", **fields: Any) -> NewRun:
    """A run that nobody else has; later ones have greater ids."""
    defaults: dict[str, Any] = {
        "agent": ADA,
        "pool": "default",
        "slot": 0,
        "input": {"text": "hello"},
        "correlation_id": "cor_1",
        "created_at": T0,
    }
    return NewRun(id=run_id or f"run_{next(_numbers):08}", **{**defaults, **fields})


def events(first: int, number: int) -> list[RunEvent]:
    """Consecutive events."""
    return [
        RunEvent(offset=n, kind="progress", time=at(n), data={"n": n})
        for n in range(first, first + number)
    ]


def end(run_id: str, status: RunStatus = RunStatus.SUCCEEDED, **fields: Any) -> RunEnd:
    """The end of a run."""
    defaults: dict[str, Any] = {
        "result": {"answer": 42},
        "error": None,
        "started_at": at(1),
        "finished_at": at(2),
    }
    return RunEnd(run_id=run_id, status=status, **{**defaults, **fields})


def effects(epoch: int = 1, *, slot: int = 0, **fields: Any) -> Effects:
    """Effects for a slot of the pool `default`."""
    return Effects(pool="default", slot=slot, epoch=epoch, **fields)


def state(n: int, agent: AgentId = ADA) -> StateWrite:
    """A state of an agent."""
    return StateWrite(agent, {"n": n})


def host(host_id: str = "h1", status: str = "live", **fields: Any) -> HostRow:
    """A host."""
    return HostRow(host_id, "default", f"actor-{host_id}", status, **fields)


def lease(host_id: str | None = "h1", slot: int = 0, epoch: int = 0) -> SlotLease:
    """A lease in the pool `default`."""
    return SlotLease("default", slot, host_id, epoch)


async def admit_one(store: Store, **fields: Any) -> str:
    """Admit one run; return its id."""
    (admission,) = await store.admit([new_run(**fields)])
    return admission.run.id


async def serve(store: Store, host_id: str = "h1", slots: Sequence[int] = (0,)) -> None:
    """Let a host be live and lease slots."""
    await store.put_host(host(host_id))
    await store.assign_slots([lease(host_id, slot) for slot in slots])


async def connect(dsn: str) -> Any:
    """Open a bare connection, for what a store does not show."""
    untyped = cast("Any", asyncpg)
    return await untyped.connect(dsn, server_settings={"search_path": "agentray"})


async def empty(dsn: str) -> None:
    """Delete every row of a PostgreSQL store, but not its schema."""
    connection = await connect(dsn)
    try:
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'agentray'"
            " AND tablename <> 'migrations'"
        )
        await connection.execute(
            ";".join(f"DELETE FROM agentray.{table['tablename']}" for table in tables)
        )
    finally:
        await connection.close()
