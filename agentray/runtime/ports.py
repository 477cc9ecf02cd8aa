"""What the runtime's parts know of each other: narrow interfaces, so that each can stand alone."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from agentray.core.deaths import Death, NodeSign
from agentray.core.room import Shortage
from agentray.errors import AgentrayError
from agentray.ids import AgentId
from agentray.protocol.cursors import Cursor
from agentray.protocol.deployment import PoolSpec
from agentray.protocol.envelope import Packet
from agentray.protocol.runs import Run, RunEvent
from agentray.protocol.schedules import ScheduleSpec
from agentray.protocol.snapshot import HostRef, Snapshot, TypeView
from agentray.runtime.flight_record import Flight
from agentray.store.base import NewRun


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that is counted or measured.

    Attributes:
        name: `agentray_…`.
        kind: `counter`: it only rises; `gauge`: how much there is now.
        tags: by which it is told apart.
        help: what it is, in one sentence.
    """

    name: str
    kind: Literal["counter", "gauge"]
    tags: tuple[str, ...]
    help: str


class Reading(NamedTuple):
    """What a metric has come to.

    Attributes:
        name: of the metric.
        tags: its tags.
        value: of a counter, how much more it is than at the last reading.
    """

    name: str
    tags: Mapping[str, str]
    value: float


class MetricsPort(Protocol):
    """Takes readings to where they are kept."""

    async def report(self, readings: Sequence[Reading]) -> None:
        """Take readings; called every few seconds, with all that has changed."""
        ...


class HostGone(AgentrayError):
    """The host's process has ended; nothing that was under way there will answer.

    Attributes:
        death: how it ended; None: nobody looked.
    """

    def __init__(self, reason: str, death: Death | None = None) -> None:
        super().__init__(reason)
        self.death = death


class HostUnreachable(AgentrayError):
    """The host cannot be reached just now; whether the request arrived is unknown."""


class HostPort(Protocol):
    """A host as seen from another process. Every method raises `HostGone` or `HostUnreachable`."""

    async def deliver(self, packet: Packet) -> Packet:
        """Hand over envelopes; answers within a short grace with whatever replies are ready.

        Args:
            packet: a packed `protocol.envelope.Frame`; a batch seen before is not taken in again.

        Returns:
            A packed response: its number and replies (`runtime.outbox.read_response`).
        """
        ...

    async def collect(self, packet: Packet) -> Packet:
        """Wait until there are replies and return them, as `deliver` does."""
        ...

    def close(self) -> None:
        """Let go of the way there; the host itself goes on."""
        ...


