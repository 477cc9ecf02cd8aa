"""Both clients and the command against a real cluster: jobs, their logs, views."""

from __future__ import annotations

import asyncio
import sys

import pytest

from agentray.client import AgentClient, JobStatus, LogPiece, NotFound
from tests.support.cluster import Cluster

_PROGRAM = "import os; [print(f'line {n}') for n in range(2000)]; print(os.environ['NAME'])"


async def test_a_job_and_its_cluster_through_both_clients(cluster: Cluster):
    expected = [*(f"line {n}" for n in range(2000)), "Ada"]
    async with cluster.client() as client:
        job = await client.submit_job(
            f'{sys.executable} -c "{_PROGRAM}"',
            runtime_env={"env_vars": {"NAME": "Ada"}},
            metadata={"test": "clients"},
        )
        tail = client.tail_job_logs(job.job_id, timeout=60)
        lines = [line async for line in tail]
        assert lines[-len(expected) :] == expected
        assert tail.end is not None
        assert (tail.end.reason, tail.end.status) == ("complete", "SUCCEEDED")
        assert (await client.get_job(job.job_id)).status is JobStatus.SUCCEEDED

    def rest() -> None:
        with AgentClient(cluster.url, cluster.key) as blocking:
            assert list(blocking.stream_tail_job_logs(job.job_id)) == lines
            pieces = [e for e in blocking.follow_job(job.job_id) if isinstance(e, LogPiece)]
            data = b"".join(piece.data for piece in pieces)
            assert data.decode() == blocking.get_job_logs(job.job_id)
            found = blocking.list_jobs(metadata={"test": "clients"})
            assert [each["job_id"] for each in found] == [job.job_id]
            (node,) = blocking.list_nodes()
            assert blocking.get_node(node.node_id)["state"] == "ALIVE"
            assert blocking.list_actors(filters={"state": "ALIVE"})
            assert "agentray" in [app.name for app in blocking.list_serve_applications()]
            assert blocking.get_cluster_resources().cpu.total > 0
            assert blocking.health_check()["status"] == "ok"
            blocking.delete_job(job.job_id)
            with pytest.raises(NotFound):
                blocking.get_job(job.job_id)

    await asyncio.to_thread(rest)
