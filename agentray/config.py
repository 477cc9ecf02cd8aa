"""Settings: where things are and how large they may grow.

Each is read from the environment (`AGENTRAY_` and the field's name in capitals) when a `Settings`
is made, never at import.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything that an operator can set."""

    model_config = SettingsConfigDict(env_prefix="AGENTRAY_", extra="ignore", frozen=True)

    home: Path = Field(
        default_factory=lambda: Path.home() / ".agentray",
        description="Data of this machine: the embedded database, the API key, the cluster record.",
    )
    database_url: str | None = Field(
        default=None,
        description="postgresql://… of a real server; unset: the embedded one. Needed for more "
        "than one node.",
    )
    host: str = Field(default="127.0.0.1", description="Address the gateway listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port of the gateway.")
    gcs_port: int = Field(default=6379, ge=0, le=65535, description="Port of Ray's GCS; 0: any.")
    dashboard_port: int = Field(
        default=8265, ge=0, le=65535, description="Port of Ray's dashboard and job API; 0: any."
    )
    hosts: PositiveInt = Field(default=2, description="Hosts of the pool `default`.")
    replicas: PositiveInt = Field(default=1, description="Replicas of the gateway.")
    max_body_bytes: PositiveInt = Field(
        default=1_048_576, description="Largest request body that the gateway reads."
    )
    max_wait_s: PositiveFloat = Field(
        default=60.0, description="Longest time that a prompt request waits for its run's end."
    )
    url: str | None = Field(default=None, description="Gateway that the CLI and clients talk to.")
    api_key: str | None = Field(default=None, description="Key that the CLI and clients send.")
    log_level: str = Field(default="INFO", description="Level of agentray's loggers.")

    @property
    def key_file(self) -> Path:
        """Where the generated API key is, mode 0600."""
        return self.home / "api_key"

    @property
    def cluster_file(self) -> Path:
        """Where `agentray up` records what it started."""
        return self.home / "cluster.json"
