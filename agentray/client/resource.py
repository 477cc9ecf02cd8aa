"""What the parts of the asynchronous client have in common."""

from __future__ import annotations

from agentray.client.connection import Connection


class AsyncResource:
    """Methods that ask one gateway about one kind of thing."""

    def __init__(self, connection: Connection) -> None:
        """Made by the client."""
        self._connection = connection
