"""The last deaths of hosts: the status tells them, and the snapshot says why to those who wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from agentray.core.deaths import Death

TOLD = 20


class LastDeaths:
    """What a manager remembers of hosts that have died under it."""

    def __init__(self) -> None:
        self._told: deque[dict[str, str]] = deque(maxlen=TOLD)

    def note(self, host_id: str, pool: str, death: Death) -> None:
        """Remember a death."""
        self._told.appendleft(
            {"host": host_id, "pool": pool, "reason": death.reason}
            | {"cause": death.cause.value, "at": datetime.now(UTC).isoformat()}
        )

    def told(self) -> list[dict[str, str]]:
        """Return the last ones for the status, the newest first."""
        return list(self._told)

    def reasons(self) -> Mapping[str, str]:
        """Return why hosts died, by their ids."""
        return {told["host"]: told["reason"] for told in self._told}
