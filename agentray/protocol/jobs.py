"""Jobs as the outside sees them: what is submitted, what is known of it, and what lets it in."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from agentray.errors import ConfigurationError

_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")

REDACTED = "<redacted>"

JOB_ID = "AGENTRAY_JOB_ID"
"""The environment variable that has a job's id, in each job that agentray has submitted."""

_NO_ENTRYPOINT = "Entrypoint not found."  # Ray's words

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|"
    r"(^|_)(KEY|PWD|AUTH|DSN)($|_)",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"^[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)


class JobStatus(StrEnum):
    """Where a job is in its life, in Ray's words."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self not in {JobStatus.PENDING, JobStatus.RUNNING}


def check_job_id(job_id: str) -> str:
    """Return the id of a job when it is well formed.

    Raises:
        ConfigurationError: it is not.
    """
    if not _ID.fullmatch(job_id):
        raise ConfigurationError(
            f"{job_id[:120]!r} is no id of a job: use 1 to 100 letters, digits, dashes and "
            "underscores."
        )
    return job_id


class JobSubmission(BaseModel):
    """A job that is to run."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"entrypoint": "python train.py", "entrypoint_num_cpus": 1}]
        },
    )

    entrypoint: Annotated[str, Field(min_length=1, max_length=100_000)] = Field(
        description="The command line."
    )
    submission_id: str | None = Field(
        default=None,
        description="1 to 100 letters, digits, `-`, `_`. The same id with the same body is the "
        "same job. Left out: a new one.",
    )
    runtime_env: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Ray's: `working_dir`, `pip`, `env_vars` …"
    )
    metadata: dict[str, str] = Field(
        default_factory=dict[str, str], description="Names and values by which it is found again."
    )
    entrypoint_num_cpus: float = Field(default=0, ge=0, allow_inf_nan=False)
    entrypoint_num_gpus: float = Field(default=0, ge=0, allow_inf_nan=False)
    entrypoint_memory: int = Field(default=0, ge=0, description="Bytes.")
    entrypoint_resources: dict[str, float] = Field(default_factory=dict[str, float])
    secrets: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Environment variables of the command that are kept in no record: the job "
        "fetches them once, then they are forgotten.",
    )

    @field_validator("submission_id")
    @classmethod
    def _check_id(cls, job_id: str | None) -> str | None:
        return job_id if job_id is None else check_job_id(job_id)

    @field_validator("entrypoint")
    @classmethod
    def _check_text(cls, text: str) -> str:
        if "\0" in text:
            raise ValueError("NUL characters cannot be in a command line")
        return text

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, metadata: dict[str, str]) -> dict[str, str]:
        for name, value in metadata.items():
            if "\0" in name + value:
                raise ValueError(f"{name[:40]!r}: NUL characters cannot be stored")
        return metadata

    @field_validator("secrets")
    @classmethod
    def _check_secrets(cls, secrets: dict[str, str]) -> dict[str, str]:
        for name, value in secrets.items():
            if not name or "=" in name or "\0" in name + value:
                raise ValueError(f"{name[:40]!r} is no environment variable")
        return secrets


class JobReport(BaseModel):
    """What a job has told of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    progress: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="From 0 to 1."
    )
    metrics: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    result: JsonValue = Field(default=None, description="Any JSON.")


class Job(JobReport):
    """A job, with Ray's names for what Ray knows of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    job_id: str = Field(description="The id by which it is asked for: the submission id.")
    submission_id: str
    type: str = Field(default="SUBMISSION", description="As Ray has it.")
    source: str = Field(
        default="agentray", description="Who submitted it: `agentray`, or `ray` by its own means."
    )
    status: JobStatus = JobStatus.PENDING
    entrypoint: str
    message: str | None = Field(default=None, description="The status in words.")
    error_type: str | None = None
    start_time: int = Field(description="When it was accepted, in milliseconds since 1970.")
    end_time: int | None = Field(default=None, description="When it ended, likewise.")
    metadata: dict[str, str] = Field(default_factory=dict[str, str])
    runtime_env: dict[str, Any] = Field(
        default_factory=dict[str, Any],
        description="Without the values of `env_vars` that look like secrets.",
    )
    entrypoint_num_cpus: float = 0
    entrypoint_num_gpus: float = 0
    entrypoint_memory: int = 0
    entrypoint_resources: dict[str, float] = Field(default_factory=dict[str, float])
    driver_info: dict[str, Any] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None
    stop_requested: bool = False

    def record(self) -> str:
        """Return it as it is kept: without what the job tells of itself."""
        return self.model_dump_json(exclude={"progress", "metrics", "result", "stop_requested"})

    @property
    def report(self) -> JobReport:
        """What it has told of itself."""
        return JobReport(progress=self.progress, metrics=self.metrics, result=self.result)


