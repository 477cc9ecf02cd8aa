"""The state of a cluster, put together from what its gateway and its manager say."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from agentray.cli.command import DEFAULT_TIMEOUT_S
from agentray.cli.take_down import cluster_of
from agentray.client import AsyncAgentClient, ConnectionFailed, RunPage, Unavailable
from agentray.client.access import Access
from agentray.config import ClusterRecord, Settings
from agentray.core.lifecycle import TERMINAL, UNFINISHED
from agentray.errors import ClusterNotRunning
from agentray.protocol.runs import RunStatus
from agentray.runtime.connection import connect
from agentray.runtime.local_cluster import missing_parts

_PAGE = 200  # runs that the gateway lists at once; that many and more are "200+"
_LATEST = 100


@dataclass(frozen=True, slots=True)
class RunCounts:
    """How many runs there are.

    Attributes:
        unfinished: by status; "200+" where there are more than can be counted at once.
        latest_ended: by status, among the latest 100 runs.
    """

    unfinished: dict[str, str]
    latest_ended: dict[str, int]


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The state of a cluster.

    Attributes:
        url: of the gateway.
        missing: what is missing before prompts can be served; empty: ready.
        runs: None: the gateway does not tell.
        manager: what the manager says, see `ManagerClient.status`.
        dashboard_url: Ray's dashboard and job API; "": unknown, as of a cluster that ran before.
    """

    url: str
    missing: list[str]
    runs: RunCounts | None
    manager: dict[str, Any]
    dashboard_url: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "url": self.url,
            "dashboard_url": self.dashboard_url or None,
            "ready": not self.missing,
            "missing": self.missing,
            "runs": None if self.runs is None else asdict(self.runs),
            **self.manager,
        }


async def look(settings: Settings) -> ClusterStatus:
    """Ask gateway and manager of this machine's cluster.

    Raises:
        ClusterNotRunning: nothing is up, a part of Ray is gone, or there is no manager to ask.
        ClientError: the gateway answers, and refuses.
    """
    record = ClusterRecord.read(settings)
    _check_ray(record)
    dashboard_url = "" if record is None else record.dashboard_url
    url = Access.find().url
    async with connect(settings=settings) as manager:
        told = await manager.status()
    async with AsyncAgentClient(url, timeout=DEFAULT_TIMEOUT_S) as client:
        try:
            missing = await client.ready()
            runs = await count_runs(client)
        except ConnectionFailed as error:
            return ClusterStatus(url, [str(error)], None, told, dashboard_url)
        except Unavailable as error:
            return ClusterStatus(url, [error.detail or error.title], None, told, dashboard_url)
    return ClusterStatus(url, missing, runs, told, dashboard_url)


def _check_ray(record: ClusterRecord | None) -> None:
    """Say what is gone of Ray: without its node, Ray itself waits for minutes."""
    cluster = cluster_of(record) if record is not None else None
    missing = missing_parts(cluster) if cluster is not None else []
    if missing:
        raise ClusterNotRunning(
            f"The Ray cluster has lost {' and '.join(missing)}: run `agentray down`, which stops "
            "the rest, and `agentray up` again."
        )


async def count_runs(client: AsyncAgentClient) -> RunCounts:
    """Count runs by status.

    Raises:
        ClientError: the gateway refuses, or cannot be reached.
    """
    unfinished = {
        status.value: _count(await client.runs(limit=_PAGE, status=status))
        for status in RunStatus
        if status in UNFINISHED
    }
    latest = await client.runs(limit=_LATEST)
    ended = Counter(run.status.value for run in latest.runs if run.status in TERMINAL)
    return RunCounts(unfinished, dict(ended))


def _count(page: RunPage) -> str:
    return f"{len(page.runs)}+" if page.next else str(len(page.runs))
