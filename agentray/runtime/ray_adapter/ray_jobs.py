"""Jobs as Ray runs them."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ray
from pydantic import ValidationError
from ray._private import ray_constants
from ray._private.worker import global_worker
from ray.dashboard.modules.job.common import (
    JOB_ACTOR_NAME_TEMPLATE,
    JOB_LOGS_PATH_TEMPLATE,
    SUPERVISOR_ACTOR_RAY_NAMESPACE,
    JobInfoStorageClient,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agentray.core.jobs import NodeLoad, shortages
from agentray.errors import JobRejected, RayUnavailable
from agentray.event_loop import time_of_day
from agentray.protocol.jobs import Job, RayJob
from agentray.runtime.job_files import FileLog
from agentray.runtime.job_ports import LogGone, LogSource
from agentray.runtime.ray_adapter.dashboard import (
    Answer,
    Dashboard,
    gcs_keys,
    gcs_values,
    in_thread,
    own_node,
)
from agentray.runtime.ray_adapter.setup import HEAD

logger = logging.getLogger(__name__)

_PREFIX = JobInfoStorageClient.JOB_DATA_KEY_PREFIX.encode()
_NAMESPACE = ray_constants.KV_NAMESPACE_JOB
_ALREADY = "already exists"

_WATCHED_S = 2.0
"""Ray looks at each job once a second. One that is forgotten before it was seen to have ended would
be noted as lost; should Ray be late, `RayJob.made_up` tells."""

_REMOVE_S = 20.0


class RayJobs:
    """A `JobRunner` over Ray job submission.

    What Ray knows of jobs is read where Ray itself keeps it, in the GCS: its HTTP API would gather
    all jobs that there have ever been for each question.
    """

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._alive: dict[str, bool] = {}  # id of a living machine → it is the head
        self._loads: list[NodeLoad] = []

    async def submit(self, job_id: str, spec: Mapping[str, Any]) -> None:
        """Begin a job; see `JobRunner`."""
        answer = await self._post(job_id, spec)
        if answer.status >= 300 and _ALREADY in _text(answer):
            seen = (await self.look([job_id])).get(job_id)
            if seen is None or not seen.made_up:
                return
            await self.forget(job_id)  # an earlier job of this id, that was deleted
            answer = await self._post(job_id, spec)
        if answer.status < 300:
            return
        told = _text(answer)
        last = told.splitlines()[-1] if told else f"HTTP {answer.status}"
        if answer.status == 400 or "ValueError" in told or "TypeError" in told:
            raise JobRejected(last)
        raise RayUnavailable(f"Ray cannot take the job: {last}")

    async def _post(self, job_id: str, spec: Mapping[str, Any]) -> Answer:
        body = {**spec, "submission_id": job_id}
        return await self._dashboard.ask("POST", "/api/jobs/", json=body)

    async def look(self, ids: Collection[str]) -> dict[str, RayJob]:
        """Return what is known of jobs."""
        keys = [_PREFIX + job_id.encode() for job_id in ids]
        found = await gcs_values(keys, _NAMESPACE) if keys else {}
        jobs: dict[str, RayJob] = {}
        for key, value in found.items():
            job_id = key.removeprefix(_PREFIX).decode()
            try:
                jobs[job_id] = _ray_job(value)
            except (ValueError, ValidationError) as error:
                # One that another version of Ray has written; the others are looked at anyway.
                logger.warning("Ray's record of the job %s cannot be read: %s", job_id, error)
        return jobs

    async def ids(self) -> set[str]:
        """Return the ids of all jobs that are known."""
        keys = await gcs_keys(_PREFIX, _NAMESPACE)
        return {key.removeprefix(_PREFIX).decode() for key in keys}

    async def stop(self, job_id: str) -> None:
        """Ask a job to end."""
        answer = await self._dashboard.ask("POST", f"/api/jobs/{job_id}/stop")
        if answer.status >= 500:
            raise RayUnavailable(f"Ray cannot stop the job {job_id}: HTTP {answer.status}")

    async def kill(self, job_id: str) -> None:
        """End the actor that is about to start a job's command."""
        name = JOB_ACTOR_NAME_TEMPLATE.format(job_id=job_id)
        try:
            actor = await in_thread(ray.get_actor, name, SUPERVISOR_ACTOR_RAY_NAMESPACE)
        except ValueError:  # it is gone
            return
        await in_thread(ray.kill, actor)

    async def forget(self, job_id: str) -> None:
        """Forget a job that has ended, and remove its log: another of this id would go on in it."""
        seen = (await self.look([job_id])).get(job_id)
        if seen is None:
            return
        if seen.end_time is not None:
            left_s = seen.end_time / 1000 + _WATCHED_S - time_of_day().timestamp()
            await asyncio.sleep(min(max(left_s, 0), _WATCHED_S))
        await self._remove_log(job_id, seen.driver_node_id or own_node())
        answer = await self._dashboard.ask("DELETE", f"/api/jobs/{job_id}")
        if answer.status >= 500:
            raise RayUnavailable(f"Ray cannot forget the job {job_id}: HTTP {answer.status}")

    async def _remove_log(self, job_id: str, node: str) -> None:
        name = JOB_LOGS_PATH_TEMPLATE.format(submission_id=job_id)
        if node == own_node():
            await asyncio.to_thread(remove_log, name)
        elif node in await self.nodes():
            await in_thread(_remove_log_at, node, name)

    async def waits_for(self, job: RayJob) -> str | None:
        """Return what a pending job waits for."""
        await self.nodes()
        told, possible = shortages(job.demand, self._loads)
        if told:
            how = "It waits for room" if possible else "It cannot run on this cluster"
            return f"{how}: {' '.join(told)}"
        if job.runtime_env and set(job.runtime_env) - {"env_vars"}:
            return "Its runtime environment is being set up."
        return None

    async def nodes(self) -> set[str]:
        """Return the ids of the machines that live."""
        found = [node for node in await in_thread(ray.nodes) if node["Alive"]]
        free: Any = await in_thread(ray.state.available_resources_per_node)
        self._alive = {node["NodeID"]: HEAD in node["Resources"] for node in found}
        self._loads = [
            NodeLoad(node["NodeID"], node["Resources"], free.get(node["NodeID"], {}))
            for node in found
        ]
        return set(self._alive)

    def log(self, job: Job) -> LogSource | None:
        """Return where a job's log is: at the machine of its command, else at the head."""
        node = job.driver_node_id
        if node is None:
            if not job.status.ended:
                return None  # where its command will run is not known yet
            node = next((id_ for id_, head in self._alive.items() if head), None)
        name = JOB_LOGS_PATH_TEMPLATE.format(submission_id=job.job_id)
        if node == own_node():
            worker: Any = global_worker
            return FileLog(Path(worker.node.get_logs_dir_path()) / name)
        if node is None or (self._alive and node not in self._alive):
            return None
        return _AgentLog(self._dashboard, node, f"/logs/{name}")

    async def has_package(self, name: str) -> bool:
        """Whether a package was uploaded and is still there."""
        answer = await self._dashboard.ask("GET", f"/api/packages/gcs/{name}")
        if answer.status not in {200, 404}:
            raise RayUnavailable(f"Ray cannot tell of packages: HTTP {answer.status}")
        return answer.status == 200

    async def put_package(self, name: str, data: bytes) -> None:
        """Keep a package."""
        answer = await self._dashboard.ask("PUT", f"/api/packages/gcs/{name}", data=data)
        if answer.status != 200:
            told = answer.body.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise RayUnavailable(f"Ray cannot keep the package: {' '.join(told)}")