class JobPolicy(BaseModel):
    """What lets jobs in, and what keeps them out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gatekeeping_enabled: bool = Field(
        default=True, description="False: none of the limits below hold."
    )
    max_concurrent_jobs: int = Field(
        default=0, ge=0, description="Jobs that may be under way at once; 0: any number."
    )
    cpu_max_utilization_percent: float = Field(
        default=100, gt=0, le=100, description="Of the CPUs of all machines; 100: no limit."
    )
    memory_max_utilization_percent: float = Field(
        default=100, gt=0, le=100, description="Of the memory of all machines; 100: no limit."
    )
    gpu_max_utilization_percent: float = Field(
        default=100, gt=0, le=100, description="Of the GPUs that Ray hands out; 100: no limit."
    )
    resource_cache_ttl_seconds: float = Field(
        default=5, ge=0, le=3600, description="How old a look at the machines may be."
    )


class PolicyChange(BaseModel):
    """What of a policy is to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gatekeeping_enabled: bool | None = None
    max_concurrent_jobs: int | None = Field(default=None, ge=0)
    cpu_max_utilization_percent: float | None = Field(default=None, gt=0, le=100)
    memory_max_utilization_percent: float | None = Field(default=None, gt=0, le=100)
    gpu_max_utilization_percent: float | None = Field(default=None, gt=0, le=100)
    resource_cache_ttl_seconds: float | None = Field(default=None, ge=0, le=3600)


class RayJob(BaseModel):
    """What Ray knows of a job."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: JobStatus
    entrypoint: str
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    entrypoint_num_cpus: float | None = None
    entrypoint_num_gpus: float | None = None
    entrypoint_memory: int | None = None
    entrypoint_resources: dict[str, float] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None

    @property
    def made_up(self) -> bool:
        """Whether nobody has submitted it: Ray notes how the end went of a job it has forgotten."""
        return self.entrypoint == _NO_ENTRYPOINT and self.status.ended

    def left_over(self, job_id: str) -> bool:
        """Whether it is of no use, when the Store has no record of it: made up, or deleted there.

        Args:
            job_id: its own.
        """
        env_vars: dict[str, str] = (self.runtime_env or {}).get("env_vars") or {}
        return self.made_up or (self.status.ended and env_vars.get(JOB_ID) == job_id)

    @property
    def demand(self) -> dict[str, float]:
        """What its command needs, in Ray's names."""
        own = {
            "CPU": self.entrypoint_num_cpus or 0,
            "GPU": self.entrypoint_num_gpus or 0,
            "memory": self.entrypoint_memory or 0,
        }
        own |= self.entrypoint_resources or {}
        return {name: amount for name, amount in own.items() if amount}


def looks_secret(name: str, value: str) -> bool:
    """Whether an environment variable seems to be a secret, by its name or its value."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.match(value))


def redacted(runtime_env: dict[str, Any]) -> dict[str, Any]:
    """Return a runtime_env without the values of variables that look like secrets."""
    found: Any = runtime_env.get("env_vars")
    if not isinstance(found, dict):
        return runtime_env
    env_vars = cast("dict[str, Any]", found)  # JSON has no other names
    shown = {
        name: REDACTED if looks_secret(name, str(value)) else value
        for name, value in env_vars.items()
        if not name.startswith("AGENTRAY_JOB_")
    }
    return {**runtime_env, "env_vars": shown}
