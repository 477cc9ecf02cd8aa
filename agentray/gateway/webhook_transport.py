"""How webhooks leave: to public addresses only, checked where the connection is made.

A name is resolved once per connection, and only to addresses that are allowed: what it resolved to
before, or will afterwards, does not matter. Proxies of the environment are not used.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agentray.core.webhooks import Address, Network, is_allowed, is_named, literal_address

TIMEOUT_S = 20.0
"""For one request, all in all."""

CONNECT_S = 5.0
MAX_REDIRECTS = 3

_SAME_METHOD = frozenset({307, 308})  # the other redirects would make it a GET


class AddressRefused(OSError):
    """An address that webhooks must not go to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver answered; without a status it did not."""

    status: int | None = None
    retry_after_s: float | None = None


class Gate:
    """Decides where webhooks may go."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        """Make one.

        Args:
            allowed: networks that are allowed although they are not public, also without TLS.
        """
        self._allowed = allowed

    def check(self, address: Address, scheme: str) -> None:
        """Refuse an address.

        Raises:
            AddressRefused: it is not public, or would be reached without TLS.
        """
        if not is_allowed(address, self._allowed):
            raise AddressRefused(
                "The address is not public, and AGENTRAY_WEBHOOK_NETWORKS does not allow it."
            )
        if scheme != "https" and not is_named(address, self._allowed):
            raise AddressRefused("Webhooks leave this network by https:// only.")

    def check_url(self, url: str) -> None:
        """Refuse a URL for what it says itself; names are checked when they are resolved.

        Raises:
            AddressRefused: as `check`.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise AddressRefused("Webhooks go to https://host/… only.")
        address = literal_address(parts.hostname)
        if address is not None:
            self.check(address, parts.scheme)


class _Resolver(AbstractResolver):
    """Resolves names to addresses that are allowed."""

    def __init__(self, gate: Gate, scheme: str) -> None:
        self._gate = gate
        self._scheme = scheme
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host that webhooks may go to."""
        found = await self._resolver.resolve(host, port, family)
        allowed: list[ResolveResult] = []
        refused: AddressRefused | None = None
        for each in found:
            try:
                self._gate.check(ip_address(each["host"]), self._scheme)
                allowed.append(each)
            except AddressRefused as error:
                refused = error
        if not allowed:
            raise refused or OSError(f"{host} has no address.")
        return allowed

    async def close(self) -> None:
        """Nothing is open."""


class Transport:
    """Posts to receivers."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self.gate = Gate(allowed)
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Post a body; redirects that keep the method are followed, each checked as the first.

        Raises:
            AddressRefused: it must not go there.
            OSError, TimeoutError: it did not arrive.
        """
        for _ in range(MAX_REDIRECTS + 1):
            self.gate.check_url(url)
            status, location, retry_after_s = await self._post(url, body, headers)
            if status not in _SAME_METHOD or location is None:
                return Answer(status, retry_after_s)
            url = urljoin(url, location)
        raise OSError(f"It was sent on more than {MAX_REDIRECTS} times.")

    async def _post(
        self, url: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, str | None, float | None]:
        session = self._session(urlsplit(url).scheme)
        try:
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return (
                    answer.status,
                    answer.headers.get("location"),
                    _seconds(answer.headers.get("retry-after", "")),
                )
        except aiohttp.InvalidURL as error:
            raise AddressRefused(f"There is no host in its URL: {error}.") from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, AddressRefused):
                raise error.os_error from None
            raise
        except aiohttp.ClientError as error:  # those that are no OSError
            raise OSError(f"{type(error).__name__}: {error}") from error

    def _session(self, scheme: str) -> aiohttp.ClientSession:
        session = self._sessions.get(scheme)
        if session is None:
            connector = aiohttp.TCPConnector(
                resolver=_Resolver(self.gate, scheme),
                use_dns_cache=False,
                force_close=True,
                limit=0,
            )
            session = self._sessions[scheme] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_S),
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "agentray-webhooks"},
            )
        return session

    async def close(self) -> None:
        """Close what is open."""
        for session in self._sessions.values():
            await session.close()


def _seconds(text: str) -> float | None:
    """Return the seconds of a `Retry-After`; None: it says none."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