class HostControl(HostPort, Protocol):
    """A host as the manager sees it."""

    async def start(self, setup: bytes) -> dict[str, Any]:
        """Make it ready to work; returns its process id and node."""
        ...

    async def update(self, snapshot: Snapshot, epochs: Mapping[tuple[str, int], int]) -> None:
        """Give it the newest snapshot and all the slots that it leases, with their epochs."""
        ...

    async def load(self, apps: Mapping[str, bytes]) -> dict[str, str]:
        """Let it know the code of these apps, by name; return why some cannot be imported."""
        ...

    async def check(self, app: str) -> str:
        """Return what is wrong with an app there; "": nothing."""
        ...

    async def release(
        self, pool: str, slots: Sequence[int], grace_s: float, together: bool
    ) -> Sequence[int]:
        """Let slots leave: their agents and runs finish what they do, at most for the grace.

        Args:
            pool: theirs.
            slots: which.
            grace_s: in seconds.
            together: nobody takes them over before all of them have left.

        Returns:
            Those that have left. It answers within a second or two: ask again for the others.
        """
        ...

    async def end_runs(self, app: str, cancel: bool, wait_s: float) -> int:
        """Wait until its runs of an app have ended, or cancel them; return how many are left."""
        ...

    async def heartbeat(self) -> dict[str, Any]:
        """Return counters; answered by the event loop that runs the agents."""
        ...

    async def until_death(self) -> str:
        """Never return; the error tells how the host ended."""
        ...

    async def resident(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """Return agents that are in its memory."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Finish what is under way within the grace, then let go of everything."""
        ...


class Connector(Protocol):
    """Finds hosts by name."""

    async def let_out(self, agent: AgentId) -> bool:
        """Let an agent out of quarantine; return whether it was in.

        Raises:
            ManagerUnavailable: the manager does not answer just now.
        """
        ...

    def connect(self, host: HostRef) -> HostPort:
        """Return the port of a host; a host that does not exist fails at its first call."""
        ...

    async def seat(self, agent: AgentId) -> Snapshot:
        """Have a host started for an isolated agent; return the snapshot that tells where.

        Raises:
            Overloaded: as many agents as its pool is for have one.
            ManagerUnavailable: the manager does not answer just now.
        """
        ...

    async def about(self, agent: AgentId, what: str) -> dict[str, Any] | None:
        """Return what there is to say of an isolated agent without a host; see `Manager.about`.

        Raises:
            ManagerUnavailable: the manager does not answer just now.
        """
        ...


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A machine of the cluster.

    Attributes:
        id: unique for as long as it belongs to the cluster.
        address: its name or number in the network.
        alive: it belongs to the cluster now.
        resources: what it has.
        free: what of that is not reserved, which may be a moment old.
    """

    id: str
    address: str
    alive: bool = True
    resources: Mapping[str, float] = field(default_factory=dict[str, float])
    free: Mapping[str, float] = field(default_factory=dict[str, float])


class HostFactory(Protocol):
    """Makes and ends hosts; the manager's hands."""

    async def nodes(self) -> Sequence[NodeInfo]:
        """Return the machines that belong to the cluster now.

        Raises:
            HostUnreachable: nobody can tell just now.
        """
        ...

    async def sign_of(self, node: str | None) -> NodeSign:
        """Return what can be seen of a machine, within a second or so; None: nobody knows which."""
        ...

    async def create(
        self, host: HostRef, pool: PoolSpec, avoid: Collection[str] = (), prefer: str | None = None
    ) -> HostControl:
        """Begin to start a host; it is there when its `start` has answered.

        Args:
            host: how it will be reached.
            pool: what it needs.
            avoid: ids of machines on which it must not be.
            prefer: id of the machine on which it shall be, if that is there and has room for it.

        Raises:
            ConfigurationError: what the pool asks for cannot be meant.
        """
        ...

    async def shortage(
        self, host: HostRef, pool: PoolSpec, avoid: Collection[str] = ()
    ) -> Shortage | None:
        """Return what a host that was created waits for; None: it has all that it needs.

        Raises:
            HostUnreachable: nobody can tell just now.
        """
        ...

    async def adopt(self, host: HostRef) -> HostControl | None:
        """Return a host that was started before; None: there is none of this name."""
        ...

    async def actors(self) -> Collection[str]:
        """Return the names of all living actors that may be hosts, whoever started them."""
        ...

    def flight(self, host: HostRef, *, hung: bool) -> Flight | None:
        """Return whose code a dead host ran; None: nobody can tell from here.

        Args:
            host: which.
            hung: it is not dead yet: its event loop does not turn.
        """
        ...

    def kill(self, host: HostRef) -> None:
        """End a host's process at once; harmless when it is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent belongs."""

    agent: AgentId
    pool: str
    slot: int


class RunDispatcher(Protocol):
    """Hands admitted runs to the hosts that lease their agents, and looks at running ones."""

    def place(
        self, agent_type: str | None, key: str | None, fresh_key: str, *, prompted: bool = True
    ) -> Place:
        """Find out where a prompt goes, or a request.

        Args:
            agent_type: its agent type; None: the entry of the deployed app.
            key: its key; None: `fresh_key`, an instance of its own for this run.
            fresh_key: the key used when there is none.
            prompted: it is a prompt; else a request of which it is known that the type takes it.

        Raises:
            UnknownAgentType: no such type; or None was given and no app has an entry.
            NoHandler: the type takes no prompts.
            DeploymentStopped: its app is stopped, or no host of its pool is up.
        """
        ...

    def agent_types(self) -> Mapping[str, TypeView]:
        """Return what is known of the agent types of all apps, by name."""
        ...

    async def newest(self) -> None:
        """Return when the agent types are known that there are now, as far as the manager answers.

        For who misses one: it may have been deployed a moment ago. Asked often, it takes longer.
        """
        ...

    def place_scheduled(self, spec: ScheduleSpec, run_id: str) -> Place:
        """Find out where a run of a schedule goes, whether or not its hosts are up.

        Args:
            spec: says who is prompted, as a type or type/key, or which event is dispatched.
            run_id: of the run.

        Raises:
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take it.
        """
        ...

    async def run(self, run: NewRun, *, held: bool = False) -> Run:
        """Give an admitted run to its host and return it when it has ended.

        Safe to repeat: a run that the host knows is joined, one that has ended is read. Cancelling
        this call leaves the run alone.

        Args:
            run: that was admitted.
            held: it waits for its turn in its session: it begins when that has come.

        Raises:
            DeploymentStopped: nowhere to run now; the manager gives it to a host later.
            ChannelClosed: this process is going away.
        """
        ...

    def watch(
        self, agent: AgentId, run_id: str, cursor: Cursor, wait_s: float
    ) -> Coroutine[Any, Any, list[RunEvent]]:
        """Return events that come after those seen, waiting up to `wait_s` for the first.

        The host is asked when this is called; what comes back is to be awaited.

        What is not in the Store yet says which attempt it belongs to; ends are in the Store.
        [] after `wait_s` without an event, or earlier where no host works on the run.

        Raises:
            CallError: the host cannot be asked now; read the Store instead.
        """
        ...

    async def join(self, agent: AgentId, run_id: str) -> Run:
        """Return a run when it has ended, or as it is when no host works on it.

        Raises:
            UnknownRun: there is none of this id.
            CallError: the host cannot be asked now.
        """
        ...

    def go_on(self, agent: AgentId, run_id: str) -> None:
        """Hand a run that was answered to its host; if that fails, the manager does it later."""
        ...

    async def cancel(self, agent: AgentId, run_id: str) -> Run:
        """Have a run's host end it as cancelled; return it when it has ended.

        Raises:
            DeploymentStopped: there is no host for it.
            CallError: the host cannot be asked now.
        """
        ...


class RunningHosts(Protocol):
    """What `/readyz` asks."""

    def ready(self) -> Sequence[str]:
        """Return what is missing before prompts can be served; empty when ready."""
        ...
