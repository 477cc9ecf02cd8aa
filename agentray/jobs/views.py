"""What a cluster consists of, as Ray tells: machines, tasks, actors, Serve applications."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentray.core.jobs import NodeLoad

_ID_DIGITS = {
    "node_id": 56, "worker_id": 56, "task_id": 48, "parent_task_id": 48, "placement_group_id": 36,
    "actor_id": 32, "job_id": 8,
}  # fmt: skip
"""Hexadecimal digits of Ray's ids."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of many are wanted.

    Attributes:
        limit: how many at most.
        filters: names of fields and the values that they must have.
    """

    limit: int = 100
    filters: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def possible(self) -> bool:
        """Whether its ids are of the form of Ray's: asked for others it fails, or lists all."""
        return all(
            re.fullmatch(f"[0-9a-f]{{{_ID_DIGITS[name]}}}", value)
            for name, value in self.filters.items()
            if name in _ID_DIGITS
        )


class ClusterViews(Protocol):
    """Looks at the cluster.

    Every method raises `RayUnavailable` when nobody answers, and `FilterRejected` where things
    cannot be looked for by a field.
    """

    async def nodes(self, wanted: Selection) -> list[dict[str, Any]]:
        """Return machines, dead ones too as long as Ray remembers them."""
        ...

    async def tasks(self, wanted: Selection) -> list[dict[str, Any]]:
        """Return tasks."""
        ...

    async def actors(self, wanted: Selection) -> list[dict[str, Any]]:
        """Return actors."""
        ...

    async def serve_applications(self) -> list[dict[str, Any]]:
        """Return the applications that Ray Serve runs."""
        ...

    async def delete_serve_application(self, name: str) -> None:
        """Take an application down; harmless when there is none of this name."""
        ...

    async def machines(self, max_age_s: float) -> list[dict[str, Any]]:
        """Return living machines with what is in use of each, as the gateway shows them."""
        ...

    async def loads(self, max_age_s: float) -> list[NodeLoad]:
        """Return living machines as the policy looks at them."""
        ...

    async def collected_at(self) -> float:
        """Return when `machines` was last asked of Ray, in seconds since 1970."""
        ...
