"""Decides about jobs: what becomes of one, given what Ray says of it, and whether one is let in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from agentray.protocol.jobs import Job, JobPolicy, JobStatus, RayJob, redacted

SUBMIT_AFTER = timedelta(seconds=15)
"""A job that was accepted and has not come to Ray: who accepted it is taken for dead."""

MISSING_AFTER = timedelta(seconds=10)
"""So long Ray may know nothing of a job that it was given."""

NODE_LOST_AFTER = timedelta(seconds=15)
"""So long Ray may call a job running whose machine is gone; its own monitor is quicker mostly."""

EXPLAIN_AFTER = timedelta(seconds=3)
"""From then on a pending job says what it waits for."""

KILL_AFTER = timedelta(seconds=5)
"""A pending job that shall stop: Ray would wait for its process to begin first."""

_SUPERVISOR_LOST = frozenset(
    {"JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE", "NODE_LOST"}
)


_HEADLINE_CHARS = 200
_BEFORE_LOGS = ", last available logs ("


def without_log(message: str) -> str:
    """Return why a job has failed without the end of its log, which Ray adds to it."""
    return message.partition(_BEFORE_LOGS)[0]


def headline(message: str) -> str:
    """Return a message in one line: where it has several, its first and its last one.

    Ray's message about a job that has failed ends with as much as 20,000 characters of its log, of
    which the last line mostly says why.
    """
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    first = without_log(lines[0])
    if len(lines) == 1:
        return _cut(first, _HEADLINE_CHARS)
    half = _HEADLINE_CHARS // 2 - 2
    return f"{_cut(first, half)} … {_cut(lines[-1], half)}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of a job that has not ended.

    Attributes:
        job: as it is kept.
        submitted: Ray has been given it.
        seen: what Ray says; None: nothing.
        nodes: ids of the machines that live.
        pending_why: what it waits for, as far as somebody knows.
        absent_since: since when Ray has known nothing of it, or its machine has been gone.
        stop_since: since when it shall stop; None: it shall not.
        now: the time.
    """

    job: Job
    submitted: bool
    seen: RayJob | None
    nodes: Collection[str]
    now: datetime
    pending_why: str | None = None
    absent_since: datetime | None = None
    stop_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobVerdict:
    """What is to be done about a job.

    Attributes:
        job: as it is to be kept; None: as it is.
        submit: give it to Ray.
        submitted: note that Ray has it.
        stop: ask Ray to end it.
        kill: end what would start it.
        absent: Ray knows nothing of it, or its machine is gone.
    """

    job: Job | None = None
    submit: bool = False
    submitted: bool = False
    stop: bool = False
    kill: bool = False
    absent: bool = False


def judge(facts: JobFacts) -> JobVerdict:
    """Decide what becomes of a job that has not ended."""
    seen = facts.seen
    if seen is None:
        return _without_ray(facts)
    submitted = not facts.submitted
    if seen.status.ended:
        return JobVerdict(_ended(facts, seen), submitted=submitted)
    if _node_lost(facts, seen):
        gone = facts.absent_since is not None and facts.now - facts.absent_since >= NODE_LOST_AFTER
        if not gone:
            return JobVerdict(_seen(facts.job, seen), submitted=submitted, absent=True)
        told = f"The node {seen.driver_node_id} on which it ran is gone."
        lost = _seen(facts.job, seen).model_copy(update=_end(facts, told, "NODE_LOST"))
        return JobVerdict(lost, submitted=submitted, stop=True)
    kept = _seen(facts.job, seen)
    if seen.status is JobStatus.PENDING and facts.pending_why:
        kept = kept.model_copy(update={"message": facts.pending_why})
    stuck = (
        seen.status is JobStatus.PENDING
        and facts.stop_since is not None
        and facts.now - facts.stop_since >= KILL_AFTER
    )
    return JobVerdict(
        kept if kept != facts.job else None,
        submitted=submitted,
        stop=facts.stop_since is not None and not stuck,
        kill=stuck,
    )


def _without_ray(facts: JobFacts) -> JobVerdict:
    job = facts.job
    if not facts.submitted:
        if facts.stop_since is not None:
            told = "It was stopped before it began."
            return JobVerdict(job.model_copy(update=_end(facts, told, None)))
        accepted = datetime.fromtimestamp(job.start_time / 1000, tz=facts.now.tzinfo)
        return JobVerdict(submit=facts.now - accepted >= SUBMIT_AFTER)
    if facts.absent_since is None or facts.now - facts.absent_since < MISSING_AFTER:
        return JobVerdict(absent=True)
    told = "Ray knows nothing of it any more: the cluster's head was lost, and the job with it."
    return JobVerdict(job.model_copy(update=_end(facts, told, "HEAD_LOST")))


def _end(facts: JobFacts, told: str, error_type: str | None) -> dict[str, object]:
    """Return what an end without Ray changes; one that was asked for is no failure."""
    status = JobStatus.FAILED if facts.stop_since is None else JobStatus.STOPPED
    end_time = int(facts.now.timestamp() * 1000)
    return {"status": status, "message": told, "error_type": error_type, "end_time": end_time}


def _node_lost(facts: JobFacts, seen: RayJob) -> bool:
    return (
        seen.status is JobStatus.RUNNING
        and seen.driver_node_id is not None
        and seen.driver_node_id not in facts.nodes
    )


def _ended(facts: JobFacts, seen: RayJob) -> Job:
    job = _seen(facts.job, seen)
    message, status = seen.message, seen.status
    if seen.error_type in _SUPERVISOR_LOST:
        if facts.stop_since is not None:
            status, message = JobStatus.STOPPED, "Job was intentionally stopped."
        elif seen.driver_node_id is not None and seen.driver_node_id not in facts.nodes:
            message = f"The node {seen.driver_node_id} on which it ran is gone. {message}"
    end_time = seen.end_time or int(facts.now.timestamp() * 1000)
    return job.model_copy(update={"status": status, "message": message, "end_time": end_time})


