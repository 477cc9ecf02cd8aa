"""What the gateway stands on where a cluster runs jobs beside agents."""

from __future__ import annotations

from dataclasses import dataclass

from agentray.jobs.views import ClusterViews
from agentray.runtime.job_ports import JobRunner


@dataclass(frozen=True, slots=True)
class ClusterParts:
    """The cluster below the agents.

    Attributes:
        runner: runs jobs, and knows where their logs are.
        views: looks at machines, tasks, actors and Serve applications.
        url: of the gateway, as jobs reach it.
        application: name of the Serve application that the gateway itself is.
    """

    runner: JobRunner
    views: ClusterViews
    url: str
    application: str = "agentray"
