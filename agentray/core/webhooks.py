"""Decides about webhooks: how they are signed, when they are tried again, where they may go."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

SECRET_PREFIX = "whsec_"  # noqa: S105 - as Standard Webhooks has it

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_FIRST_S = 5.0
_FACTOR = 4.0
_LONGEST_S = 8 * 3600.0
_PATIENCE_S = 24 * 3600.0
_GONE = 410
_NAT64 = ip_network("64:ff9b::/96")


def new_secret(random: bytes) -> str:
    """Return a secret as its user keeps it, from 24 or more random bytes."""
    return SECRET_PREFIX + base64.b64encode(random).decode()


def sign(secrets: Sequence[str], webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: one signature for each secret.

    Args:
        secrets: `whsec_…`; while one takes another's place there are two.
        webhook_id: the header `webhook-id`.
        timestamp: the header `webhook-timestamp`, seconds since 1970.
        body: what is sent.
    """
    signed = b"%s.%d.%s" % (webhook_id.encode(), timestamp, body)
    return " ".join(
        "v1,"
        + base64.b64encode(
            hmac.digest(
                base64.b64decode(secret.removeprefix(SECRET_PREFIX)), signed, hashlib.sha256
            )
        ).decode()
        for secret in secrets
    )


class Verdict(NamedTuple):
    """What a try came to.

    Attributes:
        delivered: it has arrived.
        again_in_s: seconds until it is tried again; None: it is not.
    """

    delivered: bool
    again_in_s: float | None = None


def judge(
    status: int | None,
    attempts: int,
    most: int,
    *,
    jitter: float,
    retry_after_s: float | None = None,
    refused: bool = False,
) -> Verdict:
    """Decide what follows from a try.

    Args:
        status: the HTTP status of the answer; None: there was none.
        attempts: how many there were, this one included.
        most: after so many it is given up.
        jitter: a number from 0 to 1, by which those that failed together are spread.
        retry_after_s: seconds for which the receiver asked.
        refused: it must not be sent there at all.
    """
    if status is not None and 200 <= status < 300:
        return Verdict(delivered=True)
    if refused or status == _GONE or attempts >= most:
        return Verdict(delivered=False)
    pause_s = min(_LONGEST_S, _FIRST_S * _FACTOR ** min(attempts - 1, 20))
    pause_s *= 0.75 + 0.5 * jitter
    if retry_after_s is not None:
        pause_s = max(pause_s, min(retry_after_s, _PATIENCE_S))
    return Verdict(delivered=False, again_in_s=pause_s)


def literal_address(host: str) -> Address | None:
    """Return the address that a host name of an URL is; None: it is a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether a webhook may go to an address: it is public, or in one of these networks.

    What stands for an IPv4 address (mapped, translated, tunnelled) is judged as that.
    """
    if is_named(address, allowed):
        return True
    address = _meant(address)
    return address.is_global and not (address.is_multicast or address.is_reserved)


def is_named(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether an address is in one of these networks."""
    address = _meant(address)
    return any(address.version == network.version and address in network for network in allowed)


def _meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for; any other one as it is."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    # What was tunnelled over IPv4 once names two; its own is the one that is reached.
    return (
        address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address
    )
