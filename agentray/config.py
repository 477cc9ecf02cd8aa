"""Settings: where things are and how large they may grow.

Each is read from the environment (`AGENTRAY_` and the field's name in capitals) when a `Settings`
is made, never at import.
"""

from __future__ import annotations

import re
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MAX_STATE_BYTES = 16 * 1024 * 1024
"""Largest state of one agent, where nothing else is set."""

QUARANTINE_AFTER = 3
"""Deaths of hosts after which the agent that is blamed for them takes no messages any more."""

METRICS_INTERVAL_S = 5.0

TRACE_RETENTION_DAYS = 7.0
TRACE_RETENTION_RUNS = 100_000


class RunRetention(NamedTuple):
    """How long ended runs are kept, and how many of each status.

    Attributes:
        days: since their end, of those that succeeded or were cancelled.
        runs: of each of these statuses, the newest.
        failed_days: since their end, of those that ended in another way.
        failed_runs: of each of these statuses, the newest.
    """

    days: float = 30.0
    runs: int = 1_000_000
    failed_days: float = 90.0
    failed_runs: int = 100_000


RUN_RETENTION = RunRetention()


class JobRetention(NamedTuple):
    """How long ended jobs are kept, with what is kept of their logs.

    Attributes:
        days: since their end.
        jobs: the newest.
    """

    days: float = 90.0
    jobs: int = 10_000


JOB_RETENTION = JobRetention()

JOB_LOG_BYTES = 16 << 20
"""Bytes of each job's log that are kept, where nothing else is set."""

DEAD_LETTERS = 10_000
"""Dead letters that are kept, where nothing else is set."""


def parse_list(value: object) -> object:
    """Return the items of a text in which commas divide them; anything else as it is."""
    if not isinstance(value, str):
        return value
    return [item for each in value.split(",") if (item := each.strip())]


class BatchLimits(NamedTuple):
    """What leaves together in one request to a host, at most.

    Attributes:
        messages: their number.
        bytes: of their payloads; the message that reaches them is the last one.
    """

    messages: int = 512
    bytes: int = 1 << 20


BATCH = BatchLimits()
"""The limits where nothing else is set."""


class DatabaseLimits(NamedTuple):
    """How long a database may take to answer.

    Attributes:
        statement_s: for one statement, also when it waits for others.
        silence_s: without any answer, not even to who wants to connect; then it counts as away.
    """

    statement_s: float = 30.0
    silence_s: float = 10.0


DATABASE = DatabaseLimits()
"""The limits where nothing else is set."""


MAX_ATTEMPTS = 8
"""Attempts of a run whose hosts keep dying; then it is `dead` and kills no more of them.

A host's death can cost a run two: one for the death, one when the replacement takes slots over."""


