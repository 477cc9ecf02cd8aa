"""Rows of runs that are kept at their end only: when they are written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from agentray.ids import AgentId
from agentray.protocol.runs import Run, RunStatus
from agentray.runtime.late_rows import PATIENCE_S, WRITE_S, LateRows
from agentray.runtime.tasks import TaskSet
from agentray.store.base import EndedRun, NewRun, RunEnd
from agentray.testing import run as run_in_virtual_time

_NOW = datetime.now(UTC)


class _Written:
    """Notes when how many rows are written."""

    def __init__(self) -> None:
        self.at: list[tuple[float, int]] = []

    async def keep_ended(self, runs: Sequence[EndedRun]) -> None:
        self.at.append((asyncio.get_running_loop().time(), len(runs)))


def _run(number: int) -> Run:
    return Run(
        id=f"run_{number}",
        status=RunStatus.SUCCEEDED,
        agent="writer/one",
        correlation_id="",
        created_at=_NOW,
    )


def _row(run: Run) -> EndedRun:
    new = NewRun(run.id, AgentId("writer", "one"), "default", 0, {}, "", _NOW, "")
    return EndedRun(new, RunEnd(run.id, run.status, None, None, _NOW, _NOW), (), None)


def _late_rows() -> tuple[LateRows, _Written]:
    written = _Written()
    return LateRows(cast("Any", written), TaskSet("rows")), written


def _add(late: LateRows, number: int) -> None:
    run = _run(number)
    late.add(run, (), partial(_row, run))


def test_a_row_by_itself_waits_for_no_others() -> None:
    async def scenario() -> None:
        late, written = _late_rows()
        begun = asyncio.get_running_loop().time()
        _add(late, 1)
        assert late.find("run_1") is not None
        await asyncio.sleep(2 * WRITE_S)
        [(at, count)] = written.at
        assert count == 1
        assert at - begun < 2 * WRITE_S
        assert late.find("run_1") is None

    run_in_virtual_time(scenario())


def test_rows_are_written_together_while_more_come_and_not_too_late() -> None:
    async def scenario() -> None:
        late, written = _late_rows()
        begun = asyncio.get_running_loop().time()
        for number in range(200):
            _add(late, number)
            await asyncio.sleep(0.01)
        await asyncio.sleep(2 * PATIENCE_S)
        assert sum(count for _, count in written.at) == 200
        assert 3 <= len(written.at) <= 6
        assert written.at[0][0] - begun <= PATIENCE_S + WRITE_S

    run_in_virtual_time(scenario())
