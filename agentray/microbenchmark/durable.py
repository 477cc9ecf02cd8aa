"""What it costs that runs are durable: prompts per second, beside the same path without commits.

In a process of its own, with an embedded database of its own: the Store of a cluster that runs
cannot be swapped for one that forgets. Channel, hosts and group commit are those of a cluster, in
one process (`LocalRuntime`), so that both sides of the comparison differ in the commits alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from agentray.app import App
from agentray.event_loop import run
from agentray.microbenchmark.agents import DurableEcho
from agentray.microbenchmark.apart import measured_apart, own_database
from agentray.microbenchmark.rows import Row, at_least, median_of, per_second
from agentray.microbenchmark.scale import Scale
from agentray.protocol.runs import RunStatus
from agentray.runtime import collector
from agentray.runtime.manager_client import ManagerClient
from agentray.store.base import Admission, CommitOutcome, Effects, NewRun, StoredRun
from agentray.store.postgres import PostgresStore
from agentray.testing import LocalRuntime

_IN_FLIGHT = 256


class WithoutCommits(PostgresStore):
    """A store whose commits of runs return at once, and keep nothing."""

    async def admit(self, runs: Sequence[NewRun]) -> list[Admission]:
        """Say that all are new."""
        return [Admission(StoredRun.fresh(run).run, created=True) for run in runs]

    async def commit(self, host: str, batch: Sequence[Effects]) -> list[CommitOutcome]:
        """Say that all was written."""
        del host
        return [CommitOutcome.COMMITTED] * len(batch)


async def measure_durable(scale: Scale) -> list[Row]:
    """Measure in a process of its own.

    Raises:
        RuntimeError: that process failed; the message is what it said.
    """
    value, baseline = await measured_apart(__name__, scale.rounds, scale.seconds)
    other = "the same path, its commits stubbed out"
    return [Row("run_durable_prompts_per_s", value, "prompts/s", other, baseline, at_least(0.85))]


async def compare(dsn: str, rounds: int, seconds: float) -> tuple[float, float]:
    """Return prompts per second with commits, and without; medians of rounds in turn.

    Twice as many rounds as asked for, the one first and the other first: the figure is a ratio near
    one, and a machine that becomes slower meanwhile shall not decide it.
    """
    sides = [(PostgresStore(dsn), list[float]()), (WithoutCommits(dsn), list[float]())]
    for number in range(2 * rounds + 1):
        for store, rates in sides if number % 2 else reversed(sides):
            async with LocalRuntime(store=store) as manager:
                await manager.deploy(App("durable", [DurableEcho], entry=DurableEcho))
                collector.settle()  # as hosts do
                rate = await _prompts_per_s(manager, seconds if number else 0.5)
            if number:  # the first round warms up
                rates.append(rate)
    durable, stubbed = (median_of(rates) for _, rates in sides)
    return durable, stubbed


async def _prompts_per_s(manager: ManagerClient, seconds: float) -> float:
    async def prompt() -> None:
        run = await manager.prompt("Ada")
        if run.status is not RunStatus.SUCCEEDED:
            raise RuntimeError(f"The run {run.id} ended otherwise: {run.status}")

    return await per_second(prompt, _IN_FLIGHT, seconds)


def main() -> None:
    """Measure, and print prompts per second with and without commits."""
    rounds, seconds = json.loads(sys.argv[1])
    with own_database() as dsn:
        sys.stdout.write(json.dumps(run(compare(dsn, rounds, seconds))))


if __name__ == "__main__":
    main()
