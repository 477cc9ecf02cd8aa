"""What the gateway stands on."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from agentray.config import Settings
from agentray.gateway.cluster_parts import ClusterParts
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.ports import RunDispatcher, RunningHosts
from agentray.store.base import Store


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that a gateway is built from. They are opened and closed by their owner.

    Attributes:
        settings: limits, and the address that the gateway listens on.
        store: open.
        dispatcher: hands runs to hosts.
        ready: what `/readyz` asks.
        cluster: what runs jobs; None: there are no jobs here, and no views of the cluster.
        allowed_hosts: further names by which a gateway on a loopback address may be asked for,
            such as that of a proxy in front of it.
        manager: does what operators ask for; None: nothing does.
    """

    settings: Settings
    store: Store
    dispatcher: RunDispatcher
    ready: RunningHosts
    cluster: ClusterParts | None = None
    allowed_hosts: AbstractSet[str] = field(default_factory=frozenset[str])
    manager: ManagerClient | None = None
