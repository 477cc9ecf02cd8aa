"""What all actors of agentray have in common."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ray.exceptions import (
    RayError,
)

from agentray.config import (
    BATCH,
    DATABASE,
    DEAD_LETTERS,
    JOB_LOG_BYTES,
    JOB_RETENTION,
    MAX_ATTEMPTS,
    MAX_STATE_BYTES,
    METRICS_INTERVAL_S,
    QUARANTINE_AFTER,
    RUN_RETENTION,
    TRACE_RETENTION_DAYS,
    TRACE_RETENTION_RUNS,
    BatchLimits,
    DatabaseLimits,
    JobRetention,
    RunRetention,
    Settings,
)

NAMESPACE = "agentray"

HEAD = "node:__internal_head__"
"""A resource of which the head of each cluster of Ray has 1."""

MAX_CONCURRENCY = 10_000
"""Calls that an actor takes at once: each sender needs three, each watcher one."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What an actor needs to begin.

    Attributes:
        database_url: DSN of the Store.
        default_hosts: hosts of the pool `default`.
        log_level: of agentray's loggers.
        max_state_bytes: of one agent's state.
        threads: most threads of a host for `run_sync`; None: as many as suit the machine.
        blocked_warning_s: a handler that blocks a host for longer is told; 0: none is.
        max_runs: that one host works on at once; None: any number.
        max_attempts: of a run that does not say it; each of them lost a host.
        batch: most that leaves together for one host.
        embedded_database: directory of the database server that the manager keeps alive; "": the
            server is somebody else's.
        run_retention: how long ended runs are kept.
        trace_retention_days: how long traces are kept.
        trace_retention_runs: how many of them.
        dead_letters: how many are kept.
        metrics_interval_s: how often hosts hand their metrics to Ray; 0: they count none.
        quarantine_after: deaths of hosts after which an agent takes no messages; 0: never.
        database: how long it may take to answer.
        job_log_bytes: how much of each job's log is kept.
        job_retention: how long ended jobs are kept.
    """

    database_url: str
    default_hosts: int
    log_level: str = "INFO"
    max_state_bytes: int = MAX_STATE_BYTES
    threads: int | None = None
    blocked_warning_s: float = 0.0
    max_runs: int | None = None
    batch: BatchLimits = BATCH
    embedded_database: str = ""
    trace_retention_days: float = TRACE_RETENTION_DAYS
    trace_retention_runs: int = TRACE_RETENTION_RUNS
    metrics_interval_s: float = METRICS_INTERVAL_S
    dead_letters: int = DEAD_LETTERS
    max_attempts: int = MAX_ATTEMPTS
    quarantine_after: int = QUARANTINE_AFTER
    run_retention: RunRetention = RUN_RETENTION
    database: DatabaseLimits = DATABASE
    job_log_bytes: int = JOB_LOG_BYTES
    job_retention: JobRetention = JOB_RETENTION

    @classmethod
    def of(cls, settings: Settings, database_url: str) -> Self:
        """Return what a manager and its hosts need.

        Args:
            settings: of the cluster.
            database_url: DSN of the Store; without one in the settings it is the embedded server's.
        """
        return cls(
            database_url,
            settings.hosts,
            log_level=settings.log_level,
            max_state_bytes=settings.max_state_bytes,
            threads=settings.threads,
            blocked_warning_s=settings.blocked_warning_s,
            max_runs=settings.max_runs,
            batch=settings.batch,
            embedded_database="" if settings.database_url else str(settings.postgres_dir),
            trace_retention_days=settings.trace_retention_days,
            trace_retention_runs=settings.trace_retention_runs,
            metrics_interval_s=settings.metrics_interval_s,
            dead_letters=settings.dead_letters,
            max_attempts=settings.max_attempts,
            quarantine_after=settings.quarantine_after,
            run_retention=settings.run_retention,
            database=settings.database,
            job_log_bytes=settings.job_log_bytes,
            job_retention=settings.job_retention,
        )


def reason_of(error: RayError) -> str:
    """Return why an actor ended, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [
        line for line in lines if not line.startswith(("class_name", "actor_id", "pid", "name"))
    ]
    return " ".join(told)[:500] or type(error).__name__
