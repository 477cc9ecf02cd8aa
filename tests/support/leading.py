"""A process that leads as a manager does and writes all the time; run by tests.

Exits with 3 when another one leads.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from agentray.core.leadership import Candidate
from agentray.errors import ManagerSuperseded
from agentray.runtime.leadership import Leadership
from agentray.store.base import PoolRow
from agentray.store.postgres import PostgresStore


async def lead(dsn: str, place: str, told: Path) -> int:
    """Lead until somebody else does; return the exit code."""
    store = PostgresStore(dsn)
    await store.open()
    written = 0
    try:
        leadership = await Leadership.gain(store, Candidate(place, f"manager of {place}"))
        leadership.keep(lambda: None)
        while True:
            await leadership.store.put_pool(PoolRow(f"{place}-{written}", None))
            written += 1
            with told.open("a") as file:
                file.write(json.dumps({"written": written, "epoch": leadership.epoch}) + "\n")
            await asyncio.sleep(0.05)
    except ManagerSuperseded as error:
        with told.open("a") as file:
            file.write(json.dumps({"refused": error.working, "written": written}) + "\n")
        return 3


if __name__ == "__main__":
    sys.exit(asyncio.run(lead(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
