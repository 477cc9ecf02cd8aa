"""Where the gateway is and who asks: what was given, else the settings, else the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agentray.client.profiles import find_profile
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
        proxy: that its profile names.
        ca: likewise.
    """

    url: str
    api_key: str | None = field(repr=False)
    user_token: str | None = field(default=None, repr=False)
    tenant: str | None = None
    proxy: str | None = None
    ca: Path | None = None

    @classmethod
    def find(
        cls,
        url: str | None = None,
        api_key: str | None = None,
        *,
        user_token: str | None = None,
        tenant: str | None = None,
        profile: str | None = None,
    ) -> Access:
        """Find out.

        Args:
            url: of the gateway; None: `AGENTRAY_URL`, else the profile's, else what `agentray up`
                recorded.
            api_key: None: `AGENTRAY_API_KEY`, else that of the same source as the URL, else none is
                sent.
            user_token: on whose behalf; None: it is not said.
            tenant: for whom; None: the key's own.
            profile: see `agentray.client.profiles`; None: `AGENTRAY_PROFILE`, else the default.

        Raises:
            ClusterNotRunning: no URL is given, and nothing is up on this machine.
            ConfigurationError: one of them is malformed.
        """
        settings = Settings()
        known = None
        if profile is not None or not (url or settings.url):
            known = find_profile(settings, profile)
        if known is not None:
            api_key, tenant = api_key or known.secret(), tenant or known.tenant
            url, user_token = url or known.url, user_token or known.user_token
        found = url or settings.url or _recorded_url(settings)
        if not found.startswith(("http://", "https://")):
            raise ConfigurationError(f"The gateway's URL {found!r} is neither http nor https.")
        key = api_key or settings.api_key or _recorded_key(settings)
        for name, value in (("API key", key), ("user token", user_token)):
            if value is not None and not (value.isascii() and value.isprintable()):
                raise ConfigurationError(f"The {name} has characters that no header can have.")
        if tenant is not None:
            check_tenant(tenant)
        url = found.rstrip("/").removesuffix(_API).rstrip("/")
        if known is None:
            return cls(url, key, user_token, tenant)
        return cls(url, key, user_token, tenant, known.proxy, known.ca)

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
