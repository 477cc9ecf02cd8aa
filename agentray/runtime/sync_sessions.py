"""Sessions for programs that do not await."""

from __future__ import annotations

from agentray.runtime.session_client import SessionClient
from agentray.runtime.sync_part import SyncPart, blocking


class SyncSessions(SyncPart[SessionClient]):
    """A `SessionClient` whose methods block; see there for what each one does and raises."""

    create = blocking(SessionClient.create)
    get = blocking(SessionClient.get)
    list = blocking(SessionClient.list)
    update = blocking(SessionClient.update)
    delete = blocking(SessionClient.delete)
    copy = blocking(SessionClient.copy)
    runs = blocking(SessionClient.runs)
