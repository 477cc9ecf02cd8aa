"""Who owns what is made over HTTP: an API key, and the tenant for which it was used.

An owner is one text, kept with each run, schedule and dead letter: `KEY`, or `KEY@TENANT`. Who
belongs to a tenant sees what that tenant owns and nothing else; who belongs to none sees all.
"""

from __future__ import annotations

import re

from agentray.errors import ConfigurationError

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_SEPARATOR = "@"


def check_tenant(name: str) -> str:
    """Return the name of a tenant when it is well formed.

    Raises:
        ConfigurationError: it is not.
    """
    if not _TENANT.fullmatch(name):
        raise ConfigurationError(
            f"{name[:120]!r} is no name of a tenant: use 1 to 100 letters, digits, dots, dashes, "
            "underscores and colons, beginning with a letter or digit."
        )
    return name


def owner_of(key_id: str, tenant: str) -> str:
    """Return the owner of what a key makes.

    Args:
        key_id: the key.
        tenant: for which it was used; "": for none.
    """
    return f"{key_id}{_SEPARATOR}{tenant}" if tenant else key_id


def tenant_of(owner: str) -> str:
    """Return the tenant of an owner; "" where it has none, as drivers."""
    return owner.partition(_SEPARATOR)[2]


def may_see(tenant: str, owner: str) -> bool:
    """Whether somebody of a tenant may see what an owner has; of no tenant: everything."""
    return not tenant or tenant_of(owner) == tenant
