"""What the clients return of a cluster: jobs, machines, tasks and so on, as Ray names it.

Fields that are not named here are kept as they came: `node.extra_field` or `node["extra_field"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentray.protocol import jobs as protocol

_CONFIG = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True)


class Record(BaseModel):
    """Its fields can be read as `record.name`, and as `record["name"]`."""

    model_config = _CONFIG

    def __getitem__(self, name: str) -> Any:
        """Return a field.

        Raises:
            KeyError: there is none of this name.
        """
        fields = self._fields()
        return fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or the default where there is none of this name."""
        return self._fields().get(name, default)

    def _fields(self) -> Mapping[str, Any]:
        return {**self.__dict__, **(self.__pydantic_extra__ or {})}


class Job(Record, protocol.Job):
    """A job. Times are milliseconds since 1970."""

    model_config = _CONFIG


class Node(Record):
    """A machine of the cluster."""

    node_id: str
    state: str = Field(default="", description="ALIVE or DEAD.")
    alive: bool = True
    node_ip: str | None = None
    is_head_node: bool = False
    resources_total: dict[str, float] = Field(default_factory=dict[str, float])


class Task(Record):
    """A task of Ray's."""

    task_id: str
    name: str | None = None
    state: str = ""
    type: str | None = None
    job_id: str | None = None
    node_id: str | None = None


class Actor(Record):
    """An actor of Ray's."""

    actor_id: str
    class_name: str | None = None
    name: str | None = None
    state: str = ""
    pid: int | None = None
    job_id: str | None = None
    node_id: str | None = None


class ServeApplication(Record):
    """An application that Ray Serve runs."""

    name: str
    status: str = ""
    message: str | None = None
    route_prefix: str | None = None


class Counter(Record):
    """How much there is of something, and how much of it is in use."""

    total: float = 0
    used: float = 0
    available: float = 0


class GpuSummary(Record):
    """The GPUs of all machines."""

    total_gpus: int = 0
    available_gpus: int = 0
    total_memory_bytes: int = 0
    available_memory_bytes: int = 0
    max_utilization: float = 0
    avg_utilization: float = 0


class NodeCounts(Record):
    """How many machines there are."""

    total: int = 0
    alive: int = 0
    dead: int = 0


class NodeResources(Record):
    """A machine, and what of it is in use."""

    node_id: str
    host_name: str | None = None
    ip: str | None = None
    is_head_node: bool = False
    state: str = "ALIVE"
    accelerator_type: str | None = None
    cpu: Counter = Field(default_factory=Counter)
    memory: Counter = Field(default_factory=Counter)
    gpus: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class ClusterResources(Record):
    """What a cluster has, and what of it is in use."""

    collected_at: datetime
    stale: bool = False
    cpu: Counter = Field(default_factory=Counter)
    memory: Counter = Field(default_factory=Counter)
    object_store: Counter | None = None
    gpu: GpuSummary = Field(default_factory=GpuSummary)
    running_jobs: int = 0
    total_serve_replicas: int = 0
    node_counts: NodeCounts = Field(default_factory=NodeCounts)
    nodes: list[NodeResources] = Field(default_factory=list[NodeResources])


class Feasibility(Record):
    """Whether something has room now."""

    allowed: bool
    reasons: list[str] = Field(default_factory=list[str])

    @field_validator("reasons", mode="before")
    @classmethod
    def _texts(cls, reasons: Any) -> Any:
        return reasons or []


class RuntimePolicy(Record, protocol.JobPolicy):
    """What lets jobs in, and what keeps them out."""

    model_config = _CONFIG
