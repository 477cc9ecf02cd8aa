"""One host as the manager keeps it: start, probes, end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from agentray.core.deaths import Death, DeathCause, death_of_silent
from agentray.core.reconcile import HostStatus
from agentray.core.room import Shortage
from agentray.core.supervision import Heartbeats
from agentray.errors import StartFailed
from agentray.protocol.deployment import PoolSpec
from agentray.protocol.snapshot import HostRef, Snapshot
from agentray.runtime.health import CHECK_S
from agentray.runtime.ports import HostControl, HostFactory, HostGone, HostUnreachable
from agentray.runtime.tasks import TaskSet

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
HEARTBEAT_TIMEOUT_S = 5.0
"""A busy host may be late; three misses in a row are not lateness."""

START_TIMEOUT_S = 120.0
"""How long a host may take to start, from when there is room for it. Importing a large framework
may take a minute."""

_LOOK_S = 0.5
"""How often a start that takes its time is asked about."""

_REATTACH_S = 0.5


class HostKeeper:
    """Starts a host, watches it with two probes, and stops it.

    The one probe is a call that ends only with the host: death is known in milliseconds. The other
    is a heartbeat that the event loop of the agents answers: a wedged loop is found. A host that
    cannot be reached for a moment is not dead.
    """

    def __init__(
        self,
        ref: HostRef,
        pool: str,
        grace_s: float,
        generation: int,
        factory: HostFactory,
        *,
        on_lost: Callable[[HostKeeper, str], None],
        on_pending: Callable[[], None],
    ) -> None:
        self.ref = ref
        self.pool = pool
        self.grace_s = grace_s  # for its agents when it is stopped
        self.generation = generation
        self.status = HostStatus.STARTING
        self.info: dict[str, Any] = {}
        self.told = -1  # version of the newest snapshot that it has taken
        self.avoids: frozenset[str] = frozenset()  # machines on which it must not be made
        self.meant_for: str | None = None  # machine that was chosen for it; None: none was
        self._factory = factory
        self.shortage: Shortage | None = None  # what it waits for while it is pending
        self._on_lost = on_lost
        self._on_pending = on_pending
        self._control: HostControl | None = None
        self._tasks = TaskSet(f"keeper of {ref.id}")
        self._heartbeats = Heartbeats()
        self._lost = False
        self.death: Death | None = None  # how it ended

    @property
    def control(self) -> HostControl:
        """The host itself; only once it was started or adopted."""
        if self._control is None:
            raise HostGone("It has not been started.")
        return self._control

    @property
    def node(self) -> str | None:
        """The machine on which it is; None: nobody knows yet."""
        return self.info.get("node_id")

    async def start(
        self, setup: bytes, pool: PoolSpec, avoid: Collection[str] = ()
    ) -> dict[str, Any]:
        """Make the host, but not on these machines; while there is no room for it, it is pending.

        Raises:
            StartFailed: it did not come up.
        """
        self.avoids = frozenset(avoid)
        try:
            self._control = await self._factory.create(self.ref, pool, avoid, self.meant_for)
            self.info = await self._until_started(self._control.start(setup), pool)
        except (HostGone, HostUnreachable) as error:
            raise StartFailed(f"Host {self.ref.id} ended while it started: {error}") from error
        return self.info

    async def _until_started(
        self, start: Coroutine[Any, Any, dict[str, Any]], pool: PoolSpec
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        starting = loop.create_task(start, name=f"start {self.ref.id}")
        since = loop.time()
        try:
            while not (await asyncio.wait((starting,), timeout=_LOOK_S))[0]:
                await self._look_for_room(pool)
                if self.shortage is not None:
                    since = loop.time()
                elif loop.time() - since > START_TIMEOUT_S:
                    raise StartFailed(
                        f"Host {self.ref.id} of the pool {pool.name!r} has had all the resources "
                        f"that it needs and did not start in {START_TIMEOUT_S:g} s."
                    )
            return await starting
        finally:
            starting.cancel()
            self._note(None)

    async def _look_for_room(self, pool: PoolSpec) -> None:
        try:
            self._note(await self._factory.shortage(self.ref, pool, self.avoids))
        except HostUnreachable as error:
            logger.warning("%s", error, extra={"action": "shortage_unknown"})

    def _note(self, shortage: Shortage | None) -> None:
        if shortage != self.shortage:
            self.shortage = shortage
            if self.status in (HostStatus.STARTING, HostStatus.PENDING):
                self.status = HostStatus.STARTING if shortage is None else HostStatus.PENDING
            self._on_pending()

    def room_was_made(self) -> None:
        """Take it for being started, until the next look."""
        self._note(None)

    async def adopt(self, control: HostControl, node: str | None) -> bool:
        """Take over a host that was started before, on a machine; False when it is dead."""
        self._control = control
        self.info = {"node_id": node}
        try:
            async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                self.info |= await control.heartbeat()
        except HostGone:
            return False
        except (HostUnreachable, TimeoutError):
            self._heartbeats.missed()  # as late as a busy one may be
        self.live()
        return True

    def live(self) -> None:
        """Begin to watch it."""
        self.status = HostStatus.LIVE
        self._tasks.spawn(self._time_and_again(self._until_death), name="death probe")
        self._tasks.spawn(self._time_and_again(self._beat), name="heartbeat")

    # Probes

    async def _time_and_again(self, look: Callable[[], Awaitable[None]]) -> None:
        """Look until it is lost; a look that fails is not the last one, whatever the reason."""
        while not self._lost:
            try:
                await look()
            except Exception:
                extra = {"action": "probe_failed", "host": self.ref.id}
                logger.exception("a look at a host failed", extra=extra)
                await asyncio.sleep(_REATTACH_S)

    async def _until_death(self) -> None:
        try:
            await self.control.until_death()
        except HostUnreachable:
            await self._look_at_node(missed_all=False)
            await asyncio.sleep(_REATTACH_S)
        except HostGone as error:
            self._report(str(error), error.death)

    async def _look_at_node(self, *, missed_all: bool) -> None:
        """Find out whether a host that does not answer has died: with its machine, or alone."""
        death = death_of_silent(await self._factory.sign_of(self.node), missed_all=missed_all)
        if death is not None:
            self._report(death.reason, death)

    async def _beat(self) -> None:
        await asyncio.sleep(HEARTBEAT_S)
        try:
            async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                self.info |= await self.control.heartbeat()
        except (HostUnreachable, TimeoutError):
            await self._look_at_node(missed_all=self._heartbeats.missed())
        except HostGone as error:
            self._report(str(error), error.death)
        else:
            self._heartbeats.answered()

    def _report(self, reason: str, death: Death | None) -> None:
        if not self._lost and self.status in (HostStatus.LIVE, HostStatus.DRAINING):
            self._lost = True
            self.death = death or Death(DeathCause.UNKNOWN, reason)
            self.status = HostStatus.DEAD
            self._on_lost(self, reason)

    async def end_probes(self) -> None:
        """Watch it no longer: it is dead."""
        await self._tasks.close()

    # Requests

    async def update(self, snapshot: Snapshot, epochs: Mapping[tuple[str, int], int]) -> None:
        """Bring it the snapshot and its leases; `TimeoutError` when it does not take them."""
        async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
            await self.control.update(snapshot, epochs)
        self.told = max(self.told, snapshot.version)

    async def load(self, code: Mapping[str, bytes]) -> dict[str, str]:
        """Bring it the apps' code; return why it cannot import some of them."""
        return await self.control.load(code)

    async def check(self, app: str) -> str:
        """Return what is wrong with an app there; of a host that is lost, its successor tells."""
        try:
            async with asyncio.timeout(CHECK_S + HEARTBEAT_TIMEOUT_S):
                return await self.control.check(app)
        except (HostGone, HostUnreachable, TimeoutError) as error:
            logger.warning("check: %s", error, extra={"action": "check_failed"})
            return ""

    async def release(
        self,
        pool: str,
        slots: Sequence[int],
        grace_s: float,
        on_left: Callable[[Sequence[int]], Awaitable[None]] | None = None,
    ) -> None:
        """Let it give slots up; one that is lost meanwhile has given up all.

        Args:
            pool: theirs.
            slots: which.
            grace_s: for what is under way there.
            on_left: called with those that have left, as they do; None: they leave together,
                and nobody takes them over before that.
        """
        staying = set(slots)
        try:
            async with asyncio.timeout(grace_s * 2 + HEARTBEAT_TIMEOUT_S):
                while staying and not self._lost:
                    left = await self.control.release(
                        pool, sorted(staying), grace_s, on_left is None
                    )
                    staying.difference_update(left)
                    if left and on_left is not None:
                        await on_left(left)
        except (HostGone, HostUnreachable, TimeoutError) as error:
            logger.warning("release: %s", error, extra={"action": "release_failed"})
            if staying and on_left is not None:
                await on_left(sorted(staying))

    async def end_runs(self, app: str, cancel: bool, wait_s: float) -> int:
        """Let its runs of an app end; a host that is lost has none."""
        try:
            async with asyncio.timeout(wait_s + HEARTBEAT_TIMEOUT_S):
                return await self.control.end_runs(app, cancel, wait_s)
        except (HostGone, HostUnreachable, TimeoutError) as error:
            logger.warning("end_runs: %s", error, extra={"action": "end_runs_failed"})
            return 0

    async def resident(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """Return agents in its memory; [] when it does not answer."""
        try:
            async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                return await self.control.resident(agent_type, limit)
        except (HostGone, HostUnreachable, TimeoutError) as error:
            logger.warning("agents: %s", error, extra={"action": "resident_failed"})
            return []

    async def stop(self, grace_s: float) -> None:
        """Let it finish within the grace, then end its process."""
        self._lost = True  # its end is no loss
        try:
            if self.status in (HostStatus.LIVE, HostStatus.DRAINING):
                async with asyncio.timeout(grace_s + 5):
                    await self.control.stop(grace_s)
        except (HostGone, HostUnreachable, TimeoutError) as error:
            logger.warning("stop: %s", error, extra={"action": "stop_failed"})
        self._factory.kill(self.ref)
        await self._tasks.close()

    async def abandon(self) -> None:
        """Watch it no more."""
        self._lost = True
        await self._tasks.close()

    def describe(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "id": self.ref.id,
            "pool": self.pool,
            "status": self.status.value,
            "pending": self.shortage.reason if self.shortage else "",
            "missed_heartbeats": self._heartbeats.misses,
            **{k: v for k, v in self.info.items() if k in _SHOWN},
        }


_SHOWN = frozenset(
    {
        "pid",
        "node_id",
        "agents",
        "runs",
        "runs_waiting",
        "load",
        "slots",
        "handled",
        "requests",
        "commits",
        "dropped",
        "blocked",
        "dead_letters",
        "dropped_traces",
    }
)