class _AgentLog:
    """A `LogSource` at another machine, whose agent serves its logs."""

    def __init__(self, dashboard: Dashboard, node: str, path: str) -> None:
        self._dashboard = dashboard
        self._node = node
        self._path = path

    async def size(self) -> int:
        """Return how many bytes there are."""
        answer = await self._ask("bytes=0-0")
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdecimal() else 0

    async def read(self, offset: int, most: int) -> bytes:
        """Return bytes from an offset on."""
        answer = await self._ask(f"bytes={offset}-{offset + most - 1}")
        return answer.body if answer.status == 206 else b""

    async def _ask(self, wanted: str) -> Any:
        headers = {"Range": wanted, "Accept-Encoding": "identity"}
        try:
            answer = await self._dashboard.ask_agent(self._node, self._path, headers)
        except RayUnavailable as error:
            raise LogGone(str(error)) from error
        if answer.status not in {200, 206, 404, 416}:
            raise LogGone(f"the agent of the node {self._node} answers HTTP {answer.status}")
        return answer


def remove_log(name: str) -> None:
    """Remove a log of this machine; harmless when it is gone."""
    worker: Any = global_worker
    (Path(worker.node.get_logs_dir_path()) / name).unlink(missing_ok=True)


def _remove_log_at(node: str, name: str) -> None:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(remove_log)
    ray.get(task.options(scheduling_strategy=there).remote(name), timeout=_REMOVE_S)


def _text(answer: Answer) -> str:
    return answer.body.decode("utf-8", "replace").strip()


def _ray_job(value: bytes) -> RayJob:
    record: dict[str, Any] = json.loads(value)
    text = record.pop("runtime_env_json", None)
    return RayJob.model_validate({**record, "runtime_env": json.loads(text) if text else None})
