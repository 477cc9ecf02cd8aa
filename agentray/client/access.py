"""Where the gateway is and who asks: what was given, else the settings, else the files."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentray.config import ClusterRecord, Settings
from agentray.core.owners import check_tenant
from agentray.errors import ClusterNotRunning, ConfigurationError

_API = "/v1"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a gateway.

    Attributes:
        url: without `/v1` and without a slash at its end.
        api_key: None: none is sent.
        user_token: on whose behalf.
        tenant: for whom, where the key belongs to none.
    """

    url: str
    api_key: str | None = field(repr=False)
    user_token: str | None = field(default=None, repr=False)
    tenant: str | None = None

    @classmethod
    def find(
        cls,
        url: str | None = None,
        api_key: str | None = None,
        *,
        user_token: str | None = None,
        tenant: str | None = None,
    ) -> Access:
        """Find out.

        Args:
            url: of the gateway; None: `AGENTRAY_URL`, else what `agentray up` recorded.
            api_key: None: `AGENTRAY_API_KEY`, else the one `agentray up` made, else none is sent.
            user_token: on whose behalf; None: it is not said.
            tenant: for whom; None: the key's own.

        Raises:
            ClusterNotRunning: no URL is given, and nothing is up on this machine.
            ConfigurationError: one of them is malformed.
        """
        settings = Settings()
        found = url or settings.url or _recorded_url(settings)
        if not found.startswith(("http://", "https://")):
            raise ConfigurationError(f"The gateway's URL {found!r} is neither http nor https.")
        key = api_key or settings.api_key or _recorded_key(settings)
        for name, value in (("API key", key), ("user token", user_token)):
            if value is not None and not (value.isascii() and value.isprintable()):
                raise ConfigurationError(f"The {name} has characters that no header can have.")
        if tenant is not None:
            check_tenant(tenant)
        return cls(found.rstrip("/").removesuffix(_API).rstrip("/"), key, user_token, tenant)

    def headers(self) -> dict[str, str]:
        """Return what says who asks."""
        told = {
            "Authorization": self.api_key and f"Bearer {self.api_key}",
            "SYNAPSE-User": self.user_token and f"Token {self.user_token}",
            "SYNAPSE-Tenant": self.tenant and f"Token {self.tenant}",
        }
        return {name: value for name, value in told.items() if value}


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
