"""The health of an app on one host: what its own check says, and whether its agents can start."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from typing import TYPE_CHECKING

from agentray.protocol.codec import text_of

if TYPE_CHECKING:
    from agentray.runtime.host import Host

CHECK_S = 30.0
"""How long a check of an app may take."""


async def check_app(host: Host, app: str) -> str:
    """Return what is wrong with an app on a host; "": nothing."""
    return await _own_check(host, app) or _failed_type(host, app)


async def _own_check(host: Host, app: str) -> str:
    check = host.code.checks.get(app)
    if check is None:
        return ""
    try:
        async with asyncio.timeout(CHECK_S):
            if inspect.iscoroutinefunction(check):
                healthy = await check()
            else:
                healthy = await host.threads.run(check)
                if inspect.isawaitable(healthy):
                    healthy = await healthy
    except TimeoutError:
        return f"its health check took longer than {CHECK_S:g} s"
    except Exception as error:  # noqa: BLE001 - code of the user's
        return f"its health check failed: {type(error).__name__}: {text_of(error)}"
    return "its health check says so" if healthy is False else ""


def _failed_type(host: Host, app: str) -> str:
    """Return why agents of a type cannot be started: none of them could."""
    failures: dict[str, list[str | None]] = defaultdict(list)
    for agent in host.residents:
        loaded = host.types.get(agent.id.type)
        if loaded is not None and loaded.app == app and agent.status != "starting":
            failures[agent.id.type].append(agent.failure)
        elif loaded is not None and loaded.app == app and agent.stats.restarts:
            failures[agent.id.type].append(agent.stats.last_error)
    for kind, of_type in failures.items():
        if all(of_type):
            return f"no agent of the type {kind} can be started: {of_type[0]}"
    return ""
