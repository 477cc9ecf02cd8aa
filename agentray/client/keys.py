"""API keys in the asynchronous client: `client.keys`."""

from __future__ import annotations

from collections.abc import Sequence

from agentray.client.calls import keys as calls
from agentray.client.calls.keys import KeyPage
from agentray.client.resource import AsyncResource
from agentray.protocol.keys import CreatedKey, KeyInfo, Scope


class AsyncKeys(AsyncResource):
    """Makes API keys and revokes them. Every method raises `ClientError`.

    ```python
    made = await client.keys.create(["invoke", "read"], name="shop", tenant="acme")
    print(made.secret)  # the key, told once
    ```
    """

    async def create(
        self, scopes: Sequence[Scope], *, name: str = "", tenant: str | None = None
    ) -> CreatedKey:
        """Make a key, and return it with its `secret`, which nobody can tell later.

        Sent once: a repeat would be another key.

        Args:
            scopes: what it may do.
            name: for people.
            tenant: whose it is; None: that of the client's key, which may be none.

        Raises:
            Forbidden: the client's key is no admin's, or another tenant's.
            InvalidRequest: a field is wrong.
        """
        request = calls.create(scopes, name, tenant)
        return calls.parse_created(await self._connection.send(request))

    async def get(self, key_id: str) -> KeyInfo:
        """Return a key, without what opens the gateway.

        Raises:
            NotFound: there is none of this id.
        """
        return calls.parse_key(await self._connection.send(calls.get(key_id)))

    async def list(self, *, limit: int = 50, before: str | None = None) -> KeyPage:
        """Return keys, newest first, also revoked ones.

        Args:
            limit: most of them, 1 to 200.
            before: id of the last one already seen: the `next` of the page before.
        """
        return calls.parse_keys(await self._connection.send(calls.list_keys(limit, before)))

    async def revoke(self, key_id: str) -> KeyInfo:
        """Revoke a key: it opens nothing any more. Revoking it again changes nothing.

        Raises:
            NotFound: there is none of this id.
        """
        return calls.parse_key(await self._connection.send(calls.revoke(key_id)))
