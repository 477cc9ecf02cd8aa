"""What gateways tell of keys, jobs and their cluster, as tables. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.text import Text

from agentray.cli.render import columns, moment, pairs, seconds, short, text
from agentray.cli.results import result
from agentray.core.jobs import headline
from agentray.protocol.jobs import JobPolicy
from agentray.protocol.keys import KeyInfo

if TYPE_CHECKING:
    from agentray.client import Job

_STATUS_STYLES: Mapping[str, str] = {
    "PENDING": "yellow",
    "DEPLOYING": "yellow",
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "ALIVE": "green",
    "FINISHED": "green",
}


def keys(rows: Sequence[KeyInfo]) -> RenderableType:
    """Return API keys as a table."""
    table = columns("Key", "Name", "Scopes", "Tenant", "Created", "Revoked")
    for row in rows:
        table.add_row(
            text(row.id),
            text(row.name),
            text(", ".join(row.scopes)),
            text(row.tenant),
            text(moment(row.created_at)),
            text(row.revoked_at and moment(row.revoked_at), "red"),
        )
    return table if rows else Text("There are no such keys.")


# Jobs


def jobs(rows: Sequence[Job]) -> RenderableType:
    """Return jobs as a table."""
    table = columns("Job", "Status", "Progress", "Submitted", "Took", "Entrypoint", "Message")
    for job in rows:
        table.add_row(
            text(job.job_id),
            _status(job.status),
            text(_percent(job.progress)),
            text(_moment(job.start_time)),
            text(_took(job)),
            text(short(job.entrypoint)),
            text(_why(job)),
        )
    return table if rows else Text("There are no such jobs.")


def job(found: Job) -> RenderableType:
    """Return a job with all that is known of it."""
    metadata = "\n".join(f"{name}={value}" for name, value in found.metadata.items())
    needs = {
        "CPU": found.entrypoint_num_cpus,
        "GPU": found.entrypoint_num_gpus,
        "memory": found.entrypoint_memory,
        **found.entrypoint_resources,
    }
    facts = pairs(
        [
            ("job", found.job_id),
            ("status", _status(found.status)),
            ("message", found.message),
            ("entrypoint", found.entrypoint),
            ("submitted", _moment(found.start_time)),
            ("took", _took(found)),
            ("by", found.source),
            ("needs", ", ".join(f"{v:g} {name}" for name, v in needs.items() if v) or None),
            ("node", found.driver_node_id),
            ("exit code", None if found.driver_exit_code is None else str(found.driver_exit_code)),
            ("metadata", metadata or None),
            ("runtime_env", json.dumps(found.runtime_env) if found.runtime_env else None),
            ("progress", _percent(found.progress)),
            ("metrics", json.dumps(found.metrics) if found.metrics else None),
        ]
    )
    return facts if found.result is None else Group(facts, Text(), result(found.result))


def policy(found: JobPolicy) -> RenderableType:
    """Return what lets jobs in."""

    def percent(value: float) -> str:
        return "no limit" if value >= 100 else f"{value:g} %"

    return pairs(
        [
            ("limits", "hold" if found.gatekeeping_enabled else "do not hold"),
            ("jobs at once", str(found.max_concurrent_jobs or "any number")),
            ("CPUs", percent(found.cpu_max_utilization_percent)),
            ("memory", percent(found.memory_max_utilization_percent)),
            ("GPUs", percent(found.gpu_max_utilization_percent)),
        ]
    )


def _status(status: str) -> Text:
    return Text(str(status), style=_STATUS_STYLES.get(str(status), "red"))


def _percent(progress: float | None) -> str | None:
    return None if progress is None else f"{progress:.0%}"


def _moment(milliseconds: int) -> str:
    return moment(datetime.fromtimestamp(milliseconds / 1000, UTC))


def _took(job: Job) -> str | None:
    if job.end_time is None:
        return None
    return seconds(max(0, job.end_time - job.start_time) / 1000)


def _why(job: Job) -> str | None:
    """Return why a job is not there yet, or has failed."""
    if job.message is None or job.status == "SUCCEEDED":
        return None
    return short(headline(job.message), 80)


# The cluster


def parts(kind: str, rows: Sequence[BaseModel]) -> RenderableType:
    """Return machines, tasks, actors or Serve applications as a table.

    Args:
        kind: what they are.
        rows: as the gateway tells of them.
    """
    fields = _FIELDS[kind]
    table = columns(*fields)
    for row in rows:
        told = row.model_dump(mode="json")
        table.add_row(*(_field(name, told.get(name)) for name in fields.values()))
    return table if rows else Text(f"There are no such {kind}s.")


def part(found: BaseModel) -> RenderableType:
    """Return one of them with all that Ray tells, by Ray's own names."""
    told = found.model_dump(mode="json")
    return pairs(
        [
            (name, _status(value) if name in _STATES and value else _indented(value))
            for name, value in told.items()
        ]
    )


def _indented(value: Any) -> Text:
    if isinstance(value, dict | list):
        return text(json.dumps(value, indent=2, ensure_ascii=False) if value else None)
    return text(None if value == "" else value)


def _field(name: str, value: Any) -> Text:
    match value:
        case str() if name in _STATES:
            return _status(value)
        case dict() if name == "resources_total":
            return text(_resources(cast("dict[str, float]", value)))
        case dict() | list():
            return text(json.dumps(value))
        case _:
            return text(value)


def _resources(amounts: Mapping[str, float]) -> str:
    """Return what Ray hands out on a machine, without what only names the machine."""
    shown = {name: n for name, n in amounts.items() if not name.startswith("node:")}
    return ", ".join(
        f"{n / 1e9:.1f} GB {name}" if name.endswith("memory") else f"{n:g} {name}"
        for name, n in sorted(shown.items())
    )


_STATES = frozenset({"state", "status"})


_FIELDS: Mapping[str, Mapping[str, str]] = {
    "node": {
        "Node": "node_id",
        "State": "state",
        "Address": "node_ip",
        "Head": "is_head_node",
        "Has": "resources_total",
    },
    "task": {
        "Task": "task_id",
        "Name": "name",
        "State": "state",
        "Type": "type",
        "Job": "job_id",
        "Node": "node_id",
    },
    "actor": {
        "Actor": "actor_id",
        "Class": "class_name",
        "Name": "name",
        "State": "state",
        "Process": "pid",
        "Node": "node_id",
    },
    "application": {
        "Application": "name",
        "Status": "status",
        "Route": "route_prefix",
        "Message": "message",
    },
}
