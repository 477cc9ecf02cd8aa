"""How a client reaches its gateway: how long it waits, through which proxy, whom it trusts."""

from __future__ import annotations

import ipaddress
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from agentray.errors import ConfigurationError

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Transport:
    """How to get there.

    Attributes:
        total_s: seconds that a call may take, repeats included, beyond the gateway's own wait.
        connect_s: seconds until a connection is there; None: as long as the call may take.
        read_s: seconds until an answer comes, beyond the gateway's own wait; None: likewise.
        proxy: URL of an HTTP proxy; None: there is none.
        trust: whom it trusts; None: whom the system does.
    """

    total_s: float = _PATIENCE_S
    connect_s: float | None = None
    read_s: float | None = None
    proxy: str | None = None
    trust: ssl.SSLContext | None = None

    @classmethod
    def read(
        cls,
        url: str,
        timeout: float | Mapping[str, float] | None = None,
        proxy: str | None = None,
        ca: str | Path | ssl.SSLContext | None = None,
    ) -> Self:
        """Read what a client is told.

        Args:
            url: of the gateway.
            timeout: see `AsyncAgentClient`.
            proxy: likewise.
            ca: likewise.

        Raises:
            ConfigurationError: one of them is malformed, or there is no such file.
        """
        given = {"total": timeout} if isinstance(timeout, int | float) else dict(timeout or {})
        if unknown := given.keys() - {"connect", "read", "total"}:
            told = f"timeout has {min(unknown)!r}: it has connect, read and total, in seconds."
            raise ConfigurationError(told)
        for name, seconds in given.items():
            if isinstance(seconds, bool) or not (seconds > 0 and math.isfinite(seconds)):
                raise ConfigurationError(f"timeout[{name!r}]={seconds!r}: seconds, above 0.")
        return cls(
            given.get("total", _PATIENCE_S),
            given.get("connect"),
            given.get("read"),
            _checked(proxy) if proxy else _proxy_of_environment(url),
            _trust(ca),
        )


def _checked(proxy: str) -> str:
    if not proxy.startswith(("http://", "https://")):
        raise ConfigurationError("The proxy's URL is neither http nor https.")
    return proxy


def _proxy_of_environment(url: str) -> str | None:
    parts = urlsplit(url)
    if _is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    # Others, such as socks, are for other programs.
    return found if found and found.startswith(("http://", "https://")) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _trust(ca: str | Path | ssl.SSLContext | None) -> ssl.SSLContext | None:
    if ca is None or isinstance(ca, ssl.SSLContext):
        return ca
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"No certificates can be read from {str(ca)!r}: {error}"
        ) from error