class Settings(BaseSettings):
    """Everything that an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix="AGENTRAY_",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # there are passwords and keys in it
    )

    home: Path = Field(
        default_factory=lambda: Path.home() / ".agentray",
        description="Data of this machine: the embedded database, the API key, the cluster record. "
        "An absolute path, or one that begins with ~.",
    )
    database_url: str | None = Field(
        default=None,
        description="postgresql://… of a real server; unset: the embedded one. Needed for more "
        "than one node.",
    )
    database_timeout_s: PositiveFloat = Field(
        default=DATABASE.statement_s,
        description="Seconds for one statement of the database; then it is given up.",
    )
    database_silence_s: PositiveFloat = Field(
        default=DATABASE.silence_s,
        description="Seconds in which a database may answer nothing at all, as one that was "
        "stopped; then what waits for it fails, and all else at once, until it answers.",
    )
    host: str = Field(default="127.0.0.1", description="Address the gateway listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port of the gateway.")
    gcs_port: int = Field(default=6379, ge=0, le=65535, description="Port of Ray's GCS; 0: any.")
    dashboard_port: int = Field(
        default=8265, ge=0, le=65535, description="Port of Ray's dashboard and job API; 0: any."
    )
    hosts: PositiveInt = Field(default=2, description="Hosts of the pool `default`.")
    replicas: PositiveInt = Field(default=1, description="Replicas of the gateway.")
    max_replicas: PositiveInt | None = Field(
        default=None,
        description="Replicas of the gateway when it is busy: their number follows the requests "
        "under way, from `replicas` up. Unset: it is always `replicas`.",
    )
    gateway_target_requests: PositiveInt = Field(
        default=100,
        description="Requests under way per replica, streams among them, above which there are "
        "more replicas where `max_replicas` lets them be.",
    )
    gateway_downscale_s: NonNegativeFloat = Field(
        default=300.0,
        description="Seconds for which there has to be less to do before a replica leaves: it "
        "breaks streams.",
    )
    allowed_hosts: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        default=None,
        description="Further names by which a gateway on a loopback address may be asked for, such "
        "as that of a proxy before it; divided by commas.",
    )
    root_path: str | None = Field(
        default=None,
        pattern=r"^(/[A-Za-z0-9._~-]+)+$",
        description="Path before the gateway's own, such as `/agents`, where a proxy serves it "
        "below one, and takes it from paths or not.",
    )
    cors_origins: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        default=None,
        description="Origins whose web pages may ask the gateway, such as "
        "`https://app.example.com`, or `*`; divided by commas. Unset: none.",
    )
    max_body_bytes: PositiveInt = Field(
        default=1_048_576, description="Largest request body that the gateway reads."
    )
    max_attachment_bytes: PositiveInt = Field(
        default=5_242_880, description="Largest file that a prompt may bring."
    )
    max_attachments_bytes: PositiveInt = Field(
        default=10_485_760,
        description="Bytes of all files of a prompt together; they come on top of "
        "`max_body_bytes`, in base64.",
    )
    max_state_bytes: PositiveInt = Field(
        default=MAX_STATE_BYTES, description="Largest state of one agent, in bytes of JSON."
    )
    max_noted_bytes: PositiveInt = Field(
        default=MAX_STATE_BYTES,
        description="Bytes of the states of one agent's past responses, from which others may "
        "branch: the newest ones.",
    )
    max_wait_s: PositiveFloat = Field(
        default=60.0, description="Longest time that a prompt request waits for its run's end."
    )
    openai_wait_s: PositiveFloat = Field(
        default=600.0,
        description="Longest time that a request in OpenAI's form waits for its answer.",
    )
    url: str | None = Field(default=None, description="Gateway that the CLI and clients talk to.")
    profile: str | None = Field(
        default=None,
        description="A gateway of `profiles.toml` in AGENTRAY_HOME that the CLI and clients use.",
    )
    api_key: str | None = Field(default=None, description="Key that the CLI and clients send.")
    threads: PositiveInt | None = Field(
        default=None,
        description="Threads of each host for `run_sync`; unset: the CPUs and 4 more, at most 32.",
    )
    blocked_warning_s: NonNegativeFloat = Field(
        default=0.1,
        description="Seconds that a handler may block its host's event loop before a warning says "
        "which agent and where; 0: no warning.",
    )
    max_runs: PositiveInt | None = Field(
        default=None,
        description="Runs that one host works on at once; further ones wait in the order in which "
        "they came, as `queued`. Unset: no limit. A run that waits for another run's end counts.",
    )
    max_attempts: PositiveInt = Field(
        default=MAX_ATTEMPTS,
        description="Attempts of a run that each lost a host; then it is given up as `dead`. A "
        "host's death can cost a run two. A prompt or dispatch may say its own `max_attempts`.",
    )
    batch_messages: PositiveInt = Field(
        default=BATCH.messages,
        description="Messages that leave together in one request to a host, at most.",
    )
    batch_bytes: PositiveInt = Field(
        default=BATCH.bytes,
        description="Bytes of payloads with which such a request is full.",
    )
    run_retention_days: float = Field(
        default=RUN_RETENTION.days,
        ge=1,
        description="Days since their end for which runs are kept that succeeded or were "
        "cancelled; at least 1, since idempotency keys find them.",
    )
    run_retention_runs: NonNegativeInt = Field(
        default=RUN_RETENTION.runs,
        description="Of each of these statuses, the newest runs that are kept; those of the last "
        "24 hours stay in any case.",
    )
    failed_run_retention_days: float = Field(
        default=RUN_RETENTION.failed_days,
        ge=1,
        description="Days since their end for which runs are kept that ended in another way.",
    )
    failed_run_retention_runs: NonNegativeInt = Field(
        default=RUN_RETENTION.failed_runs,
        description="Of each of these statuses, the newest runs that are kept.",
    )
    trace_retention_days: NonNegativeFloat = Field(
        default=TRACE_RETENTION_DAYS, description="Days for which the traces of runs are kept."
    )
    trace_retention_runs: NonNegativeInt = Field(
        default=TRACE_RETENTION_RUNS, description="Runs, the newest, whose traces are kept."
    )
    dead_letters: NonNegativeInt = Field(
        default=DEAD_LETTERS, description="Dead letters that are kept, the newest."
    )
    job_log_bytes: NonNegativeInt = Field(
        default=JOB_LOG_BYTES,
        description="Bytes of each job's log that are kept in the database, for when its machine "
        "is gone: half of them from its beginning, half from its end.",
    )
    job_retention_days: NonNegativeFloat = Field(
        default=JOB_RETENTION.days, description="Days since their end for which jobs are kept."
    )
    job_retention_jobs: NonNegativeInt = Field(
        default=JOB_RETENTION.jobs, description="Ended jobs that are kept, the newest."
    )
    max_package_bytes: PositiveInt = Field(
        default=256 << 20,
        description="Largest package of a job's files that the gateway takes.",
    )
    metrics_interval_s: NonNegativeFloat = Field(
        default=METRICS_INTERVAL_S,
        description="Seconds between two readings of the hosts' metrics by Ray; 0: none are kept.",
    )
    gateway_requests: PositiveInt = Field(
        default=1000,
        description="Requests that one replica of the gateway answers at once, those that wait for "
        "runs among them; further ones get 429.",
    )
    gateway_streams: NonNegativeInt = Field(
        default=4000,
        description="Streams of events that one replica holds besides; further ones take places of "
        "requests.",
    )
    gateway_runs: PositiveInt = Field(
        default=20_000,
        description="Runs under way that one replica of the gateway has admitted; further prompts "
        "get 429.",
    )
    gateway_runs_per_key: PositiveInt | None = Field(
        default=None, description="The same for each API key. Unset: no limit of its own."
    )
    webhook_networks: Annotated[tuple[IPv4Network | IPv6Network, ...] | None, NoDecode] = Field(
        default=None,
        description="Networks to which webhooks may go although they are not public, also without "
        "TLS, such as `10.1.0.0/16,fd00::/8`. Unset: public addresses only, by https.",
    )
    webhook_attempts: PositiveInt = Field(
        default=10,
        description="Times that a webhook is sent before it is given up; with the default, over "
        "about a day.",
    )
    quarantine_after: NonNegativeInt = Field(
        default=QUARANTINE_AFTER,
        description="Deaths of hosts after which the agent that is blamed for them is quarantined; "
        "0: none ever is.",
    )
    log_level: str = Field(default="INFO", description="Level of agentray's loggers.")

    @field_validator("home")
    @classmethod
    def _check_home(cls, home: Path) -> Path:
        home = home.expanduser()
        if not home.is_absolute():  # it would be another one in each directory
            raise ValueError("it must be an absolute path, or begin with ~")
        return home

    @field_validator("webhook_networks", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return parse_list(value)

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if not re.fullmatch(r"[A-Za-z0-9.:_-]+", name) or ":/" in name:
                raise ValueError(f"{name!r} is no name of a host, such as agents.example.com")
        return names

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for origin in origins or ():
            if origin != "*" and not re.fullmatch(r"https?://[^\s/?#@]+", origin):
                raise ValueError(f"{origin!r} is no origin, such as https://app.example.com")
        return origins

    @field_validator("max_replicas")
    @classmethod
    def _check_max_replicas(cls, most: int | None, info: ValidationInfo) -> int | None:
        if most is not None and most < info.data.get("replicas", 1):
            raise ValueError("it must not be below `replicas`")
        return most

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises for what is no port
        except ValueError as error:
            raise ValueError(f"it is no URL of a database ({error})") from None
        if parts.scheme not in {"postgresql", "postgres"}:
            raise ValueError("it must be of the form postgresql://user:password@host:port/database")
        return url

    @property
    def run_retention(self) -> RunRetention:
        """How long ended runs are kept."""
        return RunRetention(
            self.run_retention_days,
            self.run_retention_runs,
            self.failed_run_retention_days,
            self.failed_run_retention_runs,
        )

    @property
    def job_retention(self) -> JobRetention:
        """How long ended jobs are kept."""
        return JobRetention(self.job_retention_days, self.job_retention_jobs)

    @property
    def batch(self) -> BatchLimits:
        """What leaves together in one request to a host."""
        return BatchLimits(self.batch_messages, self.batch_bytes)

    @property
    def database(self) -> DatabaseLimits:
        """How long the database may take to answer."""
        return DatabaseLimits(self.database_timeout_s, self.database_silence_s)

    @property
    def key_file(self) -> Path:
        """Where the generated API key is, mode 0600."""
        return self.home / "api_key"

    @property
    def postgres_dir(self) -> Path:
        """Where the embedded database is."""
        return self.home / "postgres"

    @property
    def cluster_file(self) -> Path:
        """Where `agentray up` records what it started."""
        return self.home / "cluster.json"


class ClusterRecord(BaseModel):
    """What `agentray up` started on this machine, so that other commands find it."""

    model_config = ConfigDict(frozen=True)

    url: str = Field(description="The gateway.")
    gcs_address: str = Field(description="host:port of Ray's GCS.")
    dashboard_url: str = Field(description="Ray's dashboard and job API.")
    app: str = Field(description="Import string of the app that it was started with.")
    embedded_database: bool
    version: str = Field(description="agentray's version.")
    started_at: datetime
    local_cluster: dict[str, Any] = Field(description="What stops exactly this Ray cluster.")

    @classmethod
    def read(cls, settings: Settings) -> ClusterRecord | None:
        """Return the record; None when nothing was started, or it cannot be read."""
        try:
            return cls.model_validate_json(settings.cluster_file.read_text())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None

    def write(self, settings: Settings) -> None:
        """Keep the record, readable by its owner only."""
        settings.cluster_file.touch(mode=0o600)
        settings.cluster_file.write_text(self.model_dump_json(indent=2))