def _seen(job: Job, seen: RayJob) -> Job:
    """Return a job with what Ray says of it."""
    message = seen.message
    if seen.status is JobStatus.PENDING and job.status is JobStatus.PENDING:
        message = job.message or message  # an explanation stays until there is another one
    return job.model_copy(
        update={
            "status": seen.status,
            "message": message,
            "error_type": seen.error_type,
            "driver_agent_http_address": seen.driver_agent_http_address,
            "driver_node_id": seen.driver_node_id,
            "driver_exit_code": seen.driver_exit_code,
        }
    )


def found_job(job_id: str, seen: RayJob, now: datetime) -> Job:
    """Return the record of a job that somebody has submitted to Ray without agentray."""
    return Job(
        job_id=job_id,
        submission_id=job_id,
        source="ray",
        status=seen.status,
        entrypoint=seen.entrypoint,
        message=seen.message,
        error_type=seen.error_type,
        start_time=seen.start_time or int(now.timestamp() * 1000),
        end_time=seen.end_time,
        metadata={_clean(k): _clean(v) for k, v in (seen.metadata or {}).items()},
        runtime_env=redacted(seen.runtime_env or {}),
        entrypoint_num_cpus=seen.entrypoint_num_cpus or 0,
        entrypoint_num_gpus=seen.entrypoint_num_gpus or 0,
        entrypoint_memory=seen.entrypoint_memory or 0,
        entrypoint_resources=seen.entrypoint_resources or {},
        driver_agent_http_address=seen.driver_agent_http_address,
        driver_node_id=seen.driver_node_id,
        driver_exit_code=seen.driver_exit_code,
    )


def _clean(text: str) -> str:
    """Return a text as the Store can look for it: nobody has checked it before."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """A machine, and what of it is in use.

    Attributes:
        id: Ray's.
        total: what Ray hands out there, by name.
        available: what of it is free.
        cpu_percent: of its CPUs in use; None: nobody knows.
        memory: bytes in use, and all; None: nobody knows.
    """

    id: str
    total: Mapping[str, float] = field(default_factory=dict[str, float])
    available: Mapping[str, float] = field(default_factory=dict[str, float])
    cpu_percent: float | None = None
    memory: tuple[float, float] | None = None


def refusals(
    policy: JobPolicy, demand: Mapping[str, float], nodes: Sequence[NodeLoad]
) -> list[str]:
    """Return why a job must not begin now, in sentences; none: it may.

    Args:
        policy: what is allowed.
        demand: what it needs of one machine, by Ray's names.
        nodes: the machines.
    """
    if not policy.gatekeeping_enabled:
        return []
    told: list[str] = []
    cpus = [(n.cpu_percent, n.total.get("CPU", 1) or 1) for n in nodes if n.cpu_percent is not None]
    if cpus and policy.cpu_max_utilization_percent < 100:
        used = sum(p * w for p, w in cpus) / sum(w for _, w in cpus)
        told += _over("CPU", used, policy.cpu_max_utilization_percent)
    memories = [n.memory for n in nodes if n.memory]
    if memories and policy.memory_max_utilization_percent < 100:
        used = 100 * sum(m[0] for m in memories) / max(1, sum(m[1] for m in memories))
        told += _over("memory", used, policy.memory_max_utilization_percent)
    gpus = sum(n.total.get("GPU", 0) for n in nodes)
    if demand.get("GPU") and gpus and policy.gpu_max_utilization_percent < 100:
        free = sum(n.available.get("GPU", 0) for n in nodes)
        used = 100 * (gpus - free + demand["GPU"]) / gpus
        told += _over("GPU", used, policy.gpu_max_utilization_percent, "would be ")
    return told


def _over(what: str, used: float, most: float, verb: str = "is ") -> list[str]:
    if used <= most:
        return []
    return [f"The {what} utilisation {verb}{used:.0f} %, and the policy allows {most:g} %."]


def shortages(
    demand: Mapping[str, float], nodes: Sequence[NodeLoad], replicas: int = 1
) -> tuple[list[str], bool]:
    """Return what keeps a demand from being placed, in sentences, and whether waiting can help.

    Args:
        demand: what one replica needs of one machine, by Ray's names.
        nodes: the machines that live.
        replicas: how many of them.

    Returns:
        Sentences, none where there is room; and whether the machines are large enough.
    """
    wanted = {name: amount for name, amount in demand.items() if amount > 0}
    possible = sum(_places(wanted, node.total) for node in nodes) if wanted else replicas
    if possible < replicas:
        told = [
            f"It needs {amount:g} {name}, and the largest machine has "
            f"{max((n.total.get(name, 0) for n in nodes), default=0):g}."
            for name, amount in wanted.items()
            if all(n.total.get(name, 0) < amount for n in nodes)
        ]
        return told or [f"The machines have room for {possible} of {replicas}."], False
    now = sum(_places(wanted, node.available) for node in nodes) if wanted else replicas
    if now >= replicas:
        return [], True
    told = [
        f"It needs {amount:g} {name}, and at most "
        f"{max((n.available.get(name, 0) for n in nodes), default=0):g} are free on one machine."
        for name, amount in wanted.items()
        if all(n.available.get(name, 0) < amount for n in nodes)
    ]
    return told or [f"There is room for {now} of {replicas} now."], True


def _places(demand: Mapping[str, float], free: Mapping[str, float]) -> int:
    return min(int(free.get(name, 0) / amount + 1e-9) for name, amount in demand.items())
