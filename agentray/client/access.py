"""Where the gateway is and which key to send: what was given, else the settings, else the files."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentray.config import ClusterRecord, Settings
from agentray.errors import ClusterNotRunning, ConfigurationError


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a gateway."""

    url: str
    api_key: str | None = field(repr=False)

    @classmethod
    def find(cls, url: str | None = None, api_key: str | None = None) -> Access:
        """Find out.

        Args:
            url: of the gateway; None: `AGENTRAY_URL`, else what `agentray up` recorded.
            api_key: None: `AGENTRAY_API_KEY`, else the one `agentray up` made, else none is sent.

        Raises:
            ClusterNotRunning: no URL is given, and nothing is up on this machine.
            ConfigurationError: the URL is malformed.
        """
        settings = Settings()
        found = url or settings.url or _recorded_url(settings)
        if not found.startswith(("http://", "https://")):
            raise ConfigurationError(f"The gateway's URL {found!r} is neither http nor https.")
        return cls(found.rstrip("/"), api_key or settings.api_key or _recorded_key(settings))


def _recorded_url(settings: Settings) -> str:
    record = ClusterRecord.read(settings)
    if record is None:
        raise ClusterNotRunning
    return record.url


def _recorded_key(settings: Settings) -> str | None:
    try:
        return settings.key_file.read_text().strip() or None
    except FileNotFoundError:
        return None
