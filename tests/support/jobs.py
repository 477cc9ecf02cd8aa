"""Jobs without Ray: their logs are files, and they run as the test says."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from agentray.core.jobs import NodeLoad
from agentray.errors import FilterRejected, JobRejected, RayUnavailable
from agentray.jobs.views import Selection
from agentray.protocol.jobs import Job, JobStatus, RayJob
from agentray.runtime.job_files import FileLog
from agentray.runtime.job_ports import LogGone, LogSource

NODE = "node-1"


class FileJobs:
    """A `JobRunner` whose jobs do nothing but have a log."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.jobs: dict[str, RayJob] = {}
        self.specs: dict[str, Mapping[str, Any]] = {}
        self.alive = {NODE}
        self.packages: dict[str, bytes] = {}
        self.away: RayUnavailable | None = None
        self.rejects: str | None = None
        self.waits = "It waits for room."
        self.stopped: list[str] = []
        self.killed: list[str] = []
        self.reads = 0
        self.gone = False  # logs cannot be read

    def path(self, job_id: str) -> Path:
        return self.home / f"job-driver-{job_id}.log"

    def write(self, job_id: str, data: bytes) -> None:
        with self.path(job_id).open("ab") as file:
            file.write(data)

    def set(self, job_id: str, status: JobStatus, **more: Any) -> None:
        job = self.jobs[job_id]
        at = {"driver_node_id": NODE} if status is not JobStatus.PENDING else {}
        self.jobs[job_id] = job.model_copy(update={"status": status, **at, **more})

    def _check(self) -> None:
        if self.away:
            raise self.away

    async def submit(self, job_id: str, spec: Mapping[str, Any]) -> None:
        self._check()
        if self.rejects:
            raise JobRejected(self.rejects)
        if job_id not in self.jobs:
            self.specs[job_id] = spec
            known = {name: spec.get(name) for name in ("entrypoint", "metadata", "runtime_env")}
            now = int(time.time() * 1000)
            self.jobs[job_id] = RayJob.model_validate(
                {"status": "PENDING", "start_time": now, **known}
            )

    async def look(self, ids: Collection[str]) -> dict[str, RayJob]:
        self._check()
        return {job_id: self.jobs[job_id] for job_id in ids if job_id in self.jobs}

    async def ids(self) -> set[str]:
        self._check()
        return set(self.jobs)

    async def stop(self, job_id: str) -> None:
        self._check()
        self.stopped.append(job_id)

    async def kill(self, job_id: str) -> None:
        self._check()
        self.killed.append(job_id)

    async def forget(self, job_id: str) -> None:
        self._check()
        self.jobs.pop(job_id, None)

    async def waits_for(self, job: RayJob) -> str | None:
        del job
        return self.waits

    async def nodes(self) -> set[str]:
        self._check()
        return self.alive

    def log(self, job: Job) -> LogSource | None:
        node = job.driver_node_id
        if node is None or node not in self.alive:
            return None
        return _Log(self, self.path(job.job_id))

    async def has_package(self, name: str) -> bool:
        self._check()
        return name in self.packages

    async def put_package(self, name: str, data: bytes) -> None:
        self._check()
        self.packages[name] = data


class _Log(FileLog):
    """A file that may be out of reach, and whose readings are counted."""

    def __init__(self, jobs: FileJobs, path: Path) -> None:
        super().__init__(path)
        self._jobs = jobs

    async def size(self) -> int:
        if self._jobs.gone:
            raise LogGone("its machine does not answer")
        return await super().size()

    async def read(self, offset: int, most: int) -> bytes:
        if self._jobs.gone:
            raise LogGone("its machine does not answer")
        self._jobs.reads += 1
        return await super().read(offset, most)


class PaperCluster:
    """`ClusterViews` of a cluster that there is not."""

    def __init__(self) -> None:
        self.parts: dict[str, list[dict[str, Any]]] = {"nodes": [], "tasks": [], "actors": []}
        self.apps: list[dict[str, Any]] = [{"name": "agentray", "status": "RUNNING"}]
        self.known: list[dict[str, Any]] = [machine()]
        self.cpu_percent = 10.0

    def _find(self, kind: str, wanted: Selection) -> list[dict[str, Any]]:
        known = tuple(sorted({name for part in self.parts[kind] for name in part}))
        for name in wanted.filters if known else ():
            if name not in known:
                raise FilterRejected(name, f"it can be one of {', '.join(known)}.")
        found = [
            part
            for part in self.parts[kind]
            if all(str(part.get(name)) == value for name, value in wanted.filters.items())
        ]
        return found[: wanted.limit]

    async def nodes(self, wanted: Selection) -> list[dict[str, Any]]:
        return self._find("nodes", wanted)

    async def tasks(self, wanted: Selection) -> list[dict[str, Any]]:
        return self._find("tasks", wanted)

    async def actors(self, wanted: Selection) -> list[dict[str, Any]]:
        return self._find("actors", wanted)

    async def serve_applications(self) -> list[dict[str, Any]]:
        return self.apps

    async def delete_serve_application(self, name: str) -> None:
        self.apps = [app for app in self.apps if app["name"] != name]

    async def machines(self, max_age_s: float) -> list[dict[str, Any]]:
        del max_age_s
        return self.known

    async def loads(self, max_age_s: float) -> list[NodeLoad]:
        del max_age_s
        return [
            NodeLoad(m["node_id"], m["resources_total"], m["resources_available"], self.cpu_percent)
            for m in self.known
        ]

    async def collected_at(self) -> float:
        return time.time()


def machine(**more: Any) -> dict[str, Any]:
    amounts = {"total": 4, "used": 1, "available": 3}
    return {
        "node_id": NODE,
        "host_name": "here",
        "ip": "127.0.0.1",
        "is_head_node": True,
        "state": "ALIVE",
        "cpu": amounts,
        "memory": amounts,
        "object_store": amounts,
        "gpus": [],
        "resources_total": {"CPU": 4.0},
        "resources_available": {"CPU": 3.0},
        **more,
    }
